"""What a task does with its photos: fetch ahead, decode ahead, keep every photo's place. No Ray.

A photo that cannot be fetched or decoded keeps its row, black and with its error, so that every worker knows
its number of steps beforehand.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from physiq_ray.errors import PhotoError, StorageError
from physiq_ray.images import MAX_BYTES, UInt8Array, decode_square
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import Access, read_bytes, use_access
from physiq_ray.storage.etag import check_num_bytes, failed_step

# Fetched ahead of the decoder in each task: enough to hide the way to S3 behind decoding, for thumbnails
# by their number, for phone photos by their bytes.
FETCH_THREADS, FETCH_AHEAD_BYTES = 16, 12 * 2**20
# Ray Data starts its second task a second after the first, and looks for finished ones every 0.1 s: the
# other tasks' second decoders use the CPUs meanwhile (0.77 of the decoder's speed in place of 0.67).
DECODE_THREADS = 2


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


@dataclass(frozen=True)
class PhotosRead:
    """A task's photos in their order.

    images: uint8 (n, size, size, 3) sRGB, black where one cannot be read; steps, errors: n, "" where it can.
    """

    images: UInt8Array
    steps: list[str]
    errors: list[str]


def read_photos(inputs: pa.Table, *, image_size: int, reader: PhotoReader) -> PhotosRead:
    """Fetch and decode photos; inputs: uri, size in bytes, and etag where there is one."""
    uris, sizes = inputs["uri"].to_pylist(), inputs["size"].to_pylist()
    etags = inputs["etag"].to_pylist() if "etag" in inputs.column_names else [""] * len(uris)
    images = np.zeros((len(uris), image_size, image_size, 3), np.uint8)
    steps, errors = [""] * len(uris), [""] * len(uris)
    for index, result in enumerate(_decode_ahead(uris, _fetch_ahead(reader, uris, sizes, etags), image_size)):
        if isinstance(result, Unreadable):
            steps[index], errors[index] = result.step, result.error
        else:
            images[index] = result
    return PhotosRead(images, steps, errors)


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
