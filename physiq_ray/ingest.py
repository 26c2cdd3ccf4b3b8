"""Manifest → decoded photos, by Ray Data, straight from the buckets.

Rows are {image: uint8 (size, size, 3) RGB, label: int64, uri: string} plus {step, error}, without label
where the photos have none. A photo that cannot be fetched or decoded keeps its row, black and with its error
said, so that every worker knows its number of steps beforehand; `Batch` then sets such rows aside for
quarantine.jsonl.

`open_photos` decides where epochs come from. Cached: decoded once into Ray's object store, size² · 3
bytes a photo (150 kB at 224 px); each batch is gathered from there in any order. Streamed: fetched and
decoded anew in each epoch, for data larger than the store. Both give the same batches for the same rows.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from physiq_ray.cluster import cluster_nodes, smallest_object_store
from physiq_ray.errors import PhotoError, StorageError, TrainingError
from physiq_ray.images import MAX_BYTES, UInt8Array, decode_square
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import Access, current_access, read_bytes, use_access
from physiq_ray.storage.etag import check_num_bytes, failed_step

IntArray = npt.NDArray[np.int64]

# Fetched ahead of the decoder in each task: enough to hide the way to S3 behind decoding, for thumbnails
# by their number, for phone photos by their bytes.
FETCH_THREADS, FETCH_AHEAD_BYTES = 16, 12 * 2**20
# Ray Data starts its second task a second after the first, and looks for finished ones every 0.1 s: the
# other tasks' second decoders use the CPUs meanwhile (0.77 of the decoder's speed in place of 0.67).
DECODE_THREADS = 2
# For the same reason a task should last seconds; yet each CPU should have several, or the last one is
# waited for. It gives back one block: Ray Data lets a task run two blocks ahead of a loop that looks every
# 0.1 s, so thumbnails in small blocks come at half the speed.
TASKS_PER_CPU, TASK_IMAGE_BYTES, MIN_TASK_ROWS = 4, 64 * 2**20, 8
# What a decode task may take of a node's memory: two photos of 64 megapixels side by side, what is fetched
# ahead, and its block. Where Ray counts less memory than it has CPUs for, fewer run at once.
TASK_MEMORY_BYTES = 512 * 2**20
# Two blocks of a task, and what else needs room: with less, Ray Data stands still.
MIN_STORE_BYTES = 128 * 2**20
# Of a node's object store: the rest is for blocks in flight, checkpoints and other users.
CACHE_SHARE = 0.5


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

    def batches(self, rows: IntArray, batch_size: int) -> Iterator[Batch]:
        """Give rows in their order, in ⌈len(rows) / batch_size⌉ batches."""


ReadTask = Callable[..., dict[str, Any]]  # as _read_task


class PhotoReader(Protocol):
    """Where the tasks take the photos' bytes from: plain data, as it travels to their processes."""

    def read(self, uri: str, etag: str) -> bytes:
        """Read one photo whole, of the version that was listed.

        Raises StorageError: ChangedError, NotFoundError, or another.
        """


@dataclass(frozen=True)
class StoredPhotos:
    """Buckets and folders, asked as the process that lists them does."""

    access: Access

    def read(self, uri: str, etag: str) -> bytes:
        """Read one photo: `read_bytes`."""
        use_access(self.access)
        return read_bytes(uri, etag=etag)


def build_dataset(
    table: pa.Table,
    *,
    image_size: int,
    decode_resource: str | None = None,
    reader: PhotoReader | None = None,
    read: ReadTask | None = None,
) -> ray.data.Dataset:
    """Describe fetching and decoding the photos of table, in their order; nothing is read yet.

    table: uri, size and etag, as in manifest or listing; photos that are another version by now keep their
    row as `changed` or `gone`. Its class_index, where there is one, becomes label.
    decode_resource: of the nodes that decode. reader: where the bytes come from; by default, buckets and
    folders, asked as this process does. read: what a task does with its rows; by default, that.
    """
    rows = _task_rows(table.num_rows, image_size)
    inputs = table.select(
        [name for name in ("uri", "size", "etag", "class_index") if name in table.column_names]
    )
    blocks = [inputs.slice(start, rows).combine_chunks() for start in range(0, table.num_rows, rows)]
    dataset = ray.data.from_arrow(blocks)
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True
    return dataset.map_batches(
        functools.partial(
            read or functools.partial(_read_task, reader=reader or StoredPhotos(current_access())),
            image_size=image_size,
        ),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        memory=_task_memory(cluster_nodes()) or None,
        # So little of it that a node's CPUs are the limit.
        resources={decode_resource: 0.001} if decode_resource else None,
    )


def _task_memory(nodes: Sequence[dict[str, float]]) -> int:
    """Give the bytes of memory to ask for: no more than half of what the largest node has."""
    return int(min(TASK_MEMORY_BYTES, max((node.get("memory", 0) for node in nodes), default=0) / 2))


