"""Streamed photos: fetched and decoded again in each epoch, for data that fits into no cache.

A single worker runs the pipeline itself. Several workers share one pipeline in an actor, whatever their
number: Ray Data divides the CPUs of each node among its executors and rounds down (ray issue 59685), so one
executor per worker could leave all CPUs idle. The actor passes references; the images go from the object
store of the decoding task directly to that of the worker. The training and validation rows of an epoch are
one stream, so the first validation photos are decoded while the last training photos are trained on.
"""

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from physiq_ray.ingest.batches import Allocate, Batch, IntArray, allocate
from physiq_ray.ingest.dataset import build_dataset, columns_of, describe_tasks, task_rows
from physiq_ray.ingest.reading import PhotoReader
from physiq_ray.quarantine import Unreadable

Block = dict[str, Any]  # columns as arrays, from read_task


@dataclass(frozen=True)
class StreamedPhotos:
    """The photos of one split. table: the result of `needed_columns`, because it is sent to the workers."""

    table: pa.Table
    image_size: int
    reader: PhotoReader
    unreadable: tuple[tuple[int, Unreadable], ...] = ()
    decode_resource: str | None = None

    @property
    def num_rows(self) -> int:
        """The number of photos in the split."""
        return int(self.table.num_rows)

    def batches(self, rows: IntArray, batch_size: int, new: Allocate = allocate) -> Iterator[Batch]:
        """Give the rows in their order, in ⌈len(rows) / batch_size⌉ batches, from this process's pipeline."""
        if not len(rows):
            return
        dataset = build_dataset(
            self.table.take(pa.array(rows)),
            image_size=self.image_size,
            decode_resource=self.decode_resource,
            reader=self.reader,
        )
        stream = dataset.iter_batches(batch_size=batch_size, batch_format="numpy", prefetch_batches=2)
        for number, columns in enumerate(stream):
            yield to_batch(columns, rows[number * batch_size :][: len(columns["uri"])], new)


def to_batch(columns: Block, rows: IntArray, new: Allocate) -> Batch:
    """List the unreadable photos separately; copy the images only if new is not `allocate`."""
    bad = np.flatnonzero(columns["error"] != "")
    images, labels = columns["image"], columns["label"]
    unreadable = tuple(
        (int(rows[i]), Unreadable(columns["uri"][i], columns["step"][i], columns["error"][i])) for i in bad
    )
    if len(bad):
        good = np.delete(np.arange(len(rows)), bad)
        images, labels, rows = images[good], labels[good], rows[good]
    if new is not allocate:
        copy = new(images.shape)
        copy[:] = images
        images = copy
    return Batch(images, labels, rows, unreadable)


@dataclass(frozen=True)
class Share:
    """The rows that one worker reads in an epoch, by split, in its order."""

    rank: int
    world_size: int
    batch_size: int
    rows: Mapping[str, IntArray]


class SharedStream:
    """One pipeline for all workers of a run. It runs in an actor; its methods run in threads."""

    def __init__(self, splits: Mapping[str, StreamedPhotos]) -> None:
        self._splits = dict(splits)
        self._changed = threading.Condition()
        self._pulling = threading.Lock()
        self._key = ""
        self._shares: dict[int, Share] = {}
        self._bundles: Iterator[Any] | None = None
        self._owners: Iterator[tuple[int, str, int]] = iter(())
        self._waiting: dict[tuple[int, str], deque[tuple[Any, int]]] = {}
        self._due: dict[tuple[int, str], int] = {}
        self._owner: tuple[int, str] = (0, "")
        self._left = 0

    def begin(self, key: str, share: Share) -> None:
        """Receive the share of one worker; the pipeline starts when all shares have arrived.

        key: differs for each epoch and each start of the workers. A new key stops the rest of the previous
        epoch. The caller waits for this call before its first `take`.
        """
        with self._pulling, self._changed:
            if key != self._key:
                self._stop()
                self._key, self._shares = key, {}
            self._shares[share.rank] = share
            if len(self._shares) == share.world_size:
                self._start()
            self._changed.notify_all()

    def take(self, key: str, rank: int, split: str) -> list[Any]:
        """Give references to the next blocks of a split for a worker; the list is empty after the last block.

        Raises RuntimeError: another epoch has begun.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._key != key or self._bundles is not None)
        with self._pulling:
            if self._key != key:
                raise RuntimeError(f"epoch {key} of the stream is over")
            waiting = self._waiting[rank, split]
            if not self._due[rank, split]:  # another pull would take blocks of other workers too early
                return []
            while not waiting:
                self._pull()
            ref, num_rows = waiting.popleft()
            self._due[rank, split] -= num_rows
            return [ref]

    def _start(self) -> None:
        blocks, owners = [], []
        shares = [self._shares[rank] for rank in sorted(self._shares)]
        for split, photos in self._splits.items():
            rows = task_rows(sum(len(share.rows[split]) for share in shares), photos.image_size)
            for number in range(max(-(-len(share.rows[split]) // _step(rows, share)) for share in shares)):
                for share in shares:
                    step = _step(rows, share)
                    part = share.rows[split][number * step :][:step]
                    if len(part):
                        blocks.append(photos.table.take(pa.array(part)))
                        owners.append((share.rank, split, len(part)))
        first = next(iter(self._splits.values()))
        self._waiting = {(rank, split): deque() for rank in self._shares for split in self._splits}
        self._due = {
            (share.rank, split): len(share.rows[split]) for share in shares for split in self._splits
        }
        self._owners, self._left = iter(owners), 0
        dataset = describe_tasks(
            blocks,
            image_size=first.image_size,
            decode_resource=first.decode_resource,
            reader=first.reader,
        )
        self._bundles = iter(dataset.iter_internal_ref_bundles())

    def _pull(self) -> None:
        """Put the next blocks of the pipeline into the queues of their workers."""
        assert self._bundles is not None
        for entry in next(self._bundles).blocks:
            if not self._left:
                rank, split, self._left = next(self._owners)
                self._owner = rank, split
            self._left -= entry.metadata.num_rows
            self._waiting[self._owner].append((entry.ref, entry.metadata.num_rows))

    def _stop(self) -> None:
        if self._bundles is not None:
            close = getattr(self._bundles, "close", None)
            if close is not None:
                close()
        self._bundles = None


def _step(rows: int, share: Share) -> int:
    """Give the number of photos of one task of a worker: whole batches, so no batch spans two blocks."""
    return -(-rows // share.batch_size) * share.batch_size


def start_stream(splits: Mapping[str, StreamedPhotos], num_workers: int) -> Any:
    """Start the actor of the shared pipeline of a run on this node; it ends with its last handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(SharedStream)
        .options(num_cpus=0, max_concurrency=2 * num_workers + 2, scheduling_strategy=here)
        .remote(splits)
    )


def shared_batches(
    stream: Any, key: str, share: Share, split: str, new: Allocate = allocate
) -> Iterator[Batch]:
    """Give the batches of a split for one worker from the shared pipeline, one block ahead."""
    rows, done = share.rows[split], 0
    coming = stream.take.remote(key, share.rank, split)
    while refs := ray.get(coming):
        coming = stream.take.remote(key, share.rank, split)
        for block in ray.get(refs):
            columns = columns_of(block, ["image", "label", "uri", "step", "error"])
            for start in range(0, len(columns["uri"]), share.batch_size):
                batch = {name: column[start:][: share.batch_size] for name, column in columns.items()}
                yield to_batch(batch, rows[done:][: len(batch["uri"])], new)
                done += len(batch["uri"])
