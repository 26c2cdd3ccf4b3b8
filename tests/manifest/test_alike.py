"""Hashes are given, so these tests read no photos; tests/ingest/test_hashes.py computes them."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from building import POSES, build_manifest, labels_of, list_photos
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.config import SplitSettings
from physiq_ray.errors import SettingError
from physiq_ray.manifest import PhotoHashes, describe_manifest, match_configured
from physiq_ray.manifest.alike import join_alike, join_near
from physiq_ray.manifest.report import Counted
from physiq_ray.manifest.split import join_groups
from physiq_ray.storage import Bucket

NONE = Counted()


def table_of(num_photos):
    return pa.table(
        {
            "uri": [f"s3://checkins/{number:06d}.jpg" for number in range(num_photos)],
            "size": [1] * num_photos,
            "etag": [str(number) for number in range(num_photos)],
        }
    )


def hashes_of(bits, unknown=(), not_fetched=NONE):
    """Give a function that hashes photos; unknown: the rows that are unreadable."""
    is_known = ~np.isin(np.arange(len(bits)), unknown)
    return lambda _photos: PhotoHashes(np.array(bits, np.uint64), is_known, not_fetched)


def groups_of(code):
    """Give the sets of rows with equal numbers."""
    return {frozenset(np.flatnonzero(code == number).tolist()) for number in set(code.tolist())}


def far(number):
    """Give a hash that is far from those of other numbers: each of 8 bits is repeated 8 times."""
    return sum(255 << 8 * place for place in range(8) if number >> place & 1)


def test_a_chain_of_near_photos_is_one_group_and_others_stay_alone():
    bits = [far(1), far(1) ^ 0xF, far(1) ^ 0xFF, far(2), far(48), far(48) ^ 0x1F]
    code, alike = join_alike(table_of(6), np.arange(6), hashes_of(bits))
    assert groups_of(code) == {frozenset({0, 1, 2}), frozenset({3}), frozenset({4}), frozenset({5})}
    assert (alike.num_photos, alike.num_groups, alike.largest, alike.total) == (3, 1, 3, 6)


def test_one_photo_of_each_content_is_read_and_its_copies_follow_it():
    read = []

    def hash_photos(photos):
        read.extend(photos["uri"].to_pylist())
        return hashes_of([far(1), far(2), far(2)])(photos)

    code, alike = join_alike(table_of(5), np.array([7, 3, 7, 9, 9]), hash_photos)

    # In the order of the contents 3, 7, 9; the photos of 7 and 9 look the same.
    assert read == ["s3://checkins/000001.jpg", "s3://checkins/000000.jpg", "s3://checkins/000003.jpg"]
    assert groups_of(code) == {frozenset({1}), frozenset({0, 2, 3, 4})}
    assert (alike.num_photos, alike.num_groups, alike.largest) == (4, 1, 4)


def test_copies_of_one_content_alone_are_no_near_duplicates():
    code, alike = join_alike(table_of(3), np.array([0, 0, 1]), hashes_of([far(1), far(2)]))
    assert groups_of(code) == {frozenset({0, 1}), frozenset({2})}
    assert (alike.num_photos, alike.num_groups, alike.largest) == (0, 0, 0)


def test_unreadable_photos_are_near_no_other():
    code, _ = join_alike(table_of(4), np.arange(4), hashes_of([0, 0, 0, 0], unknown=[1, 3]))
    assert groups_of(code) == {frozenset({0, 2}), frozenset({1}), frozenset({3})}


def test_a_hundred_thousand_equal_hashes_need_no_pair_of_each_two():
    bits = np.full(100_000, far(5), np.uint64)
    bits[-1] = far(5) ^ 1
    photos = pa.table({name: pa.nulls(100_000) for name in ("uri", "size", "etag")})
    tracemalloc.start()
    code, alike = join_alike(photos, np.arange(100_000), hashes_of(bits))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(code.tolist())) == 1
    assert (alike.num_photos, alike.num_groups, alike.largest) == (100_000, 1, 100_000)
    assert peak_bytes < 50e6  # one array of all pairs would have 80 GB


@pytest.mark.slow
def test_more_pairs_than_are_joined_at_once_give_the_same_groups(monkeypatch):
    distinct = np.unique(np.concatenate([np.arange(512), far(96) + np.arange(512)]).astype(np.uint64))
    expected = np.repeat([0, 512], 512)
    assert join_near(distinct).tolist() == expected.tolist()
    monkeypatch.setattr("physiq_ray.manifest.alike.PAIRS_AT_ONCE", 1)
    assert join_near(distinct).tolist() == expected.tolist()


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_groups_are_the_connected_components_of_the_links(pairs):
    expected = list(range(30))
    for _ in range(30):
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    a, b = np.array(pairs, np.int64).reshape(-1, 2).T
    number = np.arange(len(a))
    links = [(np.concatenate([a, b]), np.concatenate([number, number]))]
    assert join_groups(30, links).tolist() == expected


def test_a_long_chain_is_joined_in_few_rounds():
    # A round per link would be 20,000 passes over the array, which is minutes.
    order = np.random.default_rng(0).permutation(20_000)
    number = np.arange(19_999)
    links = [(np.concatenate([order[:-1], order[1:]]), np.concatenate([number, number]))]
    assert not join_groups(20_000, links).any()


PHOTOS = {f"{pose}-{number:02d}.jpg": f"{pose} {number}" for pose in (1, 2) for number in range(15)}
LABELS = labels_of(*((key, int(key[0])) for key in PHOTOS))


def by_name(bits):
    """Hash photos by their keys; a photo without an entry looks like no other."""

    def hash_photos(photos):
        names = [uri.rpartition("/")[2] for uri in photos["uri"].to_pylist()]
        values = [bits.get(name, far(100 + number)) for number, name in enumerate(names)]
        return hashes_of(values)(photos)

    return hash_photos


@pytest.mark.parametrize(
    ("side", "shares"),
    [
        ("train", {"validation_share": 0.05}),
        ("validation", {"validation_share": 0.3}),
        ("test", {"validation_share": 0.3, "test_share": 0.2}),
    ],
)
def test_near_photos_have_one_group_and_one_split_with_other_groups_and_without_a_pose(side, shares):
    listing = list_photos(Bucket("checkins"), {**PHOTOS, "null.jpg": "n"})
    labels = labels_of(*((key, int(key[0])) for key in PHOTOS), ("null.jpg", None))
    near = {"1-00.jpg": far(1), "2-03.jpg": far(1) ^ 7, "null.jpg": far(1) ^ 3}

    manifest = build_manifest(
        [listing], labels, POSES, group_pattern="(2)-0[34]", hash_photos=by_name(near), **shares
    )

    rows = {row["key"]: row for row in manifest.table.to_pylist() + manifest.no_pose.to_pylist()}
    joined = ("1-00.jpg", "2-03.jpg", "2-04.jpg", "null.jpg")
    assert {rows[key]["group"] for key in joined} == {"s3://checkins/1-00.jpg"}
    # Photos without a pose are never trained with.
    sides = [rows[key]["split"] for key in joined]
    assert sides == [side] * 3 + ["validation" if side == "train" else side]


def test_the_text_counts_groups_and_warns_of_a_chain():
    listing = list_photos(Bucket("checkins"), PHOTOS)
    pair = {"1-00.jpg": far(1), "1-01.jpg": far(1)}
    lines = list(describe_manifest(build_manifest([listing], LABELS, POSES, hash_photos=by_name(pair))))
    assert "2 photos are near-duplicates, joined into 1 groups" in lines
    assert not [line for line in lines if "chain" in line]
    chain = {f"1-0{number}.jpg": far(1) ^ (1 << number) - 1 for number in range(4)}
    lines = list(describe_manifest(build_manifest([listing], LABELS, POSES, hash_photos=by_name(chain))))
    assert "4 photos are near-duplicates, joined into 1 groups" in lines
    [warning] = [line for line in lines if "chain" in line]
    assert warning.startswith("warning: 4 of 30 photos are in one group of near-duplicates")


def test_without_the_setting_no_photo_is_read_and_with_it_somebody_must_read_them():
    listing = list_photos(Bucket("checkins"), PHOTOS)

    def refuse(_photos):
        raise AssertionError

    plain = match_configured([listing], LABELS, POSES, SplitSettings(), refuse)
    assert plain.report.alike is None
    with pytest.raises(SettingError, match="group_near_duplicates=yes: only train, evaluate and audit read"):
        match_configured([listing], LABELS, POSES, SplitSettings(group_near_duplicates="yes"))
