"""What a run shows while it lasts: the epoch table, live bars on a terminal, plain lines in a log.

Workers and controller put events into a queue actor; a thread on the driver takes them out and hands
them to the display, so nothing carries a worker's prefix. Events travel as bytes: the actor would else
import this package, and torch with it, to hold a few numbers.
"""

import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import UserCallback
from ray.util.queue import Empty, Queue
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

PLAIN_INTERVAL_S = 30.0
POLL_S = 0.5

_COLUMNS = (("Epoch", 7), ("Train Loss", 10), ("Train Acc", 9), ("Val Loss", 8), ("Val Acc", 8), ("Time", 8))


@dataclass(frozen=True)
class BatchProgress:
    """One rank's sums since the start of an epoch's training or validation; photos of all ranks: total."""

    epoch: int
    split: str
    world_rank: int
    num_photos: int
    loss_sum: float
    num_correct: int
    total: int


@dataclass(frozen=True)
class EpochDone:
    """An epoch whose checkpoint is safe; metrics as reported, loss and accuracy over all ranks."""

    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Resumed:
    """Training goes on after these epochs, read from a checkpoint."""

    history: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Stalled:
    """A worker ends itself: nothing was done in an epoch for some seconds."""

    world_rank: int
    epoch: int
    seconds: float


@dataclass(frozen=True)
class Note:
    """A sentence for whoever watches the run."""

    text: str


Event = BatchProgress | EpochDone | Resumed | Stalled | Note


class Display:
    """Print events on a console: bars where it is a terminal, else a line now and then."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds."""
        self.epochs = 0  # the most there can be; the run sets it when it knows its settings
        self._console = console
        self._clock = clock
        self._last_line_s = clock()
        self._header_shown = False
        self._sums: dict[int, BatchProgress] = {}
        self._phase = (0, "")
        self._bars: Progress | None = None
        self._task: TaskID | None = None

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep bars on the screen while inside, where the console is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[measures]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as self._bars:
            yield
        self._bars, self._task = None, None

    def count(self, description: str, done: int, total: int) -> None:
        """Show how far a step before training has come."""
        self._show(description, done, total, "")

    def handle(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, BatchProgress):
            self._show_batch(event)
        elif isinstance(event, EpochDone):
            self._show_row(event.metrics)
        elif isinstance(event, Note):
            self.note(event.text)
        elif isinstance(event, Stalled):
            self.note(
                f"worker {event.world_rank} has done nothing in epoch {event.epoch} for {event.seconds:g} s "
                "(stall_timeout_s) and is given up"
            )
        else:
            last = event.history[-1]["epoch"] if event.history else 0
            self._header_shown = False
            self.note(f"going on after epoch {last}")
            for metrics in event.history:
                self._show_row(metrics)

    def _show_batch(self, event: BatchProgress) -> None:
        if (event.epoch, event.split) != self._phase:
            self._phase, self._sums = (event.epoch, event.split), {}
            self._last_line_s = self._clock()
        self._sums[event.world_rank] = event
        photos = sum(part.num_photos for part in self._sums.values())
        loss = sum(part.loss_sum for part in self._sums.values()) / max(1, photos)
        accuracy = sum(part.num_correct for part in self._sums.values()) / max(1, photos)
        description = f"epoch {event.epoch}/{self.epochs} {event.split}"
        self._show(description, photos, event.total, f"loss {loss:.4f} acc {accuracy:6.2%}")

    def _show(self, description: str, done: int, total: int, measures: str) -> None:
        if self._bars is not None:
            if self._task is None:
                self._task = self._bars.add_task(description, total=total, measures=measures)
            restart = self._bars.tasks[0].description != description
            if restart:
                self._bars.reset(self._task, total=total)
            self._bars.update(
                self._task, completed=done, description=description, measures=measures, refresh=True
            )
        elif self._clock() - self._last_line_s >= PLAIN_INTERVAL_S:
            self._last_line_s = self._clock()
            self.note(f"  {description}: {done}/{total} photos {measures}".rstrip())

    def _show_row(self, metrics: Mapping[str, Any]) -> None:
        if not self._header_shown:
            self._header_shown = True
            self.note("  ".join(name.rjust(width) for name, width in _COLUMNS) + "  Status")
        cells = (
            f"{metrics['epoch']}/{self.epochs}",
            f"{metrics['train_loss']:.4f}",
            f"{metrics['train_accuracy']:.2%}",
            f"{metrics['validation_loss']:.4f}",
            f"{metrics['validation_accuracy']:.2%}",
            f"{metrics['seconds']:.1f} s",
        )
        row = "  ".join(cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
        self.note(f"{row}  {metrics['status']}")


def send(queue: Queue, event: Event) -> "ray.ObjectRef[None]":
    """Put an event into the driver's queue without waiting for it; what is given back can be waited for."""
    actor: Any = queue.actor
    sent: ray.ObjectRef[None] = actor.put_nowait.remote(pickle.dumps(event))
    return sent


@contextmanager
def received(queue: Queue, handlers: Sequence[Callable[[Event], None]]) -> Iterator[None]:
    """Hand the queue's events to all handlers in a thread while inside; at the end, what is left of them.

    What one handler cannot do (a terminal is gone, a symbol cannot be printed) takes no event from others.
    """
    done = threading.Event()

    def pump() -> None:
        while True:
            finished = done.is_set()  # asked before the queue is: what came until then is still shown
            try:
                while True:
                    event = pickle.loads(queue.get(timeout=POLL_S))
                    for handle in handlers:
                        _hand_over(event, handle)
            except Empty:
                if finished:
                    return
            except RayError:  # the queue's process is gone: it is on this node, and so is the run's end
                return

    thread = threading.Thread(target=pump, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)


def _hand_over(event: Event, handle: Callable[[Event], None]) -> None:
    try:
        handle(event)
    except Exception as error:  # this thread's edge: the run is worth more than what shows it
        logger.warning("%s not shown or written: %s", type(event).__name__, error)


class ReportEpochs(UserCallback):
    """Send the table's rows from the controller: it calls this once the checkpoint is registered."""

    def __init__(self, events: Queue) -> None:
        self._events = events

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Take what all ranks reported, of which rank 0's is shown."""
        del run_context, checkpoint
        send(self._events, EpochDone(metrics[0]))
