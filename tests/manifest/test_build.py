import random

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
    list_bucket,
    list_photos,
    list_plenty,
    poses_by_key,
)
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.errors import DataError, NotFoundError, StorageError, UnreachableError
from physiq_ray.labels import NAMED_SCHEMA
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest, SourceReport, describe_manifest, find_labelled
from physiq_ray.storage import Bucket, Listing


def test_the_manifest_has_one_row_per_labelled_photo_and_the_documented_columns() -> None:
    photos = list_bucket("checkins", "2024/a.jpg", "b.jpg", "c.jpg", "d.jpg", "not labelled.jpg")
    labels = labels_of(("a.jpg", 7), ("b.jpg", 7), ("c.jpg", 11), ("d.jpg", 11))

    manifest = build_manifest([photos], labels, POSES)

    assert manifest.table.schema == MANIFEST_SCHEMA
    assert [(field.name, str(field.type)) for field in manifest.table.schema] == [
        ("uri", "large_string"),
        ("bucket", "large_string"),
        ("key", "large_string"),
        ("size", "int64"),
        ("etag", "large_string"),
        ("pose_id", "int32"),
        ("class_index", "int32"),
        ("group", "large_string"),
        ("split", "large_string"),
    ]
    first, *_ = manifest.table.to_pylist()
    assert first.pop("split") in {"train", "validation"}
    assert first == {
        "uri": "s3://checkins/2024/a.jpg",
        "bucket": "checkins",
        "key": "2024/a.jpg",
        "size": 100,
        "etag": "checkins 2024/a.jpg",
        "pose_id": 7,
        "class_index": 1,  # "11" comes before "7" in string order
        "group": "s3://checkins/2024/a.jpg",
    }
    assert poses_by_key(manifest) == {"2024/a.jpg": 7, "b.jpg": 7, "c.jpg": 11, "d.jpg": 11}
    assert manifest.class_mapping.classes == ("11", "7")
    assert manifest.report.sources == (SourceReport("s3://checkins", total=5, labelled=4, bytes=500),)
    assert manifest.report.sources[0].unlabelled == 1


def test_a_pose_id_may_be_any_number() -> None:
    labels = labels_of(*((name, 2_000_000_000 if pose == 1 else pose) for name, pose in PLENTY_LABELS))

    manifest = build_manifest([list_plenty()], labels, {2: "A", 2_000_000_000: "B"})

    assert manifest.class_mapping.classes == ("2", "2000000000")
    assert column_by_key(manifest, "class_index")["1-0.jpg"] == 1


def test_copies_labelled_with_different_poses_are_not_used() -> None:
    copies = {"one.jpg": "same", "two.jpg": "same", "three.jpg": "same", "unlabelled.jpg": "same"}
    labels = labels_of(*PLENTY_LABELS, ("one.jpg", 1), ("two.jpg", 1), ("three.jpg", 2))

    manifest = build_manifest([list_plenty(**copies)], labels, POSES)

    assert set(poses_by_key(manifest)) == set(PLENTY)
    assert manifest.report.conflicts == (
        "'s3://checkins/one.jpg': a copy of another photo, labelled with another pose",
        "'s3://checkins/three.jpg': a copy of another photo, labelled with another pose",
        "'s3://checkins/two.jpg': a copy of another photo, labelled with another pose",
    )


def test_photos_with_equal_etags_but_different_sizes_are_not_copies() -> None:
    photos = list_plenty(**{"one.jpg": "same", "two.jpg": "same"})
    sizes = pa.array([100] * 21 + [101], pa.int64())
    assert photos.table is not None
    photos = Listing(photos.source, photos.table.set_column(3, "size", sizes))

    manifest = build_manifest([photos], labels_of(*PLENTY_LABELS, ("one.jpg", 1), ("two.jpg", 2)), POSES)

    assert manifest.report.conflicts == ()
    assert poses_by_key(manifest)["two.jpg"] == 2


def test_photos_without_an_etag_are_not_copies() -> None:
    photos = list_plenty(**{"one.jpg": "", "two.jpg": ""})

    manifest = build_manifest([photos], labels_of(*PLENTY_LABELS, ("one.jpg", 1), ("two.jpg", 2)), POSES)

    assert manifest.report.conflicts == ()
    assert manifest.report.num_copies == 0


def test_malformed_records_and_unknown_poses_are_in_the_report() -> None:
    labels = labels_of(
        *PLENTY_LABELS, malformed=("record 3: no good",), unknown_poses=("record 4: a.jpg: pose 99",)
    )

    report = build_manifest([list_plenty()], labels, POSES).report

    assert report.malformed == ("record 3: no good",)
    assert report.unknown_poses == ("record 4: a.jpg: pose 99",)


