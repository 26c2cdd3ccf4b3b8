"""What training is given: batches of photos, those that cannot be read set aside."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from physiq_ray.images import UInt8Array
from physiq_ray.quarantine import Unreadable

IntArray = npt.NDArray[np.int64]
Allocate = Callable[[tuple[int, ...]], UInt8Array]  # gives a uint8 array of a shape to write images into


def allocate(shape: tuple[int, ...]) -> UInt8Array:
    """Give plain memory."""
    return np.empty(shape, np.uint8)


@dataclass(frozen=True)
class Batch:
    """Photos of one step, those that cannot be read set aside.

    images: uint8 (B, H, W, 3); labels: int64 (B,); rows: int64 (B,), the photos' places in their table.
    B is 0 where none could be read.
    """

    images: UInt8Array
    labels: IntArray
    rows: IntArray
    unreadable: tuple[tuple[int, Unreadable], ...] = ()


class Photos(Protocol):
    """One split's photos, readable in any order by any process of the cluster."""

    @property
    def num_rows(self) -> int:
        """Photos in the split, those that cannot be read included."""

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""

    @property
    def unreadable(self) -> tuple[tuple[int, "Unreadable"], ...]:
        """What is known beforehand to be unreadable, by row."""

    def batches(self, rows: IntArray, batch_size: int, new: Allocate = allocate) -> Iterator[Batch]:
        """Give rows in their order, in ⌈len(rows) / batch_size⌉ batches; new: makes the memory for images."""
