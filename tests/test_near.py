import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.near import find_near, search_pairs


def flipped(hashes, rng, num_bits):
    """Give the hashes with num_bits bits changed in each."""
    places = np.argsort(rng.random((len(hashes), 64)), axis=1)[:, :num_bits].astype(np.uint64)
    return hashes ^ np.bitwise_or.reduce(np.uint64(1) << places, axis=1)


def all_pairs(hashes, most_bits):
    """Compare each hash with each other one."""
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    return {(a, b) for a, b in np.argwhere(bits <= most_bits).tolist() if a < b}


@pytest.mark.slow
@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.integers(0, 8), st.data())
def test_find_near_equals_a_comparison_of_all_pairs(hashes, most_bits, data):
    for hash_ in list(hashes):  # random hashes are never near each other, so near ones are added
        flips = data.draw(st.lists(st.integers(0, 63), max_size=most_bits + 1))
        hashes.append(hash_ ^ sum(1 << bit for bit in set(flips)))
    expected = [
        (a, b, (hashes[a] ^ hashes[b]).bit_count())
        for a in range(len(hashes))
        for b in range(a + 1, len(hashes))
        if (hashes[a] ^ hashes[b]).bit_count() <= most_bits
    ]
    assert find_near(np.array(hashes, np.uint64), most_bits) == expected


@pytest.mark.parametrize("share_of_ones", [0.5, 0.15])
def test_the_search_gives_the_same_pairs_as_a_comparison_of_all(share_of_ones):
    rng = np.random.default_rng(3)
    bits = rng.random((1500, 64)) < share_of_ones
    hashes = np.packbits(bits, axis=1).view(np.uint64).ravel()
    planted = [flipped(hashes[:60], rng, num_bits) for num_bits in (1, 3, 4, 5)]
    distinct = np.unique(np.concatenate([hashes, *planted]))

    found = {
        tuple(sorted(pair))
        for a, b in search_pairs(distinct, 4)
        for pair in zip(a.tolist(), b.tolist(), strict=True)
    }

    assert found == all_pairs(distinct, 4)
    assert len(found) > 180


def test_hashes_that_differ_in_one_byte_only_are_all_found():
    distinct = np.arange(256, dtype=np.uint64)
    found = {(min(p), max(p)) for a, b in search_pairs(distinct, 2) for p in zip(a, b, strict=True)}
    expected = {(a, b) for a, b in itertools.combinations(range(256), 2) if (a ^ b).bit_count() <= 2}
    assert found == expected
