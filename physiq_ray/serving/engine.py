"""Decoded photos → outputs, in one thread that does not wait for a full batch.

When the thread is free, it takes all photos that wait, up to max_batch_size: a single photo is computed at
once, and under load the batches fill by themselves. After a batch, it waits briefly for the same clients'
next photos. Otherwise the first is computed alone and the rest wait behind it. Serve's own `@serve.batch`
closes a batch before the previous one is done: without its waiting time, every batch has one photo, and with
it, every single photo waits.

This thread runs all of torch. A second thread with its own OpenMP team would compete for the same cores.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from physiq_ray.errors import PredictionError
from physiq_ray.images import UInt8Array
from physiq_ray.prediction.answer import NOT_FINITE, Float32Array
from physiq_ray.prediction.network import Forward

LOGGER = logging.getLogger("ray.serve")  # has the handlers and the format of the deployment

# The share of a batch's time for which the next batch waits, at most, and the base-2 logarithm of the largest
# number of batches from one wait to the next.
GATHER_SHARE = 0.2
LARGEST_PAUSE = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Computed:
    """The outputs of one photo, as of `Forward`, and the seconds that it waited and that its batch took."""

    outputs: Float32Array
    waited_s: float
    computed_s: float
    batch_size: int


@dataclass
class _Waiting:
    image: UInt8Array
    network: Forward
    future: "Future[Computed]" = field(default_factory=Future)
    since_s: float = field(default_factory=time.monotonic)


class Engine:
    """The computing thread of a replica; its methods may be called from any thread."""

    def __init__(self, *, max_batch_size: int, threads: int | None) -> None:
        """Start the thread; threads: of the network on a CPU, None keeps torch's number."""
        self._max_batch_size = max_batch_size
        self._waiting: deque[_Waiting] = deque()
        self._tasks: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._is_open = True
        self._last_size, self._last_s = 0, 0.0  # of the batch before
        self._answered_s = 0.0  # just before its clients were answered
        self._num_in_vain, self._num_pauses = 0, 0
        self._thread = threading.Thread(target=self._work, args=(threads,), name="engine", daemon=True)
        self._thread.start()

    def submit(self, image: UInt8Array, network: Forward) -> "Future[Computed]":
        """Queue one photo, uint8 (size, size, 3) of the network's size.

        The future raises PredictionError: the network failed, its output is not a number, or the engine is
        closed.
        """
        item = _Waiting(image, network)
        with self._changed:
            if not self._is_open:
                item.future.set_exception(PredictionError("the service is shutting down"))
                return item.future
            self._waiting.append(item)
            self._changed.notify()
        return item.future

    def call(self, task: Callable[[], T]) -> "Future[T]":
        """Run a function between two batches: everything else that computes belongs into this thread."""
        future: Future[T] = Future()
        with self._changed:
            if not self._is_open:
                future.set_exception(PredictionError("the service is shutting down"))
                return future
            self._tasks.append((task, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Compute the photos that wait, then end the thread."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    def _work(self, threads: int | None) -> None:
        while True:
            with self._changed:
                self._gather()
                self._changed.wait_for(partial(self._has, 1))
                if not (self._waiting or self._tasks):
                    return
                task = self._tasks.popleft() if self._tasks else None
                batch = [] if task else self._next_batch()
            if task:
                if threads is not None:
                    # Torch reads the number at a thread's first computation and keeps it. The loading thread
                    # may have set another one since.
                    torch.set_num_threads(threads)
                _run(*task)
            elif batch:
                started_s = time.monotonic()
                self._answered_s = _compute(batch)
                self._last_size, self._last_s = len(batch), self._answered_s - started_s

    def _gather(self) -> None:
        """Wait briefly for the next photos of the clients that have just been answered.

        Without the wait, clients that send one photo after the other would split into two groups, of which
        one waits while the photos of the other are computed, and each batch would have half of the photos.
        Photos of independent clients do not follow an answer. So after each wait in vain, twice as many
        batches are computed without one.
        """
        others = sum(item.since_s < self._answered_s for item in self._waiting)
        size = min(others + self._last_size, self._max_batch_size)
        waiting = len(self._waiting)
        if waiting >= size or size == 1:  # a full batch, or one client, whose photo is computed at once
            return
        if self._num_pauses:
            self._num_pauses -= 1
            return
        self._changed.wait_for(partial(self._has, size), GATHER_SHARE * self._last_s)
        self._num_in_vain = 0 if len(self._waiting) > waiting else min(self._num_in_vain + 1, LARGEST_PAUSE)
        self._num_pauses = 2**self._num_in_vain - 1

    def _has(self, size: int) -> bool:
        """Say whether to stop waiting for this number of photos."""
        return len(self._waiting) >= size or bool(self._tasks) or not self._is_open

    def _next_batch(self) -> list[_Waiting]:
        """Take the waiting photos of one network in their order, at most max_batch_size."""
        network = self._waiting[0].network
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        while self._waiting and len(batch) < self._max_batch_size:
            item = self._waiting.popleft()
            if item.network is not network:
                others.append(item)
            # False: the client is gone, and nobody waits for the answer.
            elif item.future.set_running_or_notify_cancel():
                batch.append(item)
        self._waiting.extendleft(reversed(others))
        return batch


def _run(task: Callable[[], Any], future: "Future[Any]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(task())
    except Exception as error:  # of any kind: the caller receives it, and the thread continues
        future.set_exception(error)


def _compute(batch: Sequence[_Waiting]) -> float:
    """Compute a batch and set its results; give the time of the monotonic clock before the first was set."""
    started_s = time.monotonic()
    try:
        images = torch.from_numpy(np.stack([item.image for item in batch]))  # (B, H, W, 3)
        outputs: Float32Array = batch[0].network.outputs(images).numpy()
        if len(outputs) != len(batch):
            raise ValueError(f"{len(outputs)} answers for {len(batch)} photos")
    except Exception as error:  # such as a lost GPU: the batch fails, and the thread continues
        failed_s = time.monotonic()
        LOGGER.exception("a batch of %d photos failed", len(batch))
        for item in batch:
            item.future.set_exception(PredictionError(f"the network failed: {error}"))
        return failed_s
    done_s = time.monotonic()
    for item, row in zip(batch, outputs, strict=True):
        if np.isfinite(row).all():
            item.future.set_result(Computed(row, started_s - item.since_s, done_s - started_s, len(batch)))
        else:
            item.future.set_exception(PredictionError(NOT_FINITE))
    return done_s
