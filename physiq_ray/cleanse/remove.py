"""Carry a plan out: delete or move its photos, batch by batch, side by side, and write down each.

50 000 photos take about as long as the server needs for 50 requests. Interrupted, no new batch is started;
those under way end and are written down. A bucket that refuses is left after the first refusal.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from physiq_ray.cleanse.journal import DELETING, MOVED, MOVING, Journal
from physiq_ray.cleanse.plan import BucketPlan, CleansePlan
from physiq_ray.errors import DeniedError, SettingError, StorageError
from physiq_ray.storage import Bucket
from physiq_ray.storage.removal import (
    MAX_BATCH,
    Condition,
    Outcome,
    State,
    Target,
    copy_object,
    delete_objects,
    find_condition,
)

BATCHES_AT_ONCE = 4
SMALL_BATCH = 50  # photos that are asked for one by one
THREADS = 16

OnProgress = Callable[[Bucket, int, int], None]  # a source, photos done, photos in all


@dataclass(frozen=True)
class Removal:
    """What came of one source's photos.

    deleted counts the moved ones too; changed and gone stay out of it. failures: "uri: reason".
    stopped: why the rest was not tried, None where all was.
    """

    source: Bucket
    planned: int
    deleted: int = 0
    freed_bytes: int = 0
    changed: tuple[str, ...] = ()
    gone: int = 0
    failures: tuple[str, ...] = ()
    stopped: str | None = None
    is_denied: bool = False
    condition: Condition | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing failed; what changed or was gone before is as it should be."""
        return not self.failures and self.stopped is None


def check_target(move_to: Bucket, sources: Sequence[Bucket]) -> None:
    """Refuse a place for moved photos in which the next scan would find them again. Raises SettingError."""
    for source in sources:
        if source.name == move_to.name and (
            source.prefix.startswith(move_to.prefix) or move_to.prefix.startswith(source.prefix)
        ):
            raise SettingError(
                f"--move-to {move_to}: {source} would be scanned with it; give another bucket or prefix"
            )


def remove_photos(
    plan: CleansePlan,
    journal: Journal,
    *,
    move_to: Bucket | None = None,
    allow_unconditional: bool = False,
    on_progress: OnProgress = lambda _source, _done, _total: None,
) -> tuple[Removal, ...]:
    """Delete the plan's photos, or move them to move_to's prefix, each under its bucket's name and key.

    Nothing is deleted of a bucket whose server does not honour a condition, unless allow_unconditional: then
    each photo is looked at just before. Raises CleanseError: the journal cannot be written.
    KeyboardInterrupt: after the batches under way.
    """
    return tuple(
        _Keeper(bucket, journal, move_to, on_progress).run(allow_unconditional=allow_unconditional)
        for bucket in plan.buckets
        if bucket.table.num_rows
    )


class _Keeper:
    """The removal of one bucket's photos."""

    def __init__(
        self, plan: BucketPlan, journal: Journal, move_to: Bucket | None, on_progress: OnProgress
    ) -> None:
        self.plan, self.journal, self.move_to, self.on_progress = plan, journal, move_to, on_progress
        self.counts: Counter[State] = Counter()
        self.freed_bytes = 0
        self.changed: list[str] = []
        self.failures: list[str] = []
        self.stopped: str | None = None
        self.is_denied = False
        self.condition: Condition | None = None

    def run(self, *, allow_unconditional: bool) -> Removal:
        try:
            self.condition = find_condition(self.plan.source)
        except StorageError as error:
            self.stopped, self.is_denied = str(error), isinstance(error, DeniedError)
            return self._result()
        if self.condition == Condition.LOOK and not allow_unconditional:
            self.stopped = (
                "this S3 server deletes whatever ETag is given: a photo written anew in this very moment "
                "would be lost. Nothing was deleted; --allow-unconditional looks at each photo just before"
            )
            return self._result()
        by_thousands = self.condition == Condition.BATCH and self.move_to is None
        size, num_threads = (MAX_BATCH, BATCHES_AT_ONCE) if by_thousands else (SMALL_BATCH, THREADS)
        batches = iter(self.plan.table.combine_chunks().to_batches(max_chunksize=size))
        running: dict[Future[list[Outcome]], pa.RecordBatch] = {}
        with ThreadPoolExecutor(num_threads) as threads:
            while True:
                # No more than the threads can begin: a refusal or Ctrl-C finds no batch waiting.
                while self.stopped is None and len(running) < num_threads and (batch := next(batches, None)):
                    running[threads.submit(self._remove, batch, self.condition)] = batch
                if not running:
                    return self._result()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._count(running.pop(future), future.result())

    def _remove(self, batch: pa.RecordBatch, condition: Condition) -> list[Outcome]:
        """Delete one batch, with a line in the journal a photo before and after."""
        photos = batch.to_pylist()
        targets = [Target(row["key"], row["etag"], row["size"]) for row in photos]
        bucket = self.plan.source.name
        self.journal.write(self._intent(row) for row in photos)
        outcomes: dict[str, Outcome] = {}
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

    def _ending(self, outcome: Outcome) -> dict[str, Any]:
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

    def _count(self, batch: pa.RecordBatch, outcomes: Sequence[Outcome]) -> None:
        for outcome, size in zip(outcomes, batch["size"].to_pylist(), strict=True):
            self.counts[outcome.state] += 1
            uri = f"s3://{self.plan.source.name}/{outcome.key}"
            if outcome.state == State.DELETED:
                self.freed_bytes += size
            elif outcome.state == State.CHANGED:
                self.changed.append(f"{uri} {outcome.error}")
            elif outcome.state == State.FAILED:
                self.failures.append(f"{uri}: {outcome.error}")
                if outcome.is_denied:
                    self.is_denied = True
                    self.stopped = "deletion is denied; the rest was not tried"
        self.on_progress(self.plan.source, sum(self.counts.values()), self.plan.table.num_rows)

    def _result(self) -> Removal:
        return Removal(
            self.plan.source,
            planned=self.plan.table.num_rows,
            deleted=self.counts[State.DELETED],
            freed_bytes=self.freed_bytes,
            changed=tuple(self.changed),
            gone=self.counts[State.GONE],
            failures=tuple(self.failures),
            stopped=self.stopped,
            is_denied=self.is_denied,
            condition=self.condition,
        )


def _moved_key(move_to: Bucket, bucket: str, key: str) -> str:
    return f"{move_to.prefix}{bucket}/{key}"
