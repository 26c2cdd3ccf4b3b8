"""Apply a plan: delete or move its photos in batches, several at a time, and write each photo to the journal.

50 000 photos take about as long as the server needs for 50 requests. After an interrupt, the running batches
end and are written to the journal. Photos that are labelled before their batch starts stay (`batches`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from physiq_ray.cleanse.batches import SMALL_BATCH, THREADS, Batches, OnProgress
from physiq_ray.cleanse.journal import DELETING, MOVED, MOVING, Journal
from physiq_ray.cleanse.plan import BucketPlan, CleansePlan
from physiq_ray.cleanse.report import RemovalReport
from physiq_ray.errors import SettingError, StorageError
from physiq_ray.storage import Bucket
from physiq_ray.storage.copies import copy_object
from physiq_ray.storage.deletion import (
    MAX_BATCH,
    Condition,
    ObjectOutcome,
    State,
    delete_objects,
    find_condition,
)
from physiq_ray.storage.versions import Target

BATCHES_AT_ONCE = 4


def check_target(move_to: Bucket, sources: Sequence[Bucket]) -> None:
    """Refuse to move photos to a place where the next scan would find them. Raises SettingError."""
    for source in sources:
        if source.name == move_to.name and (
            source.prefix.startswith(move_to.prefix) or move_to.prefix.startswith(source.prefix)
        ):
            raise SettingError(
                f"--move-to {move_to}: a scan of {source} would find the moved photos; give another bucket "
                "or prefix"
            )


def remove_photos(
    plan: CleansePlan,
    journal: Journal,
    *,
    move_to: Bucket | None = None,
    allow_unconditional: bool = False,
    on_progress: OnProgress = lambda _source, _done, _total: None,
) -> tuple[RemovalReport, ...]:
    """Delete the plan's photos, or move each to move_to's prefix, under the name of its bucket and its key.

    If a server honours no condition, nothing is deleted from the bucket. With allow_unconditional each photo
    is checked immediately before its deletion instead. The plan's recheck decides before each batch what
    stays.
    Raises CleanseError: the journal cannot be written. KeyboardInterrupt: after the running batches.
    """
    return tuple(
        _BucketRemoval(bucket, journal, move_to, on_progress, plan.recheck).run(
            allow_unconditional=allow_unconditional
        )
        for bucket in plan.buckets
        if bucket.table.num_rows
    )


class _BucketRemoval(Batches):
    """Removes the photos of one bucket."""

    def __init__(
        self,
        plan: BucketPlan,
        journal: Journal,
        move_to: Bucket | None,
        on_progress: OnProgress,
        recheck: Callable[[], CleansePlan] | None,
    ) -> None:
        super().__init__(plan.source, plan.table, on_progress, plan=plan, recheck=recheck)
        self.journal, self.move_to = journal, move_to
        self.freed_bytes = 0
        self.condition: Condition | None = None

    def run(self, *, allow_unconditional: bool) -> RemovalReport:
        try:
            self.condition = find_condition(self.source)
        except StorageError as error:
            self.stopped = str(error)
            self.note_right(error)
            return self._result()
        if self.condition == Condition.LOOK and not allow_unconditional:
            self.stopped = (
                "this S3 server ignores the ETag of a deletion: a photo that is replaced at that moment "
                "would be lost. Nothing was deleted; --allow-unconditional checks each photo immediately "
                "before its deletion"
            )
            return self._result()
        by_thousands = self.condition == Condition.BATCH and self.move_to is None
        self.run_batches(*((MAX_BATCH, BATCHES_AT_ONCE) if by_thousands else (SMALL_BATCH, THREADS)))
        return self._result()

    def process(self, batch: pa.Table) -> list[ObjectOutcome]:
        """Delete one batch; the journal gets a line for each photo before and after."""
        assert self.condition is not None
        photos = batch.to_pylist()
        targets = [Target(row["key"], row["etag"], row["size"]) for row in photos]
        bucket = self.source.name
        self.journal.write(self._intent(row) for row in photos)
        outcomes: dict[str, ObjectOutcome] = {}
        if self.move_to is not None:
            for target in targets:
                to_key = _moved_key(self.move_to, bucket, target.key)
                problem = copy_object(bucket, target, self.move_to.name, to_key)
                if problem is not None:
                    outcomes[target.key] = problem
        to_delete = [target for target in targets if target.key not in outcomes]
        outcomes |= {outcome.key: outcome for outcome in delete_objects(bucket, to_delete, self.condition)}
        ended = [outcomes[target.key] for target in targets]
        self.journal.write(self._ending(outcome) for outcome in ended)
        return ended

    def _intent(self, row: Mapping[str, Any]) -> dict[str, Any]:
        line = {
            "state": DELETING,
            "uri": row["uri"],
            "size": row["size"],
            "etag": row["etag"],
            "modified": row["modified"].isoformat(),
        }
        if self.move_to is not None:
            to_key = _moved_key(self.move_to, self.source.name, row["key"])
            line |= {"state": MOVING, "moved_to": f"s3://{self.move_to.name}/{to_key}"}
        return line

    def _ending(self, outcome: ObjectOutcome) -> dict[str, Any]:
        is_moved = self.move_to is not None and outcome.state == State.DELETED
        line: dict[str, Any] = {
            "state": MOVED if is_moved else str(outcome.state),
            "uri": f"s3://{self.source.name}/{outcome.key}",
        }
        if outcome.marker is not None:
            line["delete_marker"] = outcome.marker
        if outcome.error is not None:
            line["error"] = outcome.error
        return line

    def count(self, batch: pa.Table, outcomes: Sequence[ObjectOutcome]) -> None:
        """Count the freed bytes too."""
        for outcome, size in zip(outcomes, batch["size"].to_pylist(), strict=True):
            if outcome.state == State.DELETED:
                self.freed_bytes += size
        super().count(batch, outcomes)

    def _result(self) -> RemovalReport:
        return RemovalReport(
            **self.common(),
            planned=self.photos.num_rows,
            deleted=self.counts[State.DELETED],
            freed_bytes=self.freed_bytes,
            condition=self.condition,
        )


def _moved_key(move_to: Bucket, bucket: str, key: str) -> str:
    return f"{move_to.prefix}{bucket}/{key}"
