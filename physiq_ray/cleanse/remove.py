"""Apply a plan: delete or move its photos in batches, several at a time, and write each photo to the journal.

50 000 photos take about as long as the server needs for 50 requests. After an interrupt no new batch starts;
running batches end and are written to the journal. The label files are checked before each batch: photos that
are labelled by then stay. A fault of one photo affects only that photo; after a batch in which every photo
was denied, the rest of the bucket is not tried.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.cleanse.journal import DELETING, MOVED, MOVING, Journal
from physiq_ray.cleanse.plan import BucketPlan, CleansePlan, Kept
from physiq_ray.cleanse.report import RemovalReport
from physiq_ray.errors import LabelError, SettingError, StorageError, shown
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
from physiq_ray.storage.refusal import find_missing_right
from physiq_ray.storage.versions import Target

BATCHES_AT_ONCE = 4
SMALL_BATCH = 50  # photos, if each needs a request of its own
THREADS = 16

OnProgress = Callable[[Bucket, int, int], None]  # a source, photos done, photos in all


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
    recheck = plan.recheck or (lambda: plan)
    return tuple(
        _BucketRemoval(bucket, journal, move_to, on_progress, recheck).run(
            allow_unconditional=allow_unconditional
        )
        for bucket in plan.buckets
        if bucket.table.num_rows
    )


class _BucketRemoval:
    """Removes the photos of one bucket."""

    def __init__(
        self,
        plan: BucketPlan,
        journal: Journal,
        move_to: Bucket | None,
        on_progress: OnProgress,
        recheck: Callable[[], CleansePlan],
    ) -> None:
        self.plan, self.journal, self.move_to, self.on_progress = plan, journal, move_to, on_progress
        self.recheck, self.latest = recheck, plan
        self.rest = plan.table  # not in any batch yet
        self.counts: Counter[State] = Counter()
        self.freed_bytes = 0
        self.changed: list[str] = []
        self.kept: list[Kept] = []
        self.failures: list[str] = []
        self.stopped: str | None = None
        self.missing_rights: set[str] = set()
        self.condition: Condition | None = None

    def run(self, *, allow_unconditional: bool) -> RemovalReport:
        try:
            self.condition = find_condition(self.plan.source)
        except StorageError as error:
            self.stopped = str(error)
            self._note_right(error)
            return self._result()
        if self.condition == Condition.LOOK and not allow_unconditional:
            self.stopped = (
                "this S3 server ignores the ETag of a deletion: a photo that is replaced at that moment "
                "would be lost. Nothing was deleted; --allow-unconditional checks each photo immediately "
                "before its deletion"
            )
            return self._result()
        by_thousands = self.condition == Condition.BATCH and self.move_to is None
        size, num_threads = (MAX_BATCH, BATCHES_AT_ONCE) if by_thousands else (SMALL_BATCH, THREADS)
        running: dict[Future[list[ObjectOutcome]], pa.Table] = {}
        with ThreadPoolExecutor(num_threads) as threads:
            while True:
                # Only as many as the threads can start: after a refusal, Ctrl-C or a new label, none waits.
                while len(running) < num_threads and (batch := self._next_batch(size)) is not None:
                    running[threads.submit(self._remove, batch, self.condition)] = batch
                if not running:
                    return self._result()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._count(running.pop(future), future.result())

    def _next_batch(self, size: int) -> pa.Table | None:
        """Give the next photos, none of which has a label now; None: there are no more, or it stopped."""
        if self.stopped is None and self.rest.num_rows:
            self._look_at_labels()
        if self.stopped is not None or not self.rest.num_rows:
            return None
        batch, self.rest = self.rest.slice(0, size), self.rest.slice(size)
        return batch

    def _look_at_labels(self) -> None:
        """Take photos out of the rest that the current labels keep; stop if these are not reliable."""
        try:
            plan = self.recheck()
        except LabelError as error:
            self.stopped = f"{error}; {self.rest.num_rows} photos were not tried; run cleanse again"
            return
        latest = next(bucket for bucket in plan.buckets if bucket.source == self.plan.source)
        if latest is self.latest:
            return
        self.latest = latest
        if latest.refusal is not None:
            self.stopped = (
                f"the label file changed: {latest.refusal}; {self.rest.num_rows} photos were not tried; "
                "run cleanse again"
            )
            return
        may_go = pc.is_in(self.rest["uri"], latest.table["uri"].combine_chunks())
        staying = set(self.rest["uri"].filter(pc.invert(may_go)).to_pylist())
        self.rest = self.rest.filter(may_go)
        self.kept += [kept for kept in plan.kept if kept.uri in staying]
        self._show()

    def _remove(self, batch: pa.RecordBatch, condition: Condition) -> list[ObjectOutcome]:
        """Delete one batch; the journal gets a line for each photo before and after."""
        photos = batch.to_pylist()
        targets = [Target(row["key"], row["etag"], row["size"]) for row in photos]
        bucket = self.plan.source.name
        self.journal.write(self._intent(row) for row in photos)
        outcomes: dict[str, ObjectOutcome] = {}
        if self.move_to is not None:
            for target in targets:
                to_key = _moved_key(self.move_to, bucket, target.key)
                problem = copy_object(bucket, target, self.move_to.name, to_key)
                if problem is not None:
                    outcomes[target.key] = problem
        to_delete = [target for target in targets if target.key not in outcomes]
        outcomes |= {outcome.key: outcome for outcome in delete_objects(bucket, to_delete, condition)}
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
            to_key = _moved_key(self.move_to, self.plan.source.name, row["key"])
            line |= {"state": MOVING, "moved_to": f"s3://{self.move_to.name}/{to_key}"}
        return line

    def _ending(self, outcome: ObjectOutcome) -> dict[str, Any]:
        is_moved = self.move_to is not None and outcome.state == State.DELETED
        line: dict[str, Any] = {
            "state": MOVED if is_moved else str(outcome.state),
            "uri": f"s3://{self.plan.source.name}/{outcome.key}",
        }
        if outcome.marker is not None:
            line["delete_marker"] = outcome.marker
        if outcome.error is not None:
            line["error"] = outcome.error
        return line

    def _count(self, batch: pa.Table, outcomes: Sequence[ObjectOutcome]) -> None:
        for outcome, size in zip(outcomes, batch["size"].to_pylist(), strict=True):
            self.counts[outcome.state] += 1
            uri = shown(f"s3://{self.plan.source.name}/{outcome.key}")
            if outcome.state == State.DELETED:
                self.freed_bytes += size
            elif outcome.state == State.CHANGED:
                self.changed.append(f"{uri} {outcome.error}")
            elif outcome.state == State.FAILED:
                self.failures.append(f"{uri}: {outcome.error}")
                self._note_right(outcome.fault)
        failed = [outcome for outcome in outcomes if outcome.state == State.FAILED]
        # A single refusal may concern only its photo: a tag, an owner, a part of the bucket.
        if failed and len(failed) == len(outcomes) and all(outcome.is_denied for outcome in failed):
            self.stopped = "S3 denied every photo of a batch; the rest was not tried"
        self._show()

    def _note_right(self, error: StorageError | None) -> None:
        if (right := find_missing_right(error)) is not None:
            self.missing_rights.add(right)

    def _show(self) -> None:
        done = sum(self.counts.values()) + len(self.kept)
        self.on_progress(self.plan.source, done, self.plan.table.num_rows)

    def _result(self) -> RemovalReport:
        return RemovalReport(
            self.plan.source,
            planned=self.plan.table.num_rows,
            deleted=self.counts[State.DELETED],
            freed_bytes=self.freed_bytes,
            changed=tuple(self.changed),
            gone=self.counts[State.GONE],
            kept=tuple(self.kept),
            failures=tuple(self.failures),
            stopped=self.stopped,
            missing_rights=frozenset(self.missing_rights),
            condition=self.condition,
        )


def _moved_key(move_to: Bucket, bucket: str, key: str) -> str:
    return f"{move_to.prefix}{bucket}/{key}"
