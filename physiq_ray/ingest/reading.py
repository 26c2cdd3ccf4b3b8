"""How a task reads its photos: it fetches and decodes ahead and keeps their order. No Ray.

An unreadable photo keeps its row, with a black image and its error, so that every worker knows its number of
steps in advance.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from physiq_ray.errors import PhotoError, StorageError, UnreachableError
from physiq_ray.images import MAX_BYTES, UInt8Array, decode_square
from physiq_ray.near import HASH_PX, Hash
from physiq_ray.quarantine import Unreachable, Unreadable
from physiq_ray.storage import Access, read_bytes, use_access
from physiq_ray.storage.etag import check_num_bytes, failed_step
from physiq_ray.threads import map_ahead

# Each task fetches this far ahead of its decoder, so that decoding hides the latency of S3. The number of
# threads is the limit for thumbnails, the bytes are the limit for phone photos.
FETCH_THREADS, FETCH_AHEAD_BYTES = 16, 12 * 2**20
# Ray Data starts its second task a second after the first, and looks for finished tasks every 0.1 s. In these
# pauses the second decoders of the other tasks use the CPUs (0.77 of the decoder's speed instead of 0.67).
DECODE_THREADS = 2

Decode = Callable[..., UInt8Array]  # as decode_square, with data and size_px


class PhotoReader(Protocol):
    """Reads the bytes of photos. It is plain data, because it is sent to the processes of the tasks."""

    def read(self, uri: str, etag: str) -> bytes:
        """Read one whole photo, in the version that was listed.

        Raises StorageError: ChangedError, NotFoundError, or another one.
        """


@dataclass(frozen=True)
class StoredPhotos:
    """Photos in buckets and folders, read with the access of the process that lists them."""

    access: Access

    def read(self, uri: str, etag: str) -> bytes:
        """Read one photo with `read_bytes`."""
        use_access(self.access)
        return read_bytes(uri, etag=etag)


@dataclass(frozen=True)
class PhotosRead:
    """The photos of a task in their order.

    images: uint8 (n, size, size, 3) sRGB, black for an unreadable photo. steps, errors: n strings, "" for a
    readable photo. bits: n perceptual hashes, 0 for an unreadable photo and if none was asked for.
    is_unreachable: n times whether the storage gave no answer.
    """

    images: UInt8Array
    steps: list[str]
    errors: list[str]
    bits: list[int]
    is_unreachable: list[bool]


def read_photos(
    inputs: pa.Table,
    *,
    image_size: int,
    reader: PhotoReader,
    image_hash: Hash | None = None,
    outage_run: int | None = None,
    decode: Decode = decode_square,
) -> PhotosRead:
    """Fetch and decode photos; inputs: uri, size in bytes, and etag, which is optional.

    image_hash: compute this perceptual hash, too. outage_run: after so many unreachable photos in a row, the
    other photos are not tried, and are not in the result. decode: decodes each photo.
    """
    uris, sizes = inputs["uri"].to_pylist(), inputs["size"].to_pylist()
    etags = inputs["etag"].to_pylist() if "etag" in inputs.column_names else [""] * len(uris)
    images = np.zeros((len(uris), image_size, image_size, 3), np.uint8)
    steps, errors, bits, is_unreachable = [""] * len(uris), [""] * len(uris), [0] * len(uris), []
    fetched = fetch_ahead(reader, uris, sizes, etags)
    with closing(fetched), closing(_decode_ahead(uris, fetched, image_size, image_hash, decode)) as decoded:
        for index, result in enumerate(decoded):
            is_unreachable.append(isinstance(result, Unreachable))
            if isinstance(result, Unreadable):
                steps[index], errors[index] = result.step, result.error
            else:
                images[index], bits[index] = result
            if outage_run is not None and is_unreachable[-outage_run:] == [True] * outage_run:
                break
    end = len(is_unreachable)
    return PhotosRead(images[:end], steps[:end], errors[:end], bits[:end], is_unreachable)


def _fetch(reader: PhotoReader, uri: str, size: int, etag: str) -> bytes | Unreadable:
    if size > MAX_BYTES:
        return Unreadable(uri, "fetch", f"{size} bytes; at most {MAX_BYTES} are read")
    try:
        data = reader.read(uri, etag)
        if size and not etag:  # the size is 0 if the listing has none
            check_num_bytes(uri, size, len(data))
    except UnreachableError as error:
        return Unreachable(uri, failed_step(error), str(error))
    except StorageError as error:
        return Unreadable(uri, failed_step(error), str(error))
    except Exception as error:  # a process's edge: the caller's own source may raise any error
        return Unreadable(uri, "fetch", f"read {uri}: {type(error).__name__}: {error}")
    return data


def _decode(
    uri: str, data: bytes | Unreadable, image_size: int, image_hash: Hash | None, decode: Decode
) -> tuple[UInt8Array, int] | Unreadable:
    if isinstance(data, Unreadable):
        return data
    try:
        image = decode(data, size_px=image_size)
        if image_hash is None:
            return image, 0
        # A hash of another size would differ in some bits from those by which photos are grouped.
        return image, image_hash(image if image_size == HASH_PX else decode(data, size_px=HASH_PX))
    except PhotoError as error:
        return Unreadable(uri, "decode", str(error))


def fetch_ahead(
    reader: PhotoReader, uris: Sequence[str], sizes: Sequence[int], etags: Sequence[str]
) -> Generator[bytes | Unreadable, None, None]:
    """Give the bytes of the photos in order; fetch the next photos ahead, within FETCH_AHEAD_BYTES."""
    return map_ahead(
        lambda photo: _fetch(reader, *photo),
        zip(uris, sizes, etags, strict=True),
        num_threads=FETCH_THREADS,
        most_calls=2 * FETCH_THREADS,
        num_bytes=lambda photo: photo[1],
        most_bytes=FETCH_AHEAD_BYTES,
    )


def _decode_ahead(
    uris: Sequence[str],
    fetched: Iterable[bytes | Unreadable],
    image_size: int,
    image_hash: Hash | None,
    decode: Decode,
) -> Generator[tuple[UInt8Array, int] | Unreadable, None, None]:
    """Give the decoded photos in order; decode DECODE_THREADS at a time, as Pillow releases the GIL."""
    return map_ahead(
        lambda photo: _decode(*photo, image_size, image_hash, decode),
        zip(uris, fetched, strict=True),
        num_threads=DECODE_THREADS,
        most_calls=DECODE_THREADS + 1,  # one has ended, and its pixels are copied
    )
