"""Read every photo to find unreadable photos and near-duplicates.

Photos are fetched and decoded in threads, about as fast as Pillow decodes. Near-duplicates are found by a
perceptual hash of the same pixels. If a photo could not be fetched, the photo is not called damaged, but the
check is incomplete.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from physiq_ray.constants import OUTAGE_RUN
from physiq_ray.errors import PhotoError, SettingError, StorageError, UnreachableError
from physiq_ray.images import decode_square
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import read_bytes
from physiq_ray.storage.etag import failed_step
from physiq_ray.threads import map_ahead

CHECK_THREADS = 16
CHECKS_AHEAD = 4 * CHECK_THREADS  # photos queued at a time; all could be a million
HASH_PX = 128  # size of the decoded photo, which the hash reduces to 32 × 32
HASH_BITS = 64
NEAR_BITS = 4  # number of bits that may differ between two near-duplicates

ListedPhoto = tuple[str, str]  # uri and listed etag


def listed_photos(table: pa.Table) -> list[ListedPhoto]:
    """Return uri and listed ETag of each row of a manifest."""
    return list(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))


Hash = Callable[[Image.Image], Any]


@dataclass(frozen=True)
class PhotoCheck:
    """The result of reading every photo.

    near_duplicates: (uri, uri, number of the 64 bits in which their hashes differ), with one photo for each
    content; None if they were not searched, or not among all photos. gave_up: why the check ended before the
    last photo, None if it did not.
    """

    num_checked: int
    unreadable: tuple[Unreadable, ...]
    near_duplicates: tuple[tuple[str, str, int], ...] | None
    gave_up: str | None = None

    def of_step(self, step: str) -> tuple[Unreadable, ...]:
        """Return the photos that failed in one step."""
        return tuple(photo for photo in self.unreadable if photo.step == step)


def load_hash() -> Hash:
    """Return the perceptual hash function.

    Raises SettingError: the ImageHash package is not installed.
    """
    try:
        from imagehash import phash
    except ImportError as error:
        raise SettingError(
            "near-duplicates need the ImageHash package: pip install 'physiq-ray[audit]'"
        ) from error
    return phash


def read_all(
    photos: Sequence[ListedPhoto],
    copies: Sequence[Sequence[str]],
    image_hash: Hash | None,
    on_progress: Callable[[int, int], None],
) -> PhotoCheck:
    """Read every photo.

    copies: uris of equal content, of which one is hashed. image_hash: the hash for near-duplicates; with
    None they are not searched. on_progress: called with the photos done and the photos in total.
    """

    def check(photo: ListedPhoto) -> _Checked:
        uri, etag = photo
        try:
            pixels = decode_square(read_bytes(uri, etag=etag), size_px=HASH_PX)
        except StorageError as error:
            failure = Unreadable(uri, failed_step(error), str(error))
            return _Checked(uri, failure=failure, is_unreachable=isinstance(error, UnreachableError))
        except PhotoError as error:
            return _Checked(uri, failure=Unreadable(uri, "decode", str(error)))
        return _Checked(uri, int(str(image_hash(Image.fromarray(pixels))), 16) if image_hash else 0)

    content = {uri: number for number, same in enumerate(copies) for uri in same}
    unreadable = []
    hashes: dict[int | str, tuple[str, int]] = {}  # by content: a thousand copies would give a million pairs
    num_checked = num_unreachable = 0
    gave_up = None
    ahead = map_ahead(check, photos, num_threads=CHECK_THREADS, most_calls=CHECKS_AHEAD)
    with closing(ahead) as results:
        for num_checked, checked in enumerate(results, 1):
            on_progress(num_checked, len(photos))
            num_unreachable = num_unreachable + 1 if checked.is_unreachable else 0
            if checked.failure is None:
                hashes.setdefault(content.get(checked.uri, checked.uri), (checked.uri, checked.bits))
                continue
            unreadable.append(checked.failure)
            if num_unreachable == OUTAGE_RUN:
                gave_up = (
                    f"gave up after {num_checked} of {len(photos)} photos: no answer for {OUTAGE_RUN} in "
                    f"a row, the last {checked.failure.error}"
                )
                break
    near = None
    if image_hash is not None and gave_up is None:
        hashed = list(hashes.values())
        found = find_near(np.array([bits for _, bits in hashed], np.uint64), NEAR_BITS)
        near = tuple((hashed[a][0], hashed[b][0], bits) for a, b, bits in found)
    return PhotoCheck(num_checked, tuple(unreadable), near, gave_up)


def find_near(hashes: npt.NDArray[np.uint64], most_bits: int) -> list[tuple[int, int, int]]:
    """Find pairs of 64-bit hashes that differ in at most most_bits bits: (row, row, bits), in order.

    If a hash is divided into most_bits + 1 parts, such a pair has at least one equal part. So only rows that
    share a part are compared; a thousand photos of one wall are still compared with each other.
    """
    bounds = np.linspace(0, HASH_BITS, most_bits + 2).astype(int)
    found: dict[tuple[int, int], int] = {}
    for low, high in itertools.pairwise(bounds):
        part = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(part, kind="stable")
        starts = np.flatnonzero(np.diff(part[order], prepend=part[order[:1]] + np.uint64(1)))
        for rows in np.split(order, starts[1:]):
            for position, row in enumerate(rows[:-1]):
                others = rows[position + 1 :]
                bits = np.bitwise_count(hashes[row] ^ hashes[others])
                for other, differ in zip(others[bits <= most_bits], bits[bits <= most_bits], strict=True):
                    found[min(int(row), int(other)), max(int(row), int(other))] = int(differ)
    return [(a, b, bits) for (a, b), bits in sorted(found.items())]


@dataclass(frozen=True)
class _Checked:
    """One photo that was read: its hash, or the failure."""

    uri: str
    bits: int = 0
    failure: Unreadable | None = None
    is_unreachable: bool = False
