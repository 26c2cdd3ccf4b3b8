"""Groups and splits that the labels give."""

from typing import Any

import pyarrow as pa
import pytest
from building import build_manifest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.errors import DataError
from physiq_ray.labels import LABEL_SCHEMA, NAMED_SCHEMA, Labels
from physiq_ray.manifest import Manifest, describe_manifest, find_labelled, match_photos
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Listing

POSES = {1: "Front Lat Spread", 2: "Front Double Biceps", 7: "Back Lat Spread"}
# Of each of two poses ten photos, no two of one athlete unless a test says so.
PLENTY = [(f"{pose}-{number}.jpg", pose) for pose in (1, 2) for number in range(10)]


def bucket(*keys: str, name: str = "checkins", etags: dict[str, str] | None = None) -> Listing:
    rows = [
        {
            **{"uri": f"s3://{name}/{key}", "bucket": name, "key": key, "size": 100},
            "etag": (etags or {}).get(key, f"{name} {key}"),
        }
        for key in keys
    ]
    return Listing(Bucket(name), pa.Table.from_pylist(rows, schema=LISTING_SCHEMA))


def labels_of(*records: tuple[Any, ...], **report: Any) -> Labels:
    """Records are (name, pose id) or with group, or with group and split."""
    rows = [dict(zip(("name", "pose_id", "group", "split"), record, strict=False)) for record in records]
    return Labels(pa.Table.from_pylist(rows, schema=LABEL_SCHEMA), **report)


def column(manifest: Manifest, name: str) -> dict[str, Any]:
    return dict(zip(manifest.table["key"].to_pylist(), manifest.table[name].to_pylist(), strict=True))


def plenty(**changes: tuple[Any, ...]) -> Manifest:
    """Build the manifest of PLENTY, where some labels have a group, or a group and a split."""
    records = [(name, pose, *changes.get(name, ())) for name, pose in PLENTY]
    return build_manifest([bucket(*(name for name, _ in PLENTY))], labels_of(*records), POSES)


def test_photos_of_one_athlete_are_one_group() -> None:
    manifest = plenty(**{"1-3.jpg": ("anna",), "2-5.jpg": ("anna",), "1-8.jpg": ("bea",)})

    groups, splits = column(manifest, "group"), column(manifest, "split")
    assert groups["1-3.jpg"] == groups["2-5.jpg"] == "s3://checkins/1-3.jpg"
    assert splits["1-3.jpg"] == splits["2-5.jpg"]
    assert len(set(groups.values())) == 19


def test_groups_of_labels_contents_and_pattern_join() -> None:
    keys = [name for name, _ in PLENTY] + ["s1/a.jpg", "s1/b.jpg", "c.jpg"]
    labels = labels_of(
        *PLENTY, ("a.jpg", 1), ("b.jpg", 1, "anna"), ("c.jpg", 1, "bea"), ("1-0.jpg", 1, "anna")
    )
    photos = bucket(*keys, etags={"c.jpg": "same", "1-0.jpg": "same"})

    manifest = build_manifest([photos], labels, POSES, group_pattern="^s[0-9]/")

    groups = column(manifest, "group")
    assert {groups[key] for key in ("s1/a.jpg", "s1/b.jpg", "c.jpg", "1-0.jpg")} == {"s3://checkins/1-0.jpg"}
    assert len(set(groups.values())) == 20


def test_two_athletes_in_one_photo_are_one_group() -> None:
    records = [*PLENTY, ("1-0.jpg", 1, "anna"), ("1-0.jpg", 1, "bea"), ("1-1.jpg", 1, "anna")]
    labels = labels_of(*records, ("2-1.jpg", 2, "bea"))

    groups = column(build_manifest([bucket(*(name for name, _ in PLENTY))], labels, POSES), "group")

    assert groups["1-0.jpg"] == groups["1-1.jpg"] == groups["2-1.jpg"] == "s3://checkins/1-0.jpg"


def test_the_split_of_the_labels_is_kept() -> None:
    given = {"1-0.jpg": "test", "2-0.jpg": "test", "1-1.jpg": "validation", "2-1.jpg": "train"}

    manifest = plenty(**{name: (None, split) for name, split in given.items()})

    splits = column(manifest, "split")
    assert {name: splits[name] for name in given} == given
    assert manifest.split("test")["key"].to_pylist() == ["1-0.jpg", "2-0.jpg"]
    # Pose 1 has its validation from the labels and gets no more; pose 2 is split as without them.
    of_pose = {pose: [splits[name] for name, own in PLENTY if own == pose] for pose in (1, 2)}
    assert of_pose[1].count("validation") == 1
    assert of_pose[1].count("train") == 8
    assert of_pose[2].count("validation") == 2
    assert of_pose[2].count("train") == 7
    assert "2 to test with" in list(describe_manifest(manifest))[-1]


