"""What ends a training worker, in our words: lack of memory, a full disk, or the checkpoint store."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ray.train import UserCallback

from physiq_ray.config import Settings
from physiq_ray.errors import StorageError, TrainingError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The texts of torch, CUDA's libraries, NCCL and Ray's memory monitor.
OUT_OF_MEMORY = (
    *("can't allocate memory", "out of memory", "OutOfMemory", "CUBLAS_STATUS_ALLOC_FAILED"),
    *("CUDNN_STATUS_ALLOC_FAILED", "due to the node running low on memory"),
)


@contextmanager
def memory_translated(settings: Settings) -> Iterator[None]:
    """Turn a lack of memory into a TrainingError with a remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(out_of_memory(settings)) from error


def out_of_memory(settings: Settings) -> str:
    """Give the message that memory ran out, with a remedy."""
    return (
        f"out of memory in training with batch_size={settings.batch_size}, image_size={settings.image_size}: "
        "lower batch_size (gradient_accumulation keeps the photos of a step) or image_size"
    )


@contextmanager
def store_translated(settings: Settings) -> Iterator[None]:
    """Turn an error of the disk or the checkpoint store into a StorageError with a remedy."""
    try:
        yield
    except OSError as error:
        remedy = "free space there" if error.errno in NO_SPACE else "check that it can be reached and written"
        raise StorageError(
            f"storage={settings.storage}: a checkpoint cannot be written or read: {error}; {remedy}"
        ) from error


@contextmanager
def partial_removed(uri: str) -> Iterator[None]:
    """Remove a checkpoint's folder if it cannot be written: the next attempt needs the space.

    uri: a path; for s3:// nothing is removed, because an object is complete or does not exist.
    """
    try:
        yield
    except OSError:
        if not uri.startswith("s3://"):
            shutil.rmtree(uri, ignore_errors=True)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is a lack of memory; many such errors have no type of their own."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        mark in str(error) for mark in OUT_OF_MEMORY
    )


class EndWithoutMemory(UserCallback):
    """End a run whose workers run out of memory before they finish an epoch: they would do so again.

    Ray restarts workers after any error, max_failures times; an error raised by a callback ends the run.
    After a finished epoch, another process may have taken the memory, so the workers are restarted.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._has_finished_epoch = False

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Note that these workers have enough memory for an epoch."""
        del run_context, metrics, checkpoint
        self._has_finished_epoch = True

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise TrainingError where a worker said that its memory was too small for its first epoch."""
        del run_context
        ours = [error for error in worker_exceptions.values() if isinstance(error, TrainingError)]
        if not self._has_finished_epoch and any(map(is_out_of_memory, ours)):
            raise TrainingError(out_of_memory(self._settings))
        self._has_finished_epoch = False
