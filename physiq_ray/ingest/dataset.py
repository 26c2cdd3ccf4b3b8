"""Fetching and decoding, described for Ray Data: how many photos a task takes, and what it asks for.

Rows are {image: uint8 (size, size, 3) sRGB, label: int64, uri: string} plus {step, error}, without label
where the photos have none. A photo that cannot be read keeps its row, black and with its error.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from physiq_ray.cluster import cluster_nodes
from physiq_ray.ingest.reading import PhotoReader, StoredPhotos, read_photos
from physiq_ray.storage import current_access

# Ray Data starts its second task a second after the first, and looks for finished ones every 0.1 s. So a task
# should last seconds; yet each CPU should have several, or the last one is waited for. It gives back one
# block: Ray Data lets a task run two blocks ahead of a loop that looks every 0.1 s, so thumbnails in small
# blocks come at half the speed.
TASKS_PER_CPU, TASK_IMAGE_BYTES, MIN_TASK_ROWS = 4, 64 * 2**20, 8
# What a decode task may take of a node's memory: two photos of 64 megapixels side by side, what is fetched
# ahead, and its block. Where Ray counts less memory than it has CPUs for, fewer run at once.
TASK_MEMORY_BYTES = 512 * 2**20

# Takes a task's rows and, by name, the image size; gives its block.
Read = Callable[..., pa.Table | dict[str, Any]]


def build_dataset(
    table: pa.Table,
    *,
    image_size: int,
    decode_resource: str | None = None,
    reader: PhotoReader | None = None,
    read: Read | None = None,
) -> ray.data.Dataset:
    """Describe fetching and decoding the photos of table, in their order; nothing is read yet.

    table: uri, size and etag, as in manifest or listing; photos that are another version by now keep their
    row as `changed` or `gone`. Its class_index, where there is one, becomes label.
    decode_resource: of the nodes that decode. reader: where the bytes come from; by default, buckets and
    folders, asked as this process does. read: what a task does with its rows; by default, that.
    """
    rows = task_rows(table.num_rows, image_size)
    blocks = [table.slice(start, rows) for start in range(0, table.num_rows, rows)]
    return describe_tasks(
        blocks, image_size=image_size, decode_resource=decode_resource, reader=reader, read=read
    )


def describe_tasks(
    blocks: Sequence[pa.Table],
    *,
    image_size: int,
    decode_resource: str | None = None,
    reader: PhotoReader | None = None,
    read: Read | None = None,
) -> ray.data.Dataset:
    """Describe one task for each block, their results in the same order; all else as `build_dataset`."""
    known = ("uri", "size", "etag", "class_index", "photo")
    dataset = ray.data.from_arrow(
        [
            block.select([name for name in known if name in block.column_names]).combine_chunks()
            for block in blocks
        ]
    )
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = True
    return dataset.map_batches(
        functools.partial(
            read or functools.partial(read_task, reader=reader or StoredPhotos(current_access())),
            image_size=image_size,
        ),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        memory=_task_memory(cluster_nodes()) or None,
        # So little of it that a node's CPUs are the limit.
        resources={decode_resource: 0.001} if decode_resource else None,
    )


def read_task(inputs: pa.Table, *, image_size: int, reader: PhotoReader) -> dict[str, Any]:
    """Read one task's photos into one block, which is read later without being copied."""
    read = read_photos(inputs, image_size=image_size, reader=reader)
    columns: dict[str, Any] = {
        "image": read.images,
        "uri": np.array(inputs["uri"].to_pylist(), object),
        "step": np.array(read.steps, object),
        "error": np.array(read.errors, object),
    }
    if "class_index" in inputs.column_names:
        columns["label"] = inputs["class_index"].to_numpy().astype(np.int64)
    return columns


def columns_of(block: Any, names: Sequence[str]) -> dict[str, Any]:
    """Give a block's columns as arrays, without copying those of numbers."""
    columns = ray.data.block.BlockAccessor.for_block(block).to_numpy(list(names))
    return dict(columns)


def _task_memory(nodes: Sequence[dict[str, float]]) -> int:
    """Give the bytes of memory to ask for: no more than half of what the largest node has."""
    return int(min(TASK_MEMORY_BYTES, max((node.get("memory", 0) for node in nodes), default=0) / 2))


def task_rows(num_rows: int, image_size: int) -> int:
    """Give the photos of one task, of so many that the whole cluster decodes."""
    cpus = sum(node.get("CPU", 0) for node in cluster_nodes())
    most = min(TASK_IMAGE_BYTES / (image_size**2 * 3), num_rows / (TASKS_PER_CPU * max(1, cpus)))
    return max(MIN_TASK_ROWS, math.ceil(most))
