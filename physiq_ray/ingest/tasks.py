"""Tasks of Ray Data that read photos and give no pixels: they hash photos, and add them to the cache on disk.

The driver receives a row for each photo, with its hash, its place in the cache, or why it is unreadable.
"""

import functools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import ray

from physiq_ray.errors import StorageError
from physiq_ray.ingest.dataset import build_dataset
from physiq_ray.ingest.isolated import read_in_task
from physiq_ray.ingest.reading import PhotoReader
from physiq_ray.near import load_hash
from physiq_ray.prepared import Cache, photo_keys


def keys_of(table: pa.Table) -> list[bytes]:
    """Give the cache keys of the photos; table: rows with uri, size and etag."""
    return photo_keys(*(table[name].to_pylist() for name in ("uri", "size", "etag")))


def read_in_tasks(
    table: pa.Table,
    *,
    image_size: int,
    reader: PhotoReader,
    cache: Cache | None = None,
    with_hashes: bool = False,
    outage_run: int | None = None,
    decode_resource: str | None = None,
) -> Iterator[pa.Table]:
    """Read photos, and give the table of each task, in the order of the photos; none of them is empty.

    table: uri, size and etag. image_size: the side to which photos are decoded. cache: each task adds its
    readable photos as one shard. outage_run: a task with so many unreachable photos in a row ends, so that
    its table is shorter. decode_resource: as in `build_dataset`.

    The columns of a table are step, error and is_unreachable; bits, uint64, the perceptual hash, or 0; and
    shard, row and failure: the name of the shard, the photo's row in it, and why it could not be written.
    """
    if not table.num_rows:
        return
    dataset = build_dataset(
        table,
        image_size=image_size,
        decode_resource=decode_resource,
        read=functools.partial(
            _read_task, reader=reader, cache=cache, with_hashes=with_hashes, outage_run=outage_run
        ),
    )
    for bundle in dataset.iter_internal_ref_bundles():
        yield from ray.get([entry.ref for entry in bundle.blocks])


def _read_task(
    inputs: pa.Table,
    *,
    image_size: int,
    reader: PhotoReader,
    cache: Cache | None,
    with_hashes: bool,
    outage_run: int | None,
) -> pa.Table:
    read = read_in_task(
        inputs,
        image_size=image_size,
        reader=reader,
        image_hash=load_hash() if with_hashes else None,
        outage_run=outage_run,
    )
    is_good = np.array([not step for step in read.steps])
    name = failure = ""
    if cache is not None and is_good.any():
        images = read.images if is_good.all() else read.images[is_good]
        keys = [key for key, good in zip(keys_of(inputs), is_good, strict=False) if good]
        try:
            name = cache.add(keys, images, image_size)
        except StorageError as error:
            failure = str(error)
    num_rows = len(is_good)
    return pa.table(
        {
            "step": pa.array(read.steps, pa.string()),
            "error": pa.array(read.errors, pa.string()),
            "is_unreachable": read.is_unreachable,
            "bits": pa.array(read.bits, pa.uint64()),
            "shard": pa.array([name] * num_rows, pa.string()),
            "row": np.cumsum(is_good) - 1,
            "failure": pa.array([failure] * num_rows, pa.string()),
        }
    )
