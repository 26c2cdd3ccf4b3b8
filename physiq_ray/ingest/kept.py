"""Prepared photos: decoded before the first epoch into Ray's object store, or into shards on disk.

Each process resolves all blocks or shards once and keeps them mapped. After that, a batch only copies its
rows, in any order: it needs no request to Ray, no unpickling and no index.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from physiq_ray.errors import StorageError
from physiq_ray.images import UInt8Array
from physiq_ray.ingest.batches import Allocate, Batch, IntArray, allocate
from physiq_ray.ingest.dataset import build_dataset, columns_of
from physiq_ray.ingest.reading import PhotoReader
from physiq_ray.ingest.tasks import keys_of, read_in_tasks
from physiq_ray.prepared import Cache, open_images
from physiq_ray.quarantine import Unreadable

OnProgress = Callable[[int], None]  # photos done since the last call


class Blocks(Protocol):
    """The place of the images. It is plain data, because it is sent to the workers."""

    def resolve(self) -> list[UInt8Array]:
        """Give the images of each block, uint8 (n, side, side, 3), without a copy.

        Raises StorageError: a shard is missing or damaged.
        """

    def in_use(self) -> AbstractContextManager[None]:
        """Protect the blocks from deletion inside the block."""


@dataclass(frozen=True)
class StoreBlocks:
    """Blocks in Ray's object store; this run owns them, and they are freed when it ends."""

    refs: tuple["ray.ObjectRef[pa.Table]", ...]

    def resolve(self) -> list[UInt8Array]:
        """Give the images of each block; blocks on other nodes are copied to this node once."""
        return [columns_of(block, ["image"])["image"] for block in ray.get(list(self.refs))]

    def in_use(self) -> AbstractContextManager[None]:
        """Do nothing: Ray keeps objects that have references."""
        return nullcontext()


@dataclass(frozen=True)
class ShardBlocks:
    """Shards on the disk of this node; `resolve` copies the shards that are not there yet."""

    cache: Cache
    names: tuple[str, ...]
    image_size: int

    def resolve(self) -> list[UInt8Array]:
        """Give the images of each shard, mapped into memory; a page is read when it is used."""
        folder = self.cache.fetch(self.names, self.image_size)
        return [open_images(folder, name) for name in self.names]

    def in_use(self) -> AbstractContextManager[None]:
        """Protect the shards from other runs that need space."""
        return self.cache.using(self.names)


