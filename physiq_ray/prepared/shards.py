"""A shard: decoded photos of one size in one Arrow file, read by memory-mapping it.

The file's name is the SHA-256 of its bytes, cut to 128 bits. So a damaged or cut file does not have its own
name any more, two processes that prepare the same photos write the same file, and no file ever changes.
A photo is found by its key: 128 bits of BLAKE2b over its uri, size and ETag. Image side and decoder version
are the folder's name. A key says nothing about a photo, but an image shows a person: files are readable by
their owner only.
"""

import hashlib
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from physiq_ray.errors import StorageError

UInt8Array = npt.NDArray[np.uint8]

SUFFIX = ".arrow"
TEMPORARY_SUFFIX = ".partial"
KEY_BYTES = 16


def photo_keys(uris: Sequence[str], sizes: Sequence[int], etags: Sequence[str]) -> list[bytes]:
    """Give each photo's key, 16 bytes: another for another uri, size in bytes, or ETag."""
    return [
        hashlib.blake2b(f"{uri}\0{size}\0{etag}".encode(), digest_size=KEY_BYTES).digest()
        for uri, size, etag in zip(uris, sizes, etags, strict=True)
    ]


def write_shard(folder: Path, keys: Sequence[bytes], images: UInt8Array) -> str:
    """Write a shard into a folder, whole or not at all; give its name.

    keys: of n photos; images: uint8 (n, side, side, 3).
    Raises OSError: no room, no right.
    """
    size = images[0].nbytes
    pixels = pa.py_buffer(np.ascontiguousarray(images))
    batch = pa.record_batch(
        [
            pa.array(keys, pa.binary(KEY_BYTES)),
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(images), [None, pixels]),
        ],
        names=["key", "image"],
    )
    partial = folder / f"{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    try:
        with (
            os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file,
            pa.ipc.new_file(pa.PythonFile(file, "w"), batch.schema) as writer,
        ):
            writer.write_batch(batch)
        name = checksum(partial)
        partial.replace(shard_path(folder, name))
    finally:
        partial.unlink(missing_ok=True)
    return name


def open_keys(folder: Path, name: str) -> list[bytes]:
    """Read the keys of a shard's photos, by row, and none of its images.

    Raises StorageError: it is not there, or no shard.
    """
    with _opened(folder, name) as batch:
        return list(batch.column("key").to_pylist())


def open_images(folder: Path, name: str) -> UInt8Array:
    """Map a shard's images into memory, uint8 (n, side, side, 3), read-only: pages are read as they are used.

    Raises StorageError: it is not there, or no shard. Other damage shows in `is_intact` only.
    """
    with _opened(folder, name) as batch:
        image = batch.column("image")
        size = image.type.byte_width
        side = math.isqrt(size // 3)
        pixels = np.frombuffer(image.buffers()[1], np.uint8, len(batch) * size)
        return pixels.reshape(len(batch), side, side, 3)


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[pa.RecordBatch]:
    path = shard_path(folder, name)
    try:
        yield pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise StorageError(f"read prepared photos {path}: {error}; run the same command again") from error


def shard_path(folder: Path, name: str) -> Path:
    """Give the path of a shard in a folder."""
    return folder / f"{name}{SUFFIX}"


def is_intact(path: Path) -> bool:
    """Tell whether a shard's bytes are those that its name was made of; all of them are read.

    Raises OSError.
    """
    return checksum(path) == path.stem


def checksum(path: Path) -> str:
    """Give the name that a file of these bytes has.

    Raises OSError.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[: 2 * KEY_BYTES]
