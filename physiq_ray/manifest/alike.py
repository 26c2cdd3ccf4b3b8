"""Join near-duplicates to groups: perceptual hashes of the photos → links for `join_groups`."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from physiq_ray.manifest.report import Alike, Counted
from physiq_ray.manifest.split import IntArray, join_groups
from physiq_ray.near import search_pairs

PAIRS_AT_ONCE = 2**20  # are joined together; all pairs of a million photos may need more memory


@dataclass(frozen=True)
class PhotoHashes:
    """The perceptual hashes of photos.

    bits: uint64 (n,). is_known: bool (n,), false for an unreadable photo. not_fetched: the photos that could
    not be fetched, with their errors; they may be readable another time.
    """

    bits: npt.NDArray[np.uint64]
    is_known: npt.NDArray[np.bool_]
    not_fetched: Counted = field(default_factory=Counted)


# Reads photos, given as a table of uri, size and etag, and returns their hashes in the same order.
HashPhotos = Callable[[pa.Table], PhotoHashes]


def join_alike(photos: pa.Table, content: IntArray, hash_photos: HashPhotos) -> tuple[IntArray, Alike]:
    """Assign equal numbers to copies and near-duplicates, and to all that are joined by a chain of them.

    photos: uri, size and etag. content: int64 (n,), equal for copies, of which one is read. An unreadable
    photo is a near-duplicate of none.
    Returns int64 (n,) and the counts for the report.
    """
    _, first, member = np.unique(content, return_index=True, return_inverse=True)
    found = hash_photos(photos.select(["uri", "size", "etag"]).take(pa.array(first)))
    distinct, number = np.unique(found.bits[found.is_known], return_inverse=True)
    codes = len(distinct) + np.arange(len(first))
    codes[found.is_known] = join_near(distinct)[number]
    num_contents = np.bincount(codes)
    code = codes[member]
    is_joined = num_contents[code] > 1
    counts = Alike(
        num_photos=int(np.count_nonzero(is_joined)),
        num_groups=int(np.count_nonzero(num_contents > 1)),
        largest=int(np.bincount(code[is_joined]).max(initial=0)),
        total=len(content),
        not_fetched=found.not_fetched,
    )
    return code, counts


def join_near(distinct: npt.NDArray[np.uint64]) -> IntArray:
    """Return for each hash the first row of its group; distinct: no two are equal."""
    root = np.arange(len(distinct))
    pairs: list[tuple[IntArray, IntArray]] = []
    num_pairs = 0
    for a, b in search_pairs(distinct):
        is_new = root[a] != root[b]
        if is_new.any():
            pairs.append((a[is_new], b[is_new]))
            num_pairs += len(pairs[-1][0])
        if num_pairs >= PAIRS_AT_ONCE:
            root, pairs, num_pairs = _joined(root, pairs), [], 0
    return _joined(root, pairs) if pairs else root


def _joined(root: IntArray, pairs: list[tuple[IntArray, IntArray]]) -> IntArray:
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    number = np.arange(len(a))
    links = [(np.arange(len(root)), root), (np.concatenate([a, b]), np.concatenate([number, number]))]
    return join_groups(len(root), links)
