"""Read every photo to find unreadable photos and near-duplicates.

The photos are read by the function of `physiq_ray.ingest.checking`, in tasks of Ray. Near-duplicates are
found by perceptual hashes. If a photo could not be fetched, the photo is not called damaged, but the check is
incomplete.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from physiq_ray.constants import OUTAGE_RUN
from physiq_ray.near import find_near
from physiq_ray.quarantine import Unreachable, Unreadable

# Reads the photos of a manifest's table, and hashes them if the flag is set. Gives each photo once, in any
# order: its row, and its hash or its fault.
ReadPhotos = Callable[[pa.Table, bool], Generator[tuple[int, int | Unreadable], None, None]]


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
    table: pa.Table,
    copies: Sequence[Sequence[str]],
    read_photos: ReadPhotos,
    *,
    near_duplicates: bool,
    on_progress: Callable[[int, int], None],
) -> PhotoCheck:
    """Read every photo.

    table: rows of a manifest. copies: uris of equal content, of which one is compared with other photos.
    on_progress: called with the photos done and the photos in total.
    """
    faults: dict[int, Unreadable] = {}
    bits, is_good = np.zeros(table.num_rows, np.uint64), np.zeros(table.num_rows, bool)
    num_checked = num_unreachable = 0
    gave_up = None
    with closing(read_photos(table, near_duplicates)) as results:
        for num_checked, (row, result) in enumerate(results, 1):
            on_progress(num_checked, table.num_rows)
            num_unreachable = num_unreachable + 1 if isinstance(result, Unreachable) else 0
            if not isinstance(result, Unreadable):
                bits[row], is_good[row] = result, True
                continue
            faults[row] = result
            if num_unreachable == OUTAGE_RUN:
                gave_up = (
                    f"gave up after {num_checked} of {table.num_rows} photos: no answer for {OUTAGE_RUN} in "
                    f"a row, the last {result.error}"
                )
                break
    near = None
    if near_duplicates and gave_up is None:
        near = _find_pairs(table["uri"].to_pylist(), copies, bits, np.flatnonzero(is_good))
    return PhotoCheck(num_checked, tuple(faults[row] for row in sorted(faults)), near, gave_up)


def _find_pairs(
    uris: Sequence[str],
    copies: Sequence[Sequence[str]],
    bits: npt.NDArray[np.uint64],
    good: npt.NDArray[np.int64],
) -> tuple[tuple[str, str, int], ...]:
    """Find near-duplicates among one photo of each content: a thousand copies would give a million pairs."""
    content = {uri: number for number, same in enumerate(copies) for uri in same}
    first: dict[int | str, int] = {}
    for row in good.tolist():
        first.setdefault(content.get(uris[row], uris[row]), row)
    rows = list(first.values())
    return tuple((uris[rows[a]], uris[rows[b]], num) for a, b, num in find_near(bits[rows]))