def test_a_group_whose_labels_differ_is_in_test_before_validation_before_training() -> None:
    manifest = plenty(
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

    splits = column(manifest, "split")
    assert [splits[f"{name}.jpg"] for name in ("1-0", "2-0", "1-1", "1-2", "2-2", "2-3", "1-3")] == [
        *("test", "test", "test", "validation", "validation", "train", "train")
    ]
    assert manifest.report.split_conflicts == (
        "the group of 's3://checkins/1-0.jpg': labelled 'train' and 'test', so all of it is in 'test'",
        "the group of 's3://checkins/1-2.jpg': labelled 'train' and 'validation', so all of it is in "
        "'validation'",
    )


def test_copies_follow_the_split_that_one_of_them_is_given() -> None:
    photos = bucket(*(name for name, _ in PLENTY), "copy.jpg", etags={"copy.jpg": "same", "1-0.jpg": "same"})
    records = [(name, pose, None, "test" if name == "1-0.jpg" else None) for name, pose in PLENTY]

    manifest = build_manifest([photos], labels_of(*records, ("copy.jpg", 1)), POSES)

    assert column(manifest, "split")["copy.jpg"] == "test"
    assert manifest.report.split_conflicts == ()


def test_without_a_photo_to_train_on_the_labels_split_is_refused() -> None:
    records = [(name, pose, None, "test" if pose == 1 else "validation") for name, pose in PLENTY]

    with pytest.raises(DataError) as caught:
        build_manifest([bucket(*(name for name, _ in PLENTY))], labels_of(*records), POSES)

    assert str(caught.value) == (
        "no photos for training or for validation: "
        "pose 1 Front Lat Spread: all its photos are for validation or test; label some to train on; "
        "pose 2 Front Double Biceps: all its photos are for validation or test; label some to train on"
    )


def test_a_manifest_with_test_photos_survives_its_file() -> None:
    manifest = plenty(**{"1-0.jpg": (None, "test")})

    read = Manifest.from_parquet(manifest.to_parquet(), name="m")

    assert read.table.equals(manifest.table)
    assert read.split("test")["key"].to_pylist() == ["1-0.jpg"]


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
def test_no_group_of_the_labels_is_ever_separated_and_splits_only_move_up(
    more: list[tuple[int, str | None, str | None]], seed: int
) -> None:
    records = [*PLENTY, *((f"more-{number}.jpg", *each) for number, each in enumerate(more))]

    manifest = match_photos([bucket(*(name for name, *_ in records))], labels_of(*records), POSES, seed=seed)

    splits, rank = column(manifest, "split"), ["train", "validation", "test"]
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


def test_a_photo_of_no_known_pose_is_counted_and_kept_and_not_trained_on() -> None:
    photos = bucket(*(name for name, _ in PLENTY), "rest.jpg", "odd.jpg", "nobody.jpg")
    labels = labels_of(*PLENTY, ("rest.jpg", None), ("odd.jpg", None), ("odd.jpg", 1))

    manifest = build_manifest([photos], labels, POSES)
    (named,) = find_labelled([photos], labels, POSES, {})

    assert set(column(manifest, "pose_id")) == {name for name, _ in PLENTY}
    assert manifest.report.num_poseless == 1
    assert manifest.report.conflicts == ("'s3://checkins/odd.jpg': labelled with different poses",)
    assert named is not None
    assert named.is_labelled.to_pylist() == [True] * 22 + [False]
    assert (
        "1 photos show no known pose according to their labels; they are kept, but not used for training"
        in list(describe_manifest(manifest))
    )


def test_when_all_labels_conflict_that_is_said() -> None:
    labels = labels_of(("a.jpg", 1), ("a.jpg", 2), ("b.jpg", 1), ("b.jpg", 2))

    with pytest.raises(DataError) as caught:
        build_manifest([bucket("a.jpg", "b.jpg", "c.jpg")], labels, POSES)

    assert str(caught.value) == (
        "all labels conflict: of 3 photos 2 are labelled, 2 with conflicting labels; correct the labels, the "
        "first is 's3://checkins/a.jpg': labelled with different poses"
    )


def test_when_no_labelled_photo_can_be_used_the_reasons_are_counted() -> None:
    unusable = pa.Table.from_pylist([{"name": "b.jpg"}], schema=NAMED_SCHEMA)

    with pytest.raises(
        DataError, match=r"^no labelled photo can be used: of 2 photos 2 are labelled, 1 of no"
    ):
        build_manifest([bucket("a.jpg", "b.jpg")], labels_of(("a.jpg", None), unusable=unusable), POSES)
