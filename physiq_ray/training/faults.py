"""What ends a training worker, in our words: memory, disk, checkpoint store."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from physiq_ray.config import Settings
from physiq_ray.errors import StorageError, TrainingError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """Turn a worker's fault into an error of ours with its remedy, where there is one."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory in training with batch_size={settings.batch_size}, "
            f"image_size={settings.image_size}: lower batch_size (gradient_accumulation keeps the "
            "photos of a step) or image_size"
        ) from error
    except OSError as error:
        remedy = "free space there" if error.errno in NO_SPACE else "check that it can be reached and written"
        raise StorageError(
            f"storage={settings.storage}: a checkpoint cannot be written or read: {error}; {remedy}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory from other faults; CPU allocations have no error type of their own."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
