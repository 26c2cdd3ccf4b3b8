"""Which photos look nearly the same: the perceptual hash, the distance, and the search for pairs. No Ray."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from physiq_ray.errors import SettingError

HASH_PX = 128  # size of the decoded photo, which the hash reduces to 32 × 32
HASH_BITS = 64
NEAR_BITS = 4  # number of bits that may differ between two near-duplicates
# Two near hashes share at least this many of most_bits + SHARED_PARTS parts. More shared parts mean more
# searches and fewer comparisons: the photos of one gym have many equal bits without being near-duplicates.
SHARED_PARTS = 3

IntArray = npt.NDArray[np.int64]
Hash = Callable[[npt.NDArray[np.uint8]], int]


def load_hash() -> Hash:
    """Return the perceptual hash function: uint8 (HASH_PX, HASH_PX, 3), sRGB → a number of HASH_BITS bits.

    Raises SettingError: the ImageHash package is not installed.
    """
    try:
        from imagehash import phash
    except ImportError as error:
        raise SettingError(
            "near-duplicates need the ImageHash package: pip install 'physiq-ray[audit]'"
        ) from error
    return lambda pixels: int(str(phash(Image.fromarray(pixels))), 16)


def find_near(hashes: npt.NDArray[np.uint64], most_bits: int = NEAR_BITS) -> list[tuple[int, int, int]]:
    """Find pairs of hashes that differ in at most most_bits bits: (row, row, number of bits), in order.

    A thousand equal hashes give half a million pairs; see `search_pairs` for hashes in great number.
    """
    distinct, number = np.unique(hashes, return_inverse=True)
    order = np.argsort(number, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(number, minlength=len(distinct)))[:-1])
    found = {
        (min(pair), max(pair))
        for a, b in search_pairs(distinct, most_bits)
        for one, other in zip(a.tolist(), b.tolist(), strict=True)
        for pair in itertools.product(rows_of[one].tolist(), rows_of[other].tolist())
    }
    found.update(pair for rows in rows_of for pair in itertools.combinations(rows.tolist(), 2))
    return [(a, b, int(np.bitwise_count(hashes[a] ^ hashes[b]))) for a, b in sorted(found)]


def search_pairs(
    distinct: npt.NDArray[np.uint64], most_bits: int = NEAR_BITS
) -> Iterator[tuple[IntArray, IntArray]]:
    """Search pairs of distinct hashes that differ in at most most_bits bits.

    If a hash is divided into most_bits + SHARED_PARTS parts, then SHARED_PARTS of them or more are equal in
    such a pair (the pigeonhole principle; multi-index hashing of Norouzi, Punjani and Fleet, CVPR 2012). So
    for each choice of parts, the hashes are sorted by these parts, and only those with equal parts are
    compared: all neighbours in this order, then all at distance 2, and so on.

    Yields int64 rows and int64 rows, at most one pair for each hash at a time. A pair comes once for each
    choice of parts in which it is equal.
    """
    num_parts = most_bits + SHARED_PARTS
    bounds = [HASH_BITS * part // num_parts for part in range(num_parts + 1)]
    masks = [(1 << high) - (1 << low) for low, high in itertools.pairwise(bounds)]
    for parts in itertools.combinations(masks, SHARED_PARTS):
        mask = np.uint64(sum(parts))
        order = np.argsort(distinct & mask)
        hashes = distinct[order]
        key = hashes & mask
        distance = 1
        first = np.flatnonzero(key[1:] == key[:-1])
        while len(first):
            is_near = np.bitwise_count(hashes[first] ^ hashes[first + distance]) <= most_bits
            if is_near.any():
                near = first[is_near]
                yield order[near], order[near + distance]
            distance += 1
            first = first[: np.searchsorted(first, len(key) - distance)]
            first = first[key[first] == key[first + distance]]