@dataclass
class KeptPhotos:
    """The prepared photos of one split, in blocks.

    labels: int64 (N,), the class index of each row; places: int64 (N, 2), the block of its image and the row
    in that block, -1 for an unreadable photo.
    """

    blocks: Blocks
    labels: IntArray
    places: IntArray
    image_size: int
    unreadable: tuple[tuple[int, Unreadable], ...] = ()
    _images: list[UInt8Array] | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images that this process has mapped."""
        return {**self.__dict__, "_images": None}

    @property
    def num_rows(self) -> int:
        """The number of photos in the split, including the unreadable ones."""
        return len(self.places)

    def batches(self, rows: IntArray, batch_size: int, new: Allocate = allocate) -> Iterator[Batch]:
        """Give the rows in their order, in ⌈len(rows) / batch_size⌉ batches; new: allocates the images."""
        unreadable = dict(self.unreadable)
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            is_good = self.places[chosen, 0] >= 0
            good = chosen[is_good]
            bad = tuple((row, unreadable[row]) for row in chosen[~is_good].tolist())
            yield Batch(self._gather(good, new), self.labels[good], good, bad)

    def _gather(self, rows: IntArray, new: Allocate) -> UInt8Array:
        if self._images is None:
            self._images = self.blocks.resolve()
        images = new((len(rows), self.image_size, self.image_size, 3))
        # Rows are copied one at a time. Each copy is one memcpy that releases the interpreter's lock, so a
        # thread that starts GPU kernels waits for the lock for microseconds only.
        for index, (block, row) in enumerate(self.places[rows].tolist()):
            images[index] = self._images[block][row]
        return images


def keep_in_memory(
    table: pa.Table,
    *,
    image_size: int,
    reader: PhotoReader,
    decode_resource: str | None = None,
    on_progress: OnProgress = lambda _: None,
) -> KeptPhotos:
    """Fetch and decode the photos of a table into the object store.

    table: uri and size; etag and class_index are optional.
    """
    refs, counts = [], []
    dataset = build_dataset(table, image_size=image_size, decode_resource=decode_resource, reader=reader)
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            refs.append(entry.ref)
            counts.append(entry.metadata.num_rows)
            on_progress(entry.metadata.num_rows)
    find = ray.remote(num_cpus=0)(_find_unreadable)  # runs on the node of the block, which is not copied
    found = ray.get([find.remote(ref) for ref in refs])
    starts = np.cumsum([0, *counts])
    unreadable = tuple(
        (int(start) + row, item) for start, items in zip(starts, found, strict=False) for row, item in items
    )
    blocks = np.repeat(np.arange(len(counts)), counts)
    places = np.stack([blocks, np.arange(len(blocks)) - starts[blocks]], axis=1)
    places[[row for row, _ in unreadable]] = -1
    return KeptPhotos(StoreBlocks(tuple(refs)), _labels(table), places, image_size, unreadable)


def _find_unreadable(block: pa.Table) -> list[tuple[int, Unreadable]]:
    bad = pc.not_equal(block["error"], "")
    records = block.select(["uri", "step", "error"]).filter(bad).to_pylist()
    return [
        (row, Unreadable(**record))
        for row, record in zip(np.flatnonzero(bad.to_numpy()).tolist(), records, strict=True)
    ]


def _labels(table: pa.Table) -> IntArray:
    if "class_index" not in table.column_names:
        return np.full(table.num_rows, -1, np.int64)
    labels: IntArray = table["class_index"].to_numpy().astype(np.int64)
    return labels


def keep_on_disk(
    table: pa.Table,
    cache: Cache,
    *,
    image_size: int,
    reader: PhotoReader,
    decode_resource: str | None = None,
    on_progress: OnProgress = lambda _: None,
) -> KeptPhotos:
    """Find the photos of a table in the cache; fetch, decode and add those that are missing.

    Shards are added one at a time, so a preparation that was killed resumes where it stopped. A photo without
    an ETag and an unreadable photo are tried again in each run.
    table: as in `keep_in_memory`, with etag.
    Raises StorageError: a shard cannot be written.
    """
    uris, etags, keys = table["uri"].to_pylist(), table["etag"].to_pylist(), keys_of(table)
    found = cache.find((key for key, etag in zip(keys, etags, strict=True) if etag), image_size)
    places = np.full((len(keys), 2), -1, np.int64)
    for row, key in enumerate(keys):
        places[row] = found.places.get(key, (-1, -1))
    missing = np.flatnonzero(places[:, 0] < 0)
    on_progress(len(keys) - len(missing))
    names = list(found.names)
    unreadable: list[tuple[int, Unreadable]] = []
    rows = iter(missing.tolist())
    for block in read_in_tasks(
        table.take(pa.array(missing)),
        image_size=image_size,
        reader=reader,
        cache=cache,
        decode_resource=decode_resource,
    ):
        if failure := block["failure"][0].as_py():
            raise StorageError(failure)
        name = block["shard"][0].as_py()
        if name and name not in names:  # two tasks with the same photos write the same shard
            names.append(name)
        number = names.index(name) if name else -1
        for record in block.to_pylist():
            row = next(rows)
            if record["step"]:
                unreadable.append((row, Unreadable(uris[row], record["step"], record["error"])))
            else:
                places[row] = number, record["row"]
        on_progress(len(block))
    blocks = ShardBlocks(cache, tuple(names), image_size)
    return KeptPhotos(blocks, _labels(table), places, image_size, tuple(unreadable))
