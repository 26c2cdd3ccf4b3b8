from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from building import (
    PLENTY,
    PLENTY_LABELS,
    POSES,
    build_manifest,
    column_by_key,
    labels_of,
    labels_with_groups,
    labels_with_sources,
    list_bucket,
    list_photos,
    list_plenty,
    manifest_of_plenty,
    poses_by_key,
)
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.errors import DataError
from physiq_ray.manifest import describe_manifest, find_labelled, match_photos
from physiq_ray.storage import Folder, Listing


def test_a_label_without_a_mapped_source_matches_in_every_bucket() -> None:
    one, two = list_bucket("one", "a.jpg", "b.jpg"), list_bucket("two", "x/a.jpg", "c.jpg")
    labels = labels_of(("a.jpg", 1), ("b.jpg", 2, "elsewhere"), ("c.jpg", 2))

    manifest = build_manifest([one, two], labels, POSES)

    assert poses_by_key(manifest) == {"a.jpg": 1, "x/a.jpg": 1, "b.jpg": 2, "c.jpg": 2}


def test_mapped_sources_distinguish_the_same_name_in_two_buckets() -> None:
    one, two = list_bucket("one", "a.jpg", "b.jpg"), list_bucket("two", "a.jpg", "b.jpg")
    labels = labels_of(
        ("a.jpg", 1, "checkins"), ("b.jpg", 1, "checkins"), ("a.jpg", 2, "training"), ("b.jpg", 2, "training")
    )

    manifest = build_manifest(
        [one, two], labels, POSES, source_buckets={"checkins": "one", "training": "s3://two/anywhere"}
    )

    assert sorted(
        zip(manifest.table["uri"].to_pylist(), manifest.table["pose_id"].to_pylist(), strict=True)
    ) == [("s3://one/a.jpg", 1), ("s3://one/b.jpg", 1), ("s3://two/a.jpg", 2), ("s3://two/b.jpg", 2)]
    assert manifest.report.conflicts == ()


def test_a_label_of_a_mapped_source_does_not_match_in_another_bucket() -> None:
    labels = labels_of(*PLENTY_LABELS, ("other.jpg", 1, "training"))

    manifest = build_manifest(
        [list_plenty(**{"other.jpg": "other"})], labels, POSES, source_buckets={"training": "two"}
    )

    assert "other.jpg" not in poses_by_key(manifest)
    assert manifest.report.labels_without_photo == ("other.jpg",)


def test_a_source_may_be_mapped_to_a_folder() -> None:
    photos = list_photos(Folder(Path("/photos")), PLENTY)
    labels = labels_of(*((name, pose, "phone") for name, pose in PLENTY_LABELS))

    manifest = build_manifest([photos], labels, POSES, source_buckets={"phone": "/photos/"})

    assert len(poses_by_key(manifest)) == 20
    assert manifest.table["uri"][0].as_py() == "/photos/1-0.jpg"


def test_a_source_may_be_mapped_to_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos = list_photos(Folder(tmp_path / "photos"), PLENTY)
    labels = labels_of(*((name, pose, "phone") for name, pose in PLENTY_LABELS))

    manifest = build_manifest([photos], labels, POSES, source_buckets={"phone": "photos"})

    assert len(poses_by_key(manifest)) == 20


def test_a_source_with_the_name_of_a_listed_bucket_means_that_bucket() -> None:
    one, two = list_bucket("one", "a.jpg"), list_bucket("two", "a.jpg")

    first, second = find_labelled(
        [one, two], labels_with_sources(("a.jpg", "two"), ("a.jpg", "one")), POSES, {"one": "two"}
    )

    assert first is not None
    assert second is not None
    assert first.is_labelled.to_pylist() == [False]
    assert second.is_labelled.to_pylist() == [True]


def test_an_s3_uri_as_source_means_only_that_bucket() -> None:
    one = list_bucket("one", "a.jpg", "b.jpg", "c.jpg")
    labels = labels_with_sources(
        ("a.jpg", "s3://one"), ("b.jpg", "s3://not-listed"), ("c.jpg", "s3://not-listed")
    )
    assert one.table is not None
    synced = one.table.set_column(1, "bucket", pa.array(["/photos/not-listed"] * 3, pa.large_string()))
    folder = Listing(Folder(Path("/photos/not-listed")), synced)

    [named] = find_labelled([one], labels, POSES, {"not-listed": "one"})
    assert named is not None
    assert named.is_labelled.to_pylist() == [True, True, True]
    [named] = find_labelled([one], labels, POSES, {})
    assert named is not None
    assert named.is_labelled.to_pylist() == [True, False, False]
    assert named.num_labels == 1
    [named] = find_labelled(
        [folder], labels_with_sources(("a.jpg", "s3://not-listed"), ("b.jpg", "s3://old")), POSES, {}
    )
    assert named is not None
    assert named.is_labelled.to_pylist() == [True, True, False]


