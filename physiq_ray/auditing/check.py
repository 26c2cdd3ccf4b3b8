"""Read every photo to find unreadable photos and near-duplicates.

Photos are fetched and decoded in threads, about as fast as Pillow decodes. Near-duplicates are found by a
perceptual hash of the same pixels. If a photo could not be fetched, the photo is not called damaged, but the
check is incomplete.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from physiq_ray.constants import OUTAGE_RUN
from physiq_ray.errors import PhotoError, StorageError, UnreachableError
from physiq_ray.images import decode_square
from physiq_ray.near import HASH_PX, Hash, find_near
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import read_bytes
from physiq_ray.storage.etag import failed_step
from physiq_ray.threads import map_ahead

CHECK_THREADS = 16
CHECKS_AHEAD = 4 * CHECK_THREADS  # photos queued at a time; all could be a million

ListedPhoto = tuple[str, str]  # uri and listed etag


def listed_photos(table: pa.Table) -> list[ListedPhoto]:
    """Return uri and listed ETag of each row of a manifest."""
    return list(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))


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
        return _Checked(uri, image_hash(pixels) if image_hash else 0)

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
        found = find_near(np.array([bits for _, bits in hashed], np.uint64))
        near = tuple((hashed[a][0], hashed[b][0], bits) for a, b, bits in found)
    return PhotoCheck(num_checked, tuple(unreadable), near, gave_up)


@dataclass(frozen=True)
class _Checked:
    """One photo that was read: its hash, or the failure."""

    uri: str
    bits: int = 0
    failure: Unreadable | None = None
    is_unreachable: bool = False
