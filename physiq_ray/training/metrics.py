"""A run's metrics for Prometheus, through Ray, which puts ray_ in front of their names.

The driver exports them from the events that it receives anyway. So they cost the workers nothing, and they
end with the driver. Ray drops a gauge that nobody has set for half a minute. A thread sets all gauges again,
so that they do not end when a training hangs and no events arrive.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.util.metrics import Counter, Gauge

from physiq_ray.constants import TRAIN, VALIDATION
from physiq_ray.training.events import BatchProgress, EpochDone, Event

REFRESH_S = 5.0


@contextmanager
def exported(run_name: str) -> Iterator[Callable[[Event], None]]:
    """Give the event handler that exports a run's metrics; Ray must be connected."""
    metrics, is_done = TrainingMetrics(run_name), threading.Event()

    def refresh() -> None:
        while not is_done.wait(REFRESH_S):
            metrics.refresh()

    thread = threading.Thread(target=refresh, name="metrics", daemon=True)
    thread.start()
    try:
        yield metrics.handle
    finally:
        is_done.set()
        thread.join()
        metrics.end()


class TrainingMetrics:
    """The metrics of one run."""

    def __init__(self, run_name: str) -> None:
        """Register them, with the run's name as a tag."""
        self._run_name = run_name
        self._latest: dict[tuple[int, str], BatchProgress] = {}  # by rank and split
        self._waited_s: dict[int, float] = {}  # by rank
        self._values: dict[tuple[Gauge, str], float] = {}  # by gauge and split
        self._running = Gauge(
            "physiq_train_running",
            description="1 while epochs are trained, 0 before and after.",
            tag_keys=_keys("run"),
        )
        self._epochs = Gauge(
            "physiq_train_epochs",
            description="Epochs that are trained, with the part of the present one.",
            tag_keys=_keys("run"),
        )
        self._photos = Counter(
            "physiq_train_photos",
            description="Photos that went through the network, by split.",
            tag_keys=_keys("run", "split"),
        )
        self._wait = Counter(
            "physiq_train_wait_seconds",
            description="Seconds that a worker has waited for photos.",
            tag_keys=_keys("run", "rank"),
        )
        self._loss = Gauge(
            "physiq_train_loss",
            description="Loss per photo in the last epoch, by split.",
            tag_keys=_keys("run", "split"),
        )
        self._accuracy = Gauge(
            "physiq_train_accuracy",
            description="Accuracy in the last epoch, 0 to 1, by split.",
            tag_keys=_keys("run", "split"),
        )
        self._set(self._running, 0)

    def handle(self, event: Event) -> None:
        """Export one event."""
        if isinstance(event, BatchProgress):
            self._export_progress(event)
        elif isinstance(event, EpochDone):
            for split in (TRAIN, VALIDATION):
                self._set(self._loss, event.metrics[f"{split}_loss"], split)
                self._set(self._accuracy, event.metrics[f"{split}_accuracy"], split)

    def refresh(self) -> None:
        """Set all gauges again."""
        for (gauge, split), value in list(self._values.items()):
            gauge.set(value, tags=self._tags(split))

    def end(self) -> None:
        """Say that no epoch is trained any more; the driver may still score the model for a while."""
        self._set(self._running, 0)

    def _export_progress(self, event: BatchProgress) -> None:
        rank, split = event.world_rank, event.split
        before = self._latest.get((rank, split))
        self._latest[rank, split] = event
        # Sums start at 0 in each epoch, and again if the worker was replaced.
        continues = before is not None and before.epoch == event.epoch
        known = before.num_photos if before is not None and continues else 0
        _add(self._photos, event.num_photos, known, self._tags(split))
        waited_s = self._waited_s.get(rank, 0.0)
        _add(self._wait, event.waited_s, waited_s, self._tags() | {"rank": str(rank)})
        self._waited_s[rank] = event.waited_s
        if split == TRAIN:
            present = [part for part in self._latest.values() if part.epoch == event.epoch]
            done = sum(part.num_photos for part in present if part.split == TRAIN)
            share = min(1.0, done / max(1, event.total))
            self._set(self._epochs, event.epoch - 1 + share)
        self._set(self._running, 1)

    def _set(self, gauge: Gauge, value: float, split: str = "") -> None:
        self._values[gauge, split] = value
        gauge.set(value, tags=self._tags(split))

    def _tags(self, split: str = "") -> dict[str, str]:
        return {"run": self._run_name} | ({"split": split} if split else {})


def _add(counter: Counter, value: float, known: float, tags: dict[str, str]) -> None:
    """Add what is new in a sum; a sum that is smaller than before has started again."""
    new = value - known if value >= known else value
    if new > 0:  # Ray refuses 0
        counter.inc(new, tags=tags)


def _keys(*names: str) -> Any:
    return names  # Any, because Ray declares the parameter as a tuple of one
