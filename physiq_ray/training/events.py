"""What workers and controller report to the driver while a run lasts, and how it gets there.

They put events into a queue actor; a thread on the driver takes them out and hands them to what shows or
records them, so no line carries a worker's prefix. Events travel as bytes: otherwise the actor would import
this package, and torch with it, to hold a few numbers.
"""

import logging
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import UserCallback
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

POLL_S = 0.5


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


def make_queue() -> Queue:
    """Make the queue on this node: Ray could put it on a node with whose loss the table would end."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


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

    thread = threading.Thread(target=pump, name="events", daemon=True)
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