def test_the_split_given_by_labels_is_kept() -> None:
    given = {"1-0.jpg": "test", "2-0.jpg": "test", "1-1.jpg": "validation", "2-1.jpg": "train"}

    manifest = manifest_of_plenty(**{name: (None, split) for name, split in given.items()})

    splits = column_by_key(manifest, "split")
    assert {name: splits[name] for name in given} == given
    assert manifest.split("test")["key"].to_pylist() == ["1-0.jpg", "2-0.jpg"]
    # Labels give pose 1 a validation photo, so it gets no more; pose 2 is split as without labels.
    of_pose = {pose: [splits[name] for name, own in PLENTY_LABELS if own == pose] for pose in (1, 2)}
    assert of_pose[1].count("validation") == 1
    assert of_pose[1].count("train") == 8
    assert of_pose[2].count("validation") == 2
    assert of_pose[2].count("train") == 7
    assert "2 to test with" in list(describe_manifest(manifest))[-1]


def test_a_group_with_different_splits_is_in_test_before_validation_before_training() -> None:
    manifest = manifest_of_plenty(
        **{
            "1-0.jpg": ("anna", "train"),
            "2-0.jpg": ("anna", "test"),
            "1-1.jpg": ("anna",),
            "1-2.jpg": ("bea", "validation"),
            "2-2.jpg": ("bea", "train"),
            "2-3.jpg": ("cleo", "train"),
            "1-3.jpg": ("cleo",),
        }
    )

    splits = column_by_key(manifest, "split")
    assert [splits[f"{name}.jpg"] for name in ("1-0", "2-0", "1-1", "1-2", "2-2", "2-3", "1-3")] == [
        *("test", "test", "test", "validation", "validation", "train", "train")
    ]
    assert manifest.report.split_conflicts == (
        "the group of 's3://checkins/1-0.jpg': labelled 'train' and 'test', so all of it is in 'test'",
        "the group of 's3://checkins/1-2.jpg': labelled 'train' and 'validation', so all of it is in "
        "'validation'",
    )


def test_copies_share_the_split_that_a_label_gives_to_one_of_them() -> None:
    photos = list_plenty(**{"copy.jpg": PLENTY["1-0.jpg"]})
    records = [(name, pose, None, "test" if name == "1-0.jpg" else None) for name, pose in PLENTY_LABELS]

    manifest = build_manifest([photos], labels_with_groups(*records, ("copy.jpg", 1)), POSES)

    assert column_by_key(manifest, "split")["copy.jpg"] == "test"
    assert manifest.report.split_conflicts == ()


def test_a_split_by_labels_without_training_photos_is_refused() -> None:
    records = [(name, pose, None, "test" if pose == 1 else "validation") for name, pose in PLENTY_LABELS]

    with pytest.raises(DataError) as caught:
        build_manifest([list_plenty()], labels_with_groups(*records), POSES)

    assert str(caught.value) == (
        "no photos for training or for validation: "
        "pose 1 Front Lat Spread: all its photos are for validation or test; label some to train on; "
        "pose 2 Front Double Biceps: all its photos are for validation or test; label some to train on"
    )


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 7]),
            st.sampled_from([None, "anna", "bea", "cleo", "dora"]),
            st.sampled_from([None, None, "train", "validation", "test"]),
        ),
        max_size=25,
    ),
    st.integers(0, 2**32 - 1),
)
def test_groups_of_labels_are_never_separated_and_splits_move_only_towards_test(
    more: list[tuple[int, str | None, str | None]], seed: int
) -> None:
    records: list[tuple[Any, ...]] = [
        *PLENTY_LABELS,
        *((f"more-{number}.jpg", *each) for number, each in enumerate(more)),
    ]

    manifest = match_photos(
        [list_bucket("checkins", *(name for name, *_ in records))],
        labels_with_groups(*records),
        POSES,
        seed=seed,
    )

    splits, rank = column_by_key(manifest, "split"), ["train", "validation", "test"]
    assert len(splits) == len(records)
    for name, _, group, split in [record for record in records if len(record) == 4]:
        assert split is None or rank.index(splits[name]) >= rank.index(split)
        for other, _, other_group, _ in [record for record in records if len(record) == 4]:
            if group is not None and group == other_group:
                assert splits[name] == splits[other]
    for pose in (1, 2, 7):
        given = {split for own, group, split in more if own == pose}
        if "validation" in given and not any(group for _, group, _ in more):
            of_pose = [splits[name] for name, own, *_ in records if own == pose]
            assert of_pose.count("validation") == sum(own == pose and s == "validation" for own, _, s in more)
