"""Batches of photos for training, with the unreadable photos listed separately."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from physiq_ray.images import UInt8Array
from physiq_ray.quarantine import Unreadable

IntArray = npt.NDArray[np.int64]
Allocate = Callable[[tuple[int, ...]], UInt8Array]  # returns a uint8 array of a shape, for images


def allocate(shape: tuple[int, ...]) -> UInt8Array:
    """Allocate ordinary memory."""
    return np.empty(shape, np.uint8)


@dataclass(frozen=True)
class Batch:
    """The photos of one step, with the unreadable photos listed separately.

    images: uint8 (B, H, W, 3); labels: int64 (B,); rows: int64 (B,), the row of each photo in its table.
    B is 0 if no photo is readable. unreadable: pairs of row and error.
    """

    images: UInt8Array
    labels: IntArray
    rows: IntArray
    unreadable: tuple[tuple[int, Unreadable], ...] = ()


class Photos(Protocol):
    """The photos of one split; any process of the cluster can read them in any order."""

    @property
    def num_rows(self) -> int:
        """The number of photos in the split, including the unreadable ones."""

    @property
    def image_size(self) -> int:
        """The side of the square images in pixels."""

    @property
    def unreadable(self) -> tuple[tuple[int, "Unreadable"], ...]:
        """The photos that are known in advance to be unreadable, each with its row."""

    def batches(self, rows: IntArray, batch_size: int, new: Allocate = allocate) -> Iterator[Batch]:
        """Give the rows in their order, in ⌈len(rows) / batch_size⌉ batches; new: allocates the images."""
