"""Carry out a plan for the photos of one source: in batches, several at a time, with the labels read again.

The label files are checked before each batch, and photos that are labelled by then leave the rest. A fault of
one photo affects only that photo; after a batch in which every photo was denied, the rest is not tried. After
an interrupt no new batch starts, and the running ones end.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.cleanse.plan import BucketPlan, CleansePlan, Kept
from physiq_ray.errors import LabelError, StorageError
from physiq_ray.storage import Bucket
from physiq_ray.storage.deletion import ObjectOutcome, State
from physiq_ray.storage.refusal import find_missing_right
from physiq_ray.storage.versions import shown_uri

SMALL_BATCH = 50  # photos, if each needs a request of its own
THREADS = 16

OnProgress = Callable[[Bucket, int, int], None]  # a source, photos done, photos in all


class Batches(ABC):
    """Photos of one source that are processed in batches, and what has happened to them.

    A subclass defines `process`. Without recheck, labels do not matter.
    """

    def __init__(
        self,
        source: Bucket,
        photos: pa.Table,
        on_progress: OnProgress,
        *,
        plan: BucketPlan | None = None,
        recheck: Callable[[], CleansePlan] | None = None,
    ) -> None:
        """Keep what is to be done. photos: LISTING_SCHEMA. plan, recheck: as in `CleansePlan`."""
        self.source, self.photos, self.on_progress = source, photos, on_progress
        self.latest, self.recheck = plan, recheck
        self.rest = photos  # not in any batch yet
        self.counts: Counter[State] = Counter()
        self.changed: list[str] = []
        self.kept: list[Kept] = []
        self.failures: list[str] = []
        self.stopped: str | None = None
        self.missing_rights: set[str] = set()

    @abstractmethod
    def process(self, batch: pa.Table) -> list[ObjectOutcome]:
        """Process one batch in a thread, and give an outcome for each photo, in their order."""

    def run_batches(self, size: int, num_threads: int) -> None:
        """Process the rest in batches of a size, until all is done or something stops it."""
        running: dict[Future[list[ObjectOutcome]], pa.Table] = {}
        with ThreadPoolExecutor(num_threads) as threads:
            while True:
                # Only as many as the threads can start: after a refusal, Ctrl-C or a new label, none waits.
                while len(running) < num_threads and (batch := self._next_batch(size)) is not None:
                    running[threads.submit(self.process, batch)] = batch
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self.count(running.pop(future), future.result())

    def _next_batch(self, size: int) -> pa.Table | None:
        """Give the next photos, none of which has a label now; None: there are no more, or it stopped."""
        if self.stopped is None and self.rest.num_rows:
            self.look_at_labels()
        if self.stopped is not None or not self.rest.num_rows:
            return None
        batch, self.rest = self.rest.slice(0, size), self.rest.slice(size)
        return batch

    def look_at_labels(self) -> None:
        """Take photos out of the rest that the current labels keep; stop if these are not reliable."""
        if self.recheck is None:
            return
        try:
            plan = self.recheck()
        except LabelError as error:
            self.stopped = f"{error}; {self.rest.num_rows} photos were not tried; run cleanse again"
            return
        latest = next(bucket for bucket in plan.buckets if bucket.source == self.source)
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

    def count(self, batch: pa.Table, outcomes: Sequence[ObjectOutcome]) -> None:
        """Count what happened to the photos of a batch, and stop if S3 denied all of them."""
        for outcome in outcomes:
            self.counts[outcome.state] += 1
            uri = shown_uri(self.source.name, outcome.key)
            if outcome.state == State.CHANGED:
                self.changed.append(f"{uri} {outcome.error}")
            elif outcome.state == State.FAILED:
                self.failures.append(f"{uri}: {outcome.error}")
                self.note_right(outcome.fault)
        failed = [outcome for outcome in outcomes if outcome.state == State.FAILED]
        # A single refusal may concern only its photo: a tag, an owner, a part of the bucket.
        if failed and len(failed) == len(outcomes) and all(outcome.is_denied for outcome in failed):
            self.stopped = "S3 denied every photo of a batch; the rest was not tried"
        self._show()

    def common(self) -> dict[str, Any]:
        """Give the fields of a `SourceReport`."""
        return {
            "source": self.source,
            "changed": tuple(self.changed),
            "gone": self.counts[State.GONE],
            "kept": tuple(self.kept),
            "failures": tuple(self.failures),
            "stopped": self.stopped,
            "missing_rights": frozenset(self.missing_rights),
        }

    def note_right(self, error: StorageError | None) -> None:
        """Remember the right that is missing, if that is the cause of the error."""
        if (right := find_missing_right(error)) is not None:
            self.missing_rights.add(right)

    def _show(self) -> None:
        done = sum(self.counts.values()) + len(self.kept)
        self.on_progress(self.source, done, self.photos.num_rows)