def _task_rows(num_rows: int, image_size: int) -> int:
    cpus = sum(node.get("CPU", 0) for node in cluster_nodes())
    most = min(TASK_IMAGE_BYTES / (image_size**2 * 3), num_rows / (TASKS_PER_CPU * max(1, cpus)))
    return max(MIN_TASK_ROWS, math.ceil(most))


def _fetch(reader: PhotoReader, uri: str, size: int, etag: str) -> bytes | Unreadable:
    if size > MAX_BYTES:
        return Unreadable(uri, "fetch", f"{size} bytes; at most {MAX_BYTES} are read")
    try:
        data = reader.read(uri, etag)
        if size and not etag:  # 0 where nothing was listed
            check_num_bytes(uri, size, len(data))
    except StorageError as error:
        return Unreadable(uri, failed_step(error), str(error))
    except Exception as error:  # this is a process's edge: a source of the caller's own may raise anything
        return Unreadable(uri, "fetch", f"read {uri}: {type(error).__name__}: {error}")
    return data


def _decode(uri: str, data: bytes | Unreadable, image_size: int) -> UInt8Array | Unreadable:
    if isinstance(data, Unreadable):
        return data
    try:
        return decode_square(data, size_px=image_size)
    except PhotoError as error:
        return Unreadable(uri, "decode", str(error))


def _fetch_ahead(
    reader: PhotoReader, uris: Sequence[str], sizes: Sequence[int], etags: Sequence[str]
) -> Iterator[bytes | Unreadable]:
    """Give the photos' bytes in order, fetching those that follow meanwhile, within FETCH_AHEAD_BYTES."""
    with ThreadPoolExecutor(FETCH_THREADS) as threads:
        ahead: deque[tuple[Future[bytes | Unreadable], int]] = deque()
        ahead_bytes = next_row = 0
        while ahead or next_row < len(uris):
            while (
                next_row < len(uris)
                and len(ahead) < 2 * FETCH_THREADS
                and (not ahead or ahead_bytes + sizes[next_row] <= FETCH_AHEAD_BYTES)
            ):
                row = (uris[next_row], sizes[next_row], etags[next_row])
                ahead.append((threads.submit(_fetch, reader, *row), sizes[next_row]))
                ahead_bytes += sizes[next_row]
                next_row += 1
            future, size = ahead.popleft()
            yield future.result()
            ahead_bytes -= size


def _decode_ahead(
    uris: Sequence[str], fetched: Iterable[bytes | Unreadable], image_size: int
) -> Iterator[UInt8Array | Unreadable]:
    """Give the decoded photos in order, DECODE_THREADS at a time: Pillow lets go of the GIL."""
    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        ahead: deque[Future[UInt8Array | Unreadable]] = deque()
        for uri, data in zip(uris, fetched, strict=True):
            ahead.append(threads.submit(_decode, uri, data, image_size))
            if len(ahead) > DECODE_THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _read_task(inputs: pa.Table, *, image_size: int, reader: PhotoReader | None = None) -> dict[str, Any]:
    """Read one task's photos into one block, which is read later without being copied."""
    reader = reader or StoredPhotos(current_access())
    uris, sizes = inputs["uri"].to_pylist(), inputs["size"].to_pylist()
    etags = inputs["etag"].to_pylist() if "etag" in inputs.column_names else [""] * len(uris)
    images = np.zeros((len(uris), image_size, image_size, 3), np.uint8)
    steps, errors = [""] * len(uris), [""] * len(uris)
    for index, result in enumerate(_decode_ahead(uris, _fetch_ahead(reader, uris, sizes, etags), image_size)):
        if isinstance(result, Unreadable):
            steps[index], errors[index] = result.step, result.error
        else:
            images[index] = result
    columns: dict[str, Any] = {
        "image": images,
        "uri": np.array(uris, object),
        "step": np.array(steps, object),
        "error": np.array(errors, object),
    }
    if "class_index" in inputs.column_names:
        columns["label"] = inputs["class_index"].to_numpy().astype(np.int64)
    return columns


def _to_batch(columns: dict[str, Any], rows: IntArray) -> Batch:
    bad = np.flatnonzero(columns["error"] != "")
    if not len(bad):
        return Batch(columns["image"], columns["label"], rows)
    unreadable = tuple(
        (int(rows[i]), Unreadable(columns["uri"][i], columns["step"][i], columns["error"][i])) for i in bad
    )
    good = np.delete(np.arange(len(rows)), bad)
    return Batch(columns["image"][good], columns["label"][good], rows[good], unreadable)


@dataclass(frozen=True)
class StreamedPhotos:
    """Photos fetched and decoded on the way, in each epoch again; table: manifest rows."""

    table: pa.Table
    image_size: int
    reader: PhotoReader
    unreadable: tuple[tuple[int, Unreadable], ...] = ()
    decode_resource: str | None = None

    @property
    def num_rows(self) -> int:
        """Photos in the split."""
        return int(self.table.num_rows)

    def batches(self, rows: IntArray, batch_size: int) -> Iterator[Batch]:
        """Give rows in their order, in ⌈len(rows) / batch_size⌉ batches."""
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
            yield _to_batch(columns, rows[number * batch_size :][: len(columns["label"])])


