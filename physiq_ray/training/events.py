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
# The metric of a checkpoint in the middle of an epoch: the photos of the epoch so far.
PARTIAL_PHOTOS = "photos_of_partial_epoch"


@dataclass(frozen=True)
class BatchProgress:
    """One rank's sums since the start of an epoch's training or validation; total: photos of all ranks.

    waited_s: seconds that the rank has waited for photos since its process started.
    """

    epoch: int
    split: str
    world_rank: int
    num_photos: int
    loss_sum: float
    num_correct: int
    total: int
    waited_s: float = 0.0


@dataclass(frozen=True)
class EpochDone:
    """An epoch whose checkpoint is saved; metrics: as reported, over all ranks."""

    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Resumed:
    """Training resumes after these epochs, which were read from a checkpoint.

    num_photos: of the epoch after them, which resumes after these photos.
    """

    history: tuple[Mapping[str, Any], ...]
    num_photos: int = 0


@dataclass(frozen=True)
class Stalled:
    """A worker ends itself, because it did nothing for some seconds of an epoch."""

    world_rank: int
    epoch: int
    seconds: float


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str


Event = BatchProgress | EpochDone | Resumed | Stalled | Note


def make_queue() -> Queue:
    """Make the queue on this node: Ray could put it on a node with whose loss the table would end."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def send(queue: Queue, event: Event) -> "ray.ObjectRef[None]":
    """Put an event into the driver's queue without waiting; the returned reference can be waited for."""
    actor: Any = queue.actor
    sent: ray.ObjectRef[None] = actor.put_nowait.remote(pickle.dumps(event))
    return sent


@contextmanager
def received(queue: Queue, handlers: Sequence[Callable[[Event], None]]) -> Iterator[None]:
    """Pass the queue's events to all handlers, in a thread while inside; at the end, the remaining ones.

    A handler that fails (a terminal is gone, a symbol cannot be printed) does not keep events from others.
    """
    done = threading.Event()

    def pump() -> None:
        while True:
            finished = done.is_set()  # read before the queue: earlier events are still handled
            try:
                while True:
                    event = pickle.loads(queue.get(timeout=POLL_S))
                    for handle in handlers:
                        _hand_over(event, handle)
            except Empty:
                if finished:
                    return
            except RayError:  # the queue's process, which is on this node, has ended
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
    except Exception as error:  # the thread's edge: a display must not end the run
        logger.warning("%s not shown or written: %s", type(event).__name__, error)


class ReportEpochs(UserCallback):
    """Tell the driver of each checkpoint; the controller calls this after it registered the checkpoint."""

    def __init__(self, events: Queue) -> None:
        self._events = events

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Send the metrics of rank 0, which are a row of the table unless the epoch is not complete."""
        del run_context, checkpoint
        first = metrics[0]
        if PARTIAL_PHOTOS not in first:
            send(self._events, EpochDone(first))
            return
        text = (
            f"a node is about to be taken away: a checkpoint after {first[PARTIAL_PHOTOS]:,} photos of epoch "
        )
        send(self._events, Note(f"{text}{first['epoch']} is saved"))