def test_a_photo_with_no_known_pose_is_counted_and_labelled_but_not_used_for_training() -> None:
    photos = list_bucket("checkins", *PLENTY, "rest.jpg", "odd.jpg", "unlabelled.jpg")
    labels = labels_of(*PLENTY_LABELS, ("rest.jpg", None), ("odd.jpg", None), ("odd.jpg", 1))

    manifest = build_manifest([photos], labels, POSES)
    (named,) = find_labelled([photos], labels, POSES, {})

    assert set(column_by_key(manifest, "pose_id")) == set(PLENTY)
    assert manifest.report.num_poseless == 1
    assert manifest.report.conflicts == ("'s3://checkins/odd.jpg': labelled with different poses",)
    assert named is not None
    assert named.is_labelled.to_pylist() == [True] * 22 + [False]
    assert (
        "1 photos show no known pose according to their labels; they teach the model what to refuse"
        in list(describe_manifest(manifest))
    )


def splits_without_pose(manifest: Manifest) -> dict[str, str]:
    return dict(zip(*(manifest.no_pose[name].to_pylist() for name in ("key", "split")), strict=True))


def test_photos_of_no_known_pose_are_a_table_of_their_own() -> None:
    keys = [f"rest-{number}.jpg" for number in range(5)]
    photos = list_bucket("checkins", *PLENTY, *keys)
    labels = labels_of(*PLENTY_LABELS, *((key, None) for key in keys))

    manifest = build_manifest([photos], labels, POSES)

    assert manifest.no_pose.schema == MANIFEST_SCHEMA
    assert splits_without_pose(manifest) == dict.fromkeys(keys, "validation")
    assert manifest.no_pose["pose_id"].null_count == manifest.no_pose["class_index"].null_count == 5
    assert manifest.class_mapping.classes == ("1", "2")
    plain = build_manifest([list_bucket("checkins", *PLENTY)], labels_of(*PLENTY_LABELS), POSES)
    assert manifest.table.equals(plain.table)  # they change nothing for the others


def test_photos_of_no_known_pose_are_in_the_test_with_their_group() -> None:
    records = [(key, pose, f"athlete-{key[-5]}") for key, pose in PLENTY_LABELS]
    rest = [(f"rest-{number}.jpg", None, f"athlete-{number}") for number in range(10)]
    photos = list_bucket("checkins", *PLENTY, *(name for name, *_ in rest))

    manifest = build_manifest([photos], labels_with_groups(*records, *rest), POSES, test_share=0.3)

    tested = set(manifest.split("test")["key"].to_pylist())
    assert len(tested) == 6
    assert splits_without_pose(manifest) == {
        f"rest-{number}.jpg": "test" if f"1-{number}.jpg" in tested else "validation" for number in range(10)
    }


def test_a_share_of_the_groups_without_a_pose_is_in_the_test() -> None:
    keys = [f"rest-{number:04d}.jpg" for number in range(1000)]
    photos = list_bucket("checkins", *PLENTY, *keys)
    labels = labels_with_groups(
        *PLENTY_LABELS,
        *((key, None, f"athlete-{number // 5}") for number, key in enumerate(keys)),
        ("rest-0000.jpg", None, None, "test"),
        ("rest-0500.jpg", None, None, "validation"),
    )

    splits = splits_without_pose(build_manifest([photos], labels, POSES, test_share=0.3))

    assert 240 < list(splits.values()).count("test") < 360  # 0.3 ± 0.033 of 200 groups, two deviations
    for number in range(0, 1000, 5):
        assert len({splits[key] for key in keys[number : number + 5]}) == 1
    assert (splits["rest-0004.jpg"], splits["rest-0504.jpg"]) == ("test", "validation")


def test_copies_labelled_with_a_pose_and_with_no_known_pose_are_not_used() -> None:
    copies = {"one.jpg": "same", "rest.jpg": "same"}
    labels = labels_of(*PLENTY_LABELS, ("one.jpg", 1), ("rest.jpg", None))

    manifest = build_manifest([list_plenty(**copies)], labels, POSES)

    assert set(poses_by_key(manifest)) == set(PLENTY)
    assert manifest.no_pose.num_rows == 0
    assert manifest.report.conflicts == (
        "'s3://checkins/one.jpg': a copy of another photo, labelled with another pose",
        "'s3://checkins/rest.jpg': a copy of another photo, labelled with another pose",
    )


@pytest.mark.parametrize("validation_share", [0.2, 0.9])
def test_a_pose_with_a_single_photo_is_used_for_training_only_and_reported(validation_share: float) -> None:
    labels = labels_of(*PLENTY_LABELS, ("lonely.jpg", 11))

    manifest = build_manifest(
        [list_plenty(**{"lonely.jpg": "lonely"})], labels, POSES, validation_share=validation_share
    )

    assert column_by_key(manifest, "split")["lonely.jpg"] == "train"
    assert manifest.class_mapping.classes == ("1", "11", "2")
    assert manifest.report.thin_poses == (
        "pose 11 Abs & Thighs: 1 photo(s) in one group, all in training; "
        "no validation photo measures it: label more",
    )


