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

# The share of a batch's time that the next batch waits, at most, for as many photos.
GATHER_SHARE = 0.1

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
        last_size, last_s = 1, 0.0
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._has, last_size), GATHER_SHARE * last_s)
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
                _compute(batch)
                # After a single photo, the next one is computed at once.
                last_size, last_s = len(batch), (time.monotonic() - started_s) * (len(batch) > 1)

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


def _compute(batch: Sequence[_Waiting]) -> None:
    started_s = time.monotonic()
    try:
        images = torch.from_numpy(np.stack([item.image for item in batch]))  # (B, H, W, 3)
        outputs: Float32Array = batch[0].network.outputs(images).numpy()
        if len(outputs) != len(batch):
            raise ValueError(f"{len(outputs)} answers for {len(batch)} photos")
    except Exception as error:  # such as a lost GPU: the batch fails, and the thread continues
        LOGGER.exception("a batch of %d photos failed", len(batch))
        for item in batch:
            item.future.set_exception(PredictionError(f"the network failed: {error}"))
        return
    computed_s = time.monotonic() - started_s
    for item, row in zip(batch, outputs, strict=True):
        if np.isfinite(row).all():
            item.future.set_result(Computed(row, started_s - item.since_s, computed_s, len(batch)))
        else:
            item.future.set_exception(PredictionError(NOT_FINITE))
