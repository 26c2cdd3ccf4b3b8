"""A shard: prepared photos of one size in one Arrow file, which is read by memory mapping.

The file's name is the SHA-256 of its bytes, cut to 128 bits. So a damaged or truncated file no longer matches
its name, two processes that prepare the same photos write the same file, and no file ever changes.
A photo is found by its key: 128 bits of BLAKE2b over its uri, size and ETag. The folder's name contains the
image side and the decoder version. A key reveals nothing about a photo, but an image shows a person, so only
the owner can read the files.
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
    """Give the key of each photo, 16 bytes; it depends on the uri, the size in bytes and the ETag."""
    return [
        hashlib.blake2b(f"{uri}\0{size}\0{etag}".encode(), digest_size=KEY_BYTES).digest()
        for uri, size, etag in zip(uris, sizes, etags, strict=True)
    ]


def write_shard(folder: Path, keys: Sequence[bytes], images: UInt8Array) -> str:
    """Write a shard into a folder, completely or not at all; give its name.

    keys: those of n photos; images: uint8 (n, side, side, 3).
    Raises OSError: no space, or no permission.
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
    """Read the keys of the photos in a shard, by row, without its images.

    Raises StorageError: the file is missing or is not a shard.
    """
    with _opened(folder, name) as batch:
        return list(batch.column("key").to_pylist())


def open_images(folder: Path, name: str) -> UInt8Array:
    """Map the images of a shard into memory, uint8 (n, side, side, 3), read-only.

    A page is read when it is used. Raises StorageError: the file is missing or is not a shard. Only
    `is_intact` finds other damage.
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
    """Tell whether the bytes of a shard match its name; all bytes are read.

    Raises OSError.
    """
    return checksum(path) == path.stem


def checksum(path: Path) -> str:
    """Give the shard name for the bytes of a file.

    Raises OSError.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[: 2 * KEY_BYTES]