@dataclass(frozen=True)
class CachedPhotos:
    """Decoded photos in the object store; ends: int64 (blocks,), the row after each block's last."""

    blocks: tuple[ray.ObjectRef[pa.Table], ...]
    ends: IntArray
    image_size: int
    unreadable: tuple[tuple[int, Unreadable], ...]

    @property
    def num_rows(self) -> int:
        """Photos in the split."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def batches(self, rows: IntArray, batch_size: int) -> Iterator[Batch]:
        """Give rows in their order, in ⌈len(rows) / batch_size⌉ batches."""
        unreadable = dict(self.unreadable)
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            good = np.array([row for row in chosen.tolist() if row not in unreadable], np.int64)
            bad = tuple((row, unreadable[row]) for row in chosen.tolist() if row in unreadable)
            yield self._gather(good, bad)

    def _gather(self, rows: IntArray, bad: tuple[tuple[int, Unreadable], ...]) -> Batch:
        images = np.empty((len(rows), self.image_size, self.image_size, 3), np.uint8)
        labels = np.empty(len(rows), np.int64)
        block_of_row = np.searchsorted(self.ends, rows, side="right")
        needed = np.unique(block_of_row)
        for number, block in zip(needed, ray.get([self.blocks[n] for n in needed]), strict=True):
            here = block_of_row == number
            columns = ray.data.block.BlockAccessor.for_block(block).to_numpy(["image", "label"])
            inside = rows[here] - (self.ends[number - 1] if number else 0)
            images[here], labels[here] = columns["image"][inside], columns["label"][inside]
        return Batch(images, labels, rows, bad)


def open_photos(
    table: pa.Table,
    *,
    image_size: int,
    cached: bool,
    decode_resource: str | None = None,
    reader: PhotoReader | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> CachedPhotos | StreamedPhotos:
    """Make one split readable; with cached, fetch and decode it now, saying how many photos each time.

    reader: as `build_dataset`'s.
    Raises TrainingError: a node's object store is too small to decode into.
    """
    _check_store(smallest_object_store())
    reader = reader or StoredPhotos(current_access())
    if not cached:
        return StreamedPhotos(table, image_size, reader, decode_resource=decode_resource)
    blocks, counts = [], []
    dataset = build_dataset(table, image_size=image_size, decode_resource=decode_resource, reader=reader)
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            blocks.append(entry.ref)
            counts.append(entry.metadata.num_rows)
            on_progress(entry.metadata.num_rows)
    ends = np.cumsum(counts, dtype=np.int64)
    find = ray.remote(num_cpus=0)(_find_unreadable)  # runs where the block lies: it is not copied here
    found = ray.get([find.remote(block) for block in blocks])
    unreadable = tuple(
        (int(end - count + row), item)
        for rows, end, count in zip(found, ends, counts, strict=True)
        for row, item in rows
    )
    return CachedPhotos(tuple(blocks), ends, image_size, unreadable)


def _find_unreadable(block: pa.Table) -> list[tuple[int, Unreadable]]:
    bad = pc.not_equal(block["error"], "")
    records = block.select(["uri", "step", "error"]).filter(bad).to_pylist()
    return [
        (row, Unreadable(**record))
        for row, record in zip(np.flatnonzero(bad.to_numpy()).tolist(), records, strict=True)
    ]


def decide_cache(setting: str, *, num_photos: int, image_size: int, store_bytes: int) -> tuple[bool, str]:
    """Decide whether decoded photos are kept; store_bytes: object store of the smallest node.

    Every node may come to hold all of them, since each worker reads them in random order.
    Returns (cached, a sentence that says why).
    """
    needed, room = num_photos * image_size**2 * 3, int(store_bytes * CACHE_SHARE)
    sizes = f"{num_photos} decoded photos take {needed / 2**20:.0f} MiB"
    if setting == "none":
        return False, "cache none: photos are fetched and decoded in each epoch"
    if setting == "object_store":
        return True, f"cache object_store: {sizes}"
    if needed <= room:
        return True, f"cache auto: {sizes}, which fit {room / 2**20:.0f} MiB: decoded once"
    return False, f"cache auto: {sizes}, more than {room / 2**20:.0f} MiB: decoded in each epoch"


def _check_store(store_bytes: int) -> None:
    if store_bytes < MIN_STORE_BYTES:
        raise TrainingError(
            f"a node's object store has {store_bytes / 2**20:.0f} MiB; decoding needs "
            f"{MIN_STORE_BYTES // 2**20} at least: start Ray with --object-store-memory 500000000 or more, "
            "or give /dev/shm more room"
        )
