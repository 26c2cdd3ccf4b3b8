"""Photos on the training device, ahead of the step.

A thread copies the next batches' rows into memory, which is pinned if the device is a GPU, and starts the
copies to the device. It computes nothing, and holds the interpreter's lock only to start copies. A split that
fits into a GPU's memory is copied there completely, and one kernel gathers each batch.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray
import torch
from torch import Tensor

from physiq_ray.images import UInt8Array
from physiq_ray.ingest import Batch, KeptPhotos, Photos, Share, shared_batches
from physiq_ray.ingest.batches import allocate
from physiq_ray.quarantine import Unreadable
from physiq_ray.training.measures import gather

IntArray = npt.NDArray[np.int64]
Item = TypeVar("Item")
OnUnreadable = Callable[[str, tuple[tuple[int, Unreadable], ...]], None]  # split, and photos by row

BATCHES_AHEAD = 2
LOAD_ROWS = 256
# Share of a GPU's free memory before the first step, for all splits. The rest is for activations.
GPU_SHARE = 0.3


@dataclass(frozen=True)
class Worker:
    """Which of a run's workers this is, and where it computes."""

    rank: int
    world_size: int
    device: torch.device


class Feed:
    """One worker's batches, epoch by epoch."""

    def __init__(
        self,
        photos: Mapping[str, Photos],
        worker: Worker,
        *,
        batch_size: int,
        stream: Any = None,
        on_unreadable: OnUnreadable = lambda _split, _photos: None,
    ) -> None:
        """stream: the actor of the shared pipeline (`start_stream`), if there is one."""
        self._photos, self._worker, self._stream = photos, worker, stream
        self._batch_size, self._on_unreadable = batch_size, on_unreadable
        self._resident: dict[str, tuple[Tensor, Tensor]] = {}
        self._rows: Mapping[str, IntArray] = {}
        self._key = ""
        self._waited_s = 0.0
        # Restarted workers must not take the batches of the workers that they replace.
        self._start_id = gather(secrets.token_hex(8))[0] if stream is not None else ""

    @property
    def waited_s(self) -> float:
        """The seconds that the caller has waited for batches."""
        return self._waited_s

    @property
    def needed_bytes(self) -> int:
        """The size of all splits as decoded images."""
        return sum(photos.num_rows * photos.image_size**2 * 3 for photos in self._photos.values())

    def load_all(self) -> None:
        """Copy every split to the device; from then on all batches are gathered there."""
        for split, photos in self._photos.items():
            side = photos.image_size
            images = torch.zeros(
                (photos.num_rows, side, side, 3), dtype=torch.uint8, device=self._worker.device
            )
            labels = torch.full((photos.num_rows,), -1, device=self._worker.device)
            unreadable = [row for row, _ in photos.unreadable]
            readable = np.setdiff1d(np.arange(photos.num_rows), np.array(unreadable, np.int64))
            for batch in photos.batches(readable, LOAD_ROWS):
                rows = torch.from_numpy(batch.rows).to(self._worker.device)
                images[rows] = torch.from_numpy(batch.images).to(self._worker.device)
                labels[rows] = torch.from_numpy(batch.labels).to(self._worker.device)
            self._resident[split] = images, labels

    def fits_device(self) -> bool:
        """Tell whether each rank's GPU has room for all splits; equal on all ranks, False without GPUs."""
        fits = self._worker.device.type == "cuda" and all(
            isinstance(photos, KeptPhotos) for photos in self._photos.values()
        )
        if fits:
            free, _ = torch.cuda.mem_get_info(self._worker.device)
            fits = self.needed_bytes <= GPU_SHARE * free
        return all(gather(fits))

    def begin(self, epoch: int, rows: Mapping[str, IntArray]) -> None:
        """Announce which rows of each split this worker reads in an epoch, before it reads any."""
        self._rows = rows
        if self._stream is not None:
            self._key = f"{self._start_id}-{epoch}"
            # Wait for it: the actor's threads may run a later call first.
            ray.get(self._stream.begin.remote(self._key, self._share()))

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Give uint8 images (B, H, W, 3) and labels (B,) on the device, in the order of the epoch's rows.

        An unreadable photo is left out and passed to on_unreadable.
        """
        if split in self._resident:
            return self._gathered(split)
        return self._timed(ahead(self._copied(split), self._worker.device))

    def _timed(self, batches: Iterator[Item]) -> Iterator[Item]:
        while True:
            started_s = time.monotonic()
            batch = next(batches, None)
            self._waited_s += time.monotonic() - started_s
            if batch is None:
                return
            yield batch

    def _gathered(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self._resident[split]
        rows = torch.from_numpy(self._rows[split])
        for part in torch.split(rows.to(self._worker.device), self._batch_size) if len(rows) else ():
            yield images.index_select(0, part), labels.index_select(0, part)

    def _copied(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Give batches; this runs in a thread of its own.

        It computes nothing: a second thread that calls torch's CPU kernels would start a second pool of
        OpenMP threads, and both pools would spin on the same cores.
        """
        device, pinned = self._worker.device, _Pinned()
        is_cuda = device.type == "cuda"
        for batch in self._read(split, pinned.new if is_cuda else allocate):
            self._on_unreadable(split, batch.unreadable)
            # Ray's object store gives read-only memory; torch warns unless it is writable.
            labels = torch.from_numpy(np.require(batch.labels, requirements="W"))
            if is_cuda:
                images = pinned.latest
                yield images.to(device, non_blocking=True), labels.pin_memory().to(device, non_blocking=True)
            else:
                images = torch.from_numpy(np.require(batch.images, requirements="W"))
                yield images.to(device), labels.to(device)

    def _read(self, split: str, new: Callable[[tuple[int, ...]], UInt8Array]) -> Iterator[Batch]:
        rows = self._rows[split]
        if self._stream is None:
            return self._photos[split].batches(rows, self._batch_size, new)
        return shared_batches(self._stream, self._key, self._share(), split, new)

    def _share(self) -> Share:
        return Share(self._worker.rank, self._worker.world_size, self._batch_size, self._rows)


class _Pinned:
    """Page-locked memory for one batch after another; torch reuses it after the copy."""

    def __init__(self) -> None:
        self.latest = torch.empty(0, dtype=torch.uint8)

    def new(self, shape: tuple[int, ...]) -> UInt8Array:
        self.latest = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return self.latest.numpy()


def ahead(items: Iterator[Item], device: torch.device) -> Iterator[Item]:
    """Prepare the next BATCHES_AHEAD items in a thread while the caller uses the last one."""
    # A new thread uses the first GPU of the node, whichever GPU the main thread uses (torch 58626).
    start = (lambda: torch.cuda.set_device(device)) if device.type == "cuda" else None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead", initializer=start) as thread:
        end = object()
        coming: deque[Future[Any]] = deque(thread.submit(next, items, end) for _ in range(BATCHES_AHEAD))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, items, end))
            yield item
