"""Read the photos of a task that Ray repeats, because its process or its node was lost.

A decoder in C can crash on damaged bytes. Then the task is lost with its process, and Ray Data repeats it for
ever. So a repeated task decodes in a process of its own, which a photo may crash: that photo is unreadable,
and the others are decoded. If the task is lost nevertheless, again and again, all its photos are unreadable.
"""

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray

from physiq_ray.errors import PhotoError
from physiq_ray.images import UInt8Array, decode_square
from physiq_ray.ingest.reading import Decode, PhotoReader, PhotosRead, read_photos
from physiq_ray.near import Hash

MAX_LOSSES: Final = 10  # of one task


class IsolatedDecoder:
    """Decodes one photo at a time in another process; may be called from any thread.

    A new process takes about a second to start.
    """

    def __init__(self) -> None:
        """Start no process yet."""
        self._lock = threading.Lock()
        self._pool = _new_pool()

    def __call__(self, data: bytes, *, size_px: int) -> UInt8Array:
        """Decode as `decode_square`; raises PhotoError, too, if the photo crashes the decoder."""
        with self._lock:
            try:
                return self._pool.submit(decode_square, data, size_px=size_px).result()
            except BrokenProcessPool:
                self.close()
                self._pool = _new_pool()
                raise PhotoError("crashes the decoder") from None

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def read_in_task(
    inputs: pa.Table,
    *,
    image_size: int,
    reader: PhotoReader,
    image_hash: Hash | None = None,
    outage_run: int | None = None,
) -> PhotosRead:
    """Read the photos of the task that runs here, as `read_photos` does."""
    num_losses = _num_losses()
    if num_losses >= MAX_LOSSES:
        count = inputs.num_rows
        return PhotosRead(
            images=np.zeros((count, image_size, image_size, 3), np.uint8),
            steps=["decode"] * count,
            errors=[f"the process that reads it and {count - 1} others ended {num_losses} times"] * count,
            bits=[0] * count,
            is_unreachable=[False] * count,
        )
    decoder: AbstractContextManager[Decode] = nullcontext(decode_square)
    if num_losses:
        decoder = closing(IsolatedDecoder())
    with decoder as decode:
        return read_photos(
            inputs,
            image_size=image_size,
            reader=reader,
            image_hash=image_hash,
            outage_run=outage_run,
            decode=decode,
        )


def _new_pool() -> ProcessPoolExecutor:
    # A fork of a process with threads may hang.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _num_losses() -> int:
    """Give how often the task that runs here was lost before: Ray has no public way to read it."""
    if not ray.is_initialized():
        return 0
    worker: Any = ray._private.worker.global_worker
    number: int = worker.core_worker.get_current_task_attempt_number()
    return number
