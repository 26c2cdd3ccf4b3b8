"""The Ray Data tasks that fetch and decode photos: their number of photos and the resources they request.

Rows are {image: uint8 (size, size, 3) sRGB, label: int64, uri: string} plus {step, error}; label is missing
if the photos have no labels. An unreadable photo keeps its row, with a black image and its error.
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
from physiq_ray.ingest.isolated import read_in_task
from physiq_ray.ingest.reading import PhotoReader, StoredPhotos
from physiq_ray.storage import current_access

# Ray Data starts its second task a second after the first, and looks for finished tasks every 0.1 s. So a
# task should last seconds. But each CPU should have several tasks; otherwise all wait for the last one. A
# task returns one block: Ray Data lets it run only two blocks ahead of a loop that looks every 0.1 s, so
# small blocks of thumbnails would halve the speed.
TASKS_PER_CPU, TASK_IMAGE_BYTES, MIN_TASK_ROWS = 4, 64 * 2**20, 8
# The memory that a decode task requests: two photos of 64 megapixels at once, the bytes fetched ahead, and
# its block. If a node has less memory than all its CPUs would need, Ray runs fewer tasks at once.
TASK_MEMORY_BYTES = 512 * 2**20

# What a task may need of a photo: what it fetches, its label, and the key of the cache.
_NEEDED = ("uri", "size", "etag", "class_index")

# Takes the rows of a task, and the image size as a keyword; returns the block.
Read = Callable[..., pa.Table | dict[str, Any]]


def build_dataset(
    table: pa.Table,
    *,
    image_size: int,
    decode_resource: str | None = None,
    reader: PhotoReader | None = None,
    read: Read | None = None,
) -> ray.data.Dataset:
    """Describe the tasks that fetch and decode the photos of a table, in its order; nothing is read yet.

    table: uri, size and etag, as in the manifest or a listing. A photo that was replaced or deleted after the
    listing keeps its row, as `changed` or `gone`. class_index, if there is one, becomes label.
    decode_resource: the Ray resource of the nodes that decode. reader: reads the bytes; by default from
    buckets and folders, with the access of this process. read: the function that a task runs on its rows; by
    default `read_task`.
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
    """Describe one task for each block; the results are in the same order. See `build_dataset`."""
    dataset = ray.data.from_arrow([needed_columns(block) for block in blocks])
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
        # The amount is so small that the CPUs of the node are the limit.
        resources={decode_resource: 0.001} if decode_resource else None,
    )


def needed_columns(table: pa.Table) -> pa.Table:
    """Give the columns that a task reads, in one chunk each: of a manifest, they are half of its bytes."""
    return table.select([name for name in _NEEDED if name in table.column_names]).combine_chunks()


def read_task(inputs: pa.Table, *, image_size: int, reader: PhotoReader) -> dict[str, Any]:
    """Read the photos of one task into one block, which can be read later without a copy."""
    read = read_in_task(inputs, image_size=image_size, reader=reader)
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
    """Give the columns of a block as arrays; columns of numbers are not copied."""
    columns = ray.data.block.BlockAccessor.for_block(block).to_numpy(list(names))
    return dict(columns)


def _task_memory(nodes: Sequence[dict[str, float]]) -> int:
    """Give the bytes of memory that a task requests: at most half the memory of the largest node."""
    return int(min(TASK_MEMORY_BYTES, max((node.get("memory", 0) for node in nodes), default=0) / 2))


def task_rows(num_rows: int, image_size: int) -> int:
    """Give the number of photos of one task; num_rows: the photos that the whole cluster decodes."""
    cpus = sum(node.get("CPU", 0) for node in cluster_nodes())
    most = min(TASK_IMAGE_BYTES / (image_size**2 * 3), num_rows / (TASKS_PER_CPU * max(1, cpus)))
    return max(MIN_TASK_ROWS, math.ceil(most))