def test_the_error_gives_each_reason_when_all_sources_fail() -> None:
    listings = [
        Listing(Bucket("one"), error=NotFoundError("list s3://one: NoSuchBucket")),
        Listing(Bucket("two"), error=UnreachableError("list s3://two: no answer")),
    ]

    with pytest.raises(StorageError) as caught:
        build_manifest(listings, labels_of(*PLENTY_LABELS), POSES)

    assert str(caught.value) == (
        "none of the 2 sources could be listed: list s3://one: NoSuchBucket; list s3://two: no answer"
    )


def test_empty_buckets_are_an_error() -> None:
    with pytest.raises(DataError, match=r"^no photos in s3://one, s3://two; check bucket and prefix$"):
        build_manifest([list_bucket("one"), list_bucket("two")], labels_of(*PLENTY_LABELS), POSES)


def test_the_error_names_the_empty_bucket_and_the_failed_one() -> None:
    failed = Listing(Bucket("two"), error=UnreachableError("list s3://two: no answer"))

    with pytest.raises(DataError, match=r"^no photos in s3://one; .*; list s3://two: no answer$"):
        build_manifest([list_bucket("one"), failed], labels_of(*PLENTY_LABELS), POSES)


def test_the_error_shows_one_photo_and_one_label_when_no_label_matches() -> None:
    with pytest.raises(DataError) as caught:
        build_manifest([list_bucket("one", "x/IMG_1.jpg")], labels_of(("IMG-1.jpg", 1), ("b.jpg", 2)), POSES)

    assert str(caught.value) == (
        "no label matches a photo: 1 photos, 2 usable labels, 0 conflicts; labels are matched on the file "
        "name, for example a photo 'x/IMG_1.jpg' and a label 'IMG-1.jpg'; "
        "check labels, sources and source_buckets"
    )


def test_the_error_says_that_there_is_no_usable_label() -> None:
    with pytest.raises(DataError, match=r"0 usable labels.*'\(no usable label\)'"):
        build_manifest([list_plenty()], labels_of(), POSES)


def test_the_error_says_that_all_labels_conflict() -> None:
    labels = labels_of(("a.jpg", 1), ("a.jpg", 2), ("b.jpg", 1), ("b.jpg", 2))

    with pytest.raises(DataError) as caught:
        build_manifest([list_bucket("checkins", "a.jpg", "b.jpg", "c.jpg")], labels, POSES)

    assert str(caught.value) == (
        "all labels conflict: of 3 photos 2 are labelled, 2 with conflicting labels; correct the labels, the "
        "first is 's3://checkins/a.jpg': labelled with different poses"
    )


def test_the_error_counts_the_reasons_why_no_labelled_photo_can_be_used() -> None:
    unusable = pa.Table.from_pylist([{"name": "b.jpg"}], schema=NAMED_SCHEMA)

    with pytest.raises(
        DataError, match=r"^no labelled photo can be used: of 2 photos 2 are labelled, 1 of no"
    ):
        build_manifest(
            [list_bucket("checkins", "a.jpg", "b.jpg")],
            labels_of(("a.jpg", None), unusable=unusable),
            POSES,
        )


def test_a_single_pose_cannot_be_trained_on() -> None:
    with pytest.raises(
        DataError, match=r"^only one pose \(7 Back Lat Spread\) has labelled photos; at least"
    ):
        build_manifest([list_bucket("one", "a.jpg", "b.jpg")], labels_of(("a.jpg", 7), ("b.jpg", 7)), POSES)


def test_a_manifest_without_validation_photos_is_refused() -> None:
    labels = labels_of(("a.jpg", 1), ("b.jpg", 2))

    with pytest.raises(
        DataError, match=r"^no photos for training or for validation: pose 1 Front Lat Spread: 1 photo"
    ):
        build_manifest([list_bucket("one", "a.jpg", "b.jpg")], labels, POSES)


def test_a_single_group_of_all_photos_is_refused() -> None:
    with pytest.raises(DataError, match=r"^no photos for training or for validation: pose 1 .*; pose 2 "):
        build_manifest([list_plenty()], labels_of(*PLENTY_LABELS), POSES, group_pattern="jpg")


@pytest.mark.slow
@given(st.randoms(use_true_random=False))
def test_the_order_of_listings_labels_and_sources_does_not_matter(shuffler: random.Random) -> None:
    one = {**PLENTY, "session-1/x.jpg": "1 1", "session-1/y.jpg": "y"}
    two = {"session-1/z.jpg": "1 2", "z.jpg": "z"}
    records = [*PLENTY_LABELS, ("x.jpg", 1), ("y.jpg", 1), ("z.jpg", 1)]

    def shuffled() -> Manifest:
        parts = []
        for name, photos in (("one", one), ("two", two)):
            keys = shuffler.sample(list(photos), len(photos))
            parts.append(list_photos(Bucket(name), {key: photos[key] for key in keys}))
        labels = labels_of(*shuffler.sample(records, len(records)))
        return build_manifest(
            shuffler.sample(parts, 2), labels, POSES, group_pattern="session-[0-9]", validation_share=0.3
        )

    assert shuffled().table.equals(shuffled().table)
