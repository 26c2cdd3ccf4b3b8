import io
import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from building import build_manifest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.config import load_settings
from physiq_ray.errors import (
    DataError,
    LabelError,
    NotFoundError,
    SettingError,
    StorageError,
    UnreachableError,
)
from physiq_ray.labels import LABEL_SCHEMA, NAMED_SCHEMA, Labels
from physiq_ray.manifest import (
    MANIFEST_SCHEMA,
    Manifest,
    SourceReport,
    collect_manifest,
    split_groups,
)
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Folder, Listing, kinds

POSES = {1: "Front Lat Spread", 2: "Front Double Biceps", 7: "Back Lat Spread", 11: "Abs & Thighs"}

IntArray = npt.NDArray[np.int64]


def listing(source: Bucket | Folder, photos: Mapping[str, str], num_others: int = 0) -> Listing:
    """List photos of 100 bytes, given as key → content; equal contents have equal ETags."""
    base = f"s3://{source.name}" if isinstance(source, Bucket) else str(source.path)
    columns = [
        [f"{base}/{key}" for key in photos],
        [source.name] * len(photos),
        list(photos),
        [100] * len(photos),
        list(photos.values()),
        [datetime(2026, 1, 1, tzinfo=UTC)] * len(photos),
    ]
    return Listing(source, pa.table(columns, schema=LISTING_SCHEMA), num_others)


def bucket(name: str, *keys: str) -> Listing:
    """List a bucket of photos that are all different."""
    return listing(Bucket(name), {key: f"{name} {key}" for key in keys})


def labels_of(*records: tuple[Any, ...], **report: Any) -> Labels:
    """Records are (name, pose id) or (name, pose id, source)."""
    rows = [
        {"name": name, "pose_id": pose_id, "source": source[0] if source else None}
        for name, pose_id, *source in records
    ]
    return Labels(pa.Table.from_pylist(rows, schema=LABEL_SCHEMA), **report)


def poses_by_key(manifest: Manifest) -> dict[str, int]:
    return dict(zip(manifest.table["key"].to_pylist(), manifest.table["pose_id"].to_pylist(), strict=True))


def column_by_key(manifest: Manifest, column: str) -> dict[str, Any]:
    return dict(zip(manifest.table["key"].to_pylist(), manifest.table[column].to_pylist(), strict=True))


# Ten photos of each of two poses: enough that no test of something else meets a thin pose.
PLENTY = {
    **{f"lat-{number}.jpg": f"lat {number}" for number in range(10)},
    **{f"biceps-{number}.jpg": f"biceps {number}" for number in range(10)},
}
PLENTY_LABELS = [(key, 1 if key.startswith("lat") else 2) for key in PLENTY]


def plenty(**more: str) -> Listing:
    return listing(Bucket("checkins"), {**PLENTY, **more})


def test_the_manifest_has_a_row_for_each_labelled_photo_and_the_agreed_columns() -> None:
    photos = bucket("checkins", "2024/a.jpg", "b.jpg", "c.jpg", "d.jpg", "not labelled.jpg")
    labels = labels_of(("a.jpg", 7), ("b.jpg", 7), ("c.jpg", 11), ("d.jpg", 11))

    manifest = build_manifest([photos], labels, POSES)

    assert manifest.table.schema == MANIFEST_SCHEMA
    assert [(field.name, str(field.type)) for field in manifest.table.schema] == [
        ("uri", "string"),
        ("bucket", "string"),
        ("key", "string"),
        ("size", "int64"),
        ("etag", "string"),
        ("pose_id", "int32"),
        ("class_index", "int32"),
        ("group", "string"),
        ("split", "string"),
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
        "class_index": 1,  # after "11", in string order
        "group": "s3://checkins/2024/a.jpg",
    }
    assert poses_by_key(manifest) == {"2024/a.jpg": 7, "b.jpg": 7, "c.jpg": 11, "d.jpg": 11}
    assert manifest.class_mapping.classes == ("11", "7")
    assert manifest.report.sources == (SourceReport("s3://checkins", total=5, labelled=4, bytes=500),)
    assert manifest.report.sources[0].unlabelled == 1


def test_the_two_splits_together_are_the_manifest() -> None:
    manifest = build_manifest([plenty()], labels_of(*PLENTY_LABELS), POSES)

    train, validation = manifest.split("train"), manifest.split("validation")

    assert (train.num_rows, validation.num_rows) == (16, 4)
    assert Counter(validation["pose_id"].to_pylist()) == {1: 2, 2: 2}
    assert sorted((train["uri"].to_pylist()) + validation["uri"].to_pylist()) == sorted(
        f"s3://checkins/{key}" for key in PLENTY
    )


def test_a_label_of_no_mapped_source_matches_its_name_in_every_bucket() -> None:
    one, two = bucket("one", "a.jpg", "b.jpg"), bucket("two", "x/a.jpg", "c.jpg")
    labels = labels_of(("a.jpg", 1), ("b.jpg", 2, "elsewhere"), ("c.jpg", 2))

    manifest = build_manifest([one, two], labels, POSES)

    assert poses_by_key(manifest) == {"a.jpg": 1, "x/a.jpg": 1, "b.jpg": 2, "c.jpg": 2}


def test_the_same_name_in_two_buckets_is_told_apart_by_mapped_sources() -> None:
    one, two = bucket("one", "a.jpg", "b.jpg"), bucket("two", "a.jpg", "b.jpg")
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
        [plenty(**{"other.jpg": "other"})], labels, POSES, source_buckets={"training": "two"}
    )

    assert "other.jpg" not in poses_by_key(manifest)
    assert manifest.report.labels_without_photo == ("other.jpg",)


def test_a_source_may_be_mapped_to_a_folder() -> None:
    photos = listing(Folder(Path("/photos")), PLENTY)
    labels = labels_of(*((name, pose, "phone") for name, pose in PLENTY_LABELS))

    manifest = build_manifest([photos], labels, POSES, source_buckets={"phone": "/photos/"})

    assert len(poses_by_key(manifest)) == 20
    assert manifest.table["uri"][0].as_py() == "/photos/biceps-0.jpg"


def test_a_source_may_be_mapped_to_a_folder_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = listing(Folder(tmp_path / "photos"), PLENTY)
    labels = labels_of(*((name, pose, "phone") for name, pose in PLENTY_LABELS))

    manifest = build_manifest([photos], labels, POSES, source_buckets={"phone": "photos"})

    assert len(poses_by_key(manifest)) == 20


def test_an_accent_in_two_code_points_matches_one_in_one() -> None:
    photos = plenty(**{"x/se\u0301ance.jpg": "one"})

    manifest = build_manifest([photos], labels_of(*PLENTY_LABELS, ("s\u00e9ance.jpg", 1)), POSES)

    assert poses_by_key(manifest)["x/se\u0301ance.jpg"] == 1


def test_photos_in_a_folder_named_after_a_pose_need_no_label() -> None:
    keys = [
        "7/a.jpg",
        "7/deep/b.jpg",
        "11/a.jpg",
        "11/7/b.jpg",
        "99/c.jpg",
        "7.jpg",
        "more/7/d.jpg",
        "07/e.jpg",
    ]
    photos = listing(Folder(Path("/photos")), {key: key for key in keys})

    manifest = build_manifest([photos], labels_of(), POSES)

    assert poses_by_key(manifest) == {"7/a.jpg": 7, "7/deep/b.jpg": 7, "11/a.jpg": 11, "11/7/b.jpg": 11}
    assert manifest.report.sources == (SourceReport("/photos", total=8, labelled=4, bytes=800),)


def test_folders_named_after_poses_count_in_a_bucket_too() -> None:
    photos = listing(Bucket("checkins"), {"7/a.jpg": "a", "2026/7/b.jpg": "b", "07/c.jpg": "c", **PLENTY})

    manifest = build_manifest([photos], labels_of(*PLENTY_LABELS), POSES)

    assert poses_by_key(manifest)["7/a.jpg"] == 7
    assert set(poses_by_key(manifest)) == {"7/a.jpg", *PLENTY}
    assert manifest.report.num_by_folder == 1


def test_folders_named_after_poses_are_those_below_the_source_s_prefix() -> None:
    keys = ["2026/7/a.jpg", "2026/7/b.jpg", "2026/11/c.jpg", "2026/11/d.jpg", "2026/e.jpg"]
    photos = listing(Bucket("checkins", "2026/"), {key: key for key in keys})

    manifest = build_manifest([photos], labels_of(), {**POSES, 2026: "Year"})

    assert poses_by_key(manifest) == {
        "2026/7/a.jpg": 7,
        "2026/7/b.jpg": 7,
        "2026/11/c.jpg": 11,
        "2026/11/d.jpg": 11,
    }


def test_a_label_that_contradicts_the_folder_is_a_conflict() -> None:
    photos = listing(
        Folder(Path("/photos")), {f"{pose}/{n}.jpg": f"{pose} {n}" for pose in (1, 2) for n in "abc"}
    )

    manifest = build_manifest([photos], labels_of(("a.jpg", 1)), POSES)

    assert manifest.report.conflicts == ("'/photos/2/a.jpg': labelled with different poses",)
    assert poses_by_key(manifest) == {"1/a.jpg": 1, "1/b.jpg": 1, "1/c.jpg": 1, "2/b.jpg": 2, "2/c.jpg": 2}


def test_two_labels_of_different_poses_are_a_conflict_and_the_photo_is_left_out() -> None:
    labels = labels_of(*PLENTY_LABELS, ("odd.jpg", 1), ("odd.jpg", 2), ("twice.jpg", 1), ("twice.jpg", 1))

    manifest = build_manifest([plenty(**{"odd.jpg": "odd", "twice.jpg": "twice"})], labels, POSES)

    assert manifest.report.conflicts == ("'s3://checkins/odd.jpg': labelled with different poses",)
    assert poses_by_key(manifest).get("odd.jpg") is None
    assert poses_by_key(manifest)["twice.jpg"] == 1
    assert (
        manifest.report.sources[0].labelled == 22
    )  # a contradictory label is a label: nobody may clean it away


def test_a_mapped_and_an_unmapped_label_can_contradict_each_other() -> None:
    labels = labels_of(*PLENTY_LABELS, ("odd.jpg", 1, "phone"), ("odd.jpg", 2))

    manifest = build_manifest(
        [plenty(**{"odd.jpg": "odd"})], labels, POSES, source_buckets={"phone": "checkins"}
    )

    assert manifest.report.conflicts == ("'s3://checkins/odd.jpg': labelled with different poses",)


def test_copies_labelled_with_different_poses_are_all_left_out() -> None:
    copies = {"one.jpg": "same", "two.jpg": "same", "three.jpg": "same", "unlabelled.jpg": "same"}
    labels = labels_of(*PLENTY_LABELS, ("one.jpg", 1), ("two.jpg", 1), ("three.jpg", 2))

    manifest = build_manifest([plenty(**copies)], labels, POSES)

    assert set(poses_by_key(manifest)) == set(PLENTY)
    assert manifest.report.conflicts == (
        "'s3://checkins/one.jpg': a copy of another photo, labelled with another pose",
        "'s3://checkins/three.jpg': a copy of another photo, labelled with another pose",
        "'s3://checkins/two.jpg': a copy of another photo, labelled with another pose",
    )


def test_photos_of_equal_etag_and_other_size_are_no_copies() -> None:
    photos = plenty(**{"one.jpg": "same", "two.jpg": "same"})
    sizes = pa.array([100] * 21 + [101], pa.int64())
    photos = Listing(photos.source, photos.table.set_column(3, "size", sizes))

    manifest = build_manifest([photos], labels_of(*PLENTY_LABELS, ("one.jpg", 1), ("two.jpg", 2)), POSES)

    assert manifest.report.conflicts == ()
    assert poses_by_key(manifest)["two.jpg"] == 2


def test_photos_without_an_etag_are_no_copies() -> None:
    photos = plenty(**{"one.jpg": "", "two.jpg": ""})

    manifest = build_manifest([photos], labels_of(*PLENTY_LABELS, ("one.jpg", 1), ("two.jpg", 2)), POSES)

    assert manifest.report.conflicts == ()
    assert manifest.report.num_copies == 0


def test_labels_without_a_photo_are_named() -> None:
    labels = labels_of(*PLENTY_LABELS, ("gone.jpg", 1), ("lost.jpg", 2, "training"))

    manifest = build_manifest([plenty()], labels, POSES)

    assert sorted(manifest.report.labels_without_photo) == ["gone.jpg", "lost.jpg"]


def test_labels_of_a_source_that_could_not_be_listed_are_not_called_missing() -> None:
    failed = Listing(Bucket("two"), error=UnreachableError("list s3://two: no answer"))
    labels = labels_of(*PLENTY_LABELS, ("there.jpg", 1, "training"), ("gone.jpg", 1, "checkins"))

    manifest = build_manifest(
        [plenty(), failed], labels, POSES, source_buckets={"training": "two", "checkins": "checkins"}
    )

    assert manifest.report.labels_without_photo == ("gone.jpg",)


def test_what_the_label_file_held_of_no_use_is_passed_on() -> None:
    labels = labels_of(
        *PLENTY_LABELS, malformed=("record 3: no good",), unknown_poses=("record 4: a.jpg: pose 99",)
    )

    report = build_manifest([plenty()], labels, POSES).report

    assert report.malformed == ("record 3: no good",)
    assert report.unknown_poses == ("record 4: a.jpg: pose 99",)


def test_a_photo_that_only_an_unusable_label_names_is_not_unlabelled() -> None:
    named = [("odd.jpg", None), ("here.jpg", "phone"), ("elsewhere.jpg", "web"), ("lat-1.jpg", None)]
    unusable = pa.Table.from_pylist([{"name": n, "source": s} for n, s in named], schema=NAMED_SCHEMA)
    photos = plenty(**{"x/odd.jpg": "1", "here.jpg": "2", "elsewhere.jpg": "3", "nobody.jpg": "4"})

    manifest = build_manifest(
        [photos, bucket("two", "odd.jpg", "nobody.jpg")],
        labels_of(*PLENTY_LABELS, unusable=unusable),
        POSES,
        source_buckets={"phone": "checkins", "web": "other"},
    )

    one, two = manifest.report.sources
    assert (one.labelled, one.unusable, one.unlabelled) == (22, 2, 2)
    assert (two.labelled, two.unusable, two.unlabelled) == (1, 1, 1)
    assert set(poses_by_key(manifest)) == set(PLENTY)
    assert manifest.report.conflicts == manifest.report.labels_without_photo == ()


@pytest.mark.parametrize(
    ("reads_heic", "undecodable"),
    [
        (False, ("s3://checkins/x/1.HEIC", "s3://checkins/2.heif", "s3://checkins/5.DNG")),
        (True, ("s3://checkins/5.DNG",)),
    ],
)
def test_photos_that_cannot_be_decoded_and_poses_without_a_photo_are_named(
    monkeypatch: pytest.MonkeyPatch, reads_heic: bool, undecodable: tuple[str, ...]
) -> None:
    monkeypatch.setattr(kinds, "reads_heic", lambda: reads_heic)
    photos = plenty(**{"x/1.HEIC": "1", "2.heif": "2", "heic": "3", "4.heic.jpg": "4", "5.DNG": "5"})

    report = build_manifest([photos], labels_of(*PLENTY_LABELS, ("1.HEIC", 1)), POSES).report

    assert report.undecodable == undecodable
    assert report.poses_without_photo == ("pose 7 Back Lat Spread", "pose 11 Abs & Thighs")


def test_a_failed_source_is_named_and_the_others_are_used() -> None:
    failed = Listing(Bucket("two", "x/"), error=NotFoundError("list s3://two/x: NoSuchBucket"))

    manifest = build_manifest([failed, plenty()], labels_of(*PLENTY_LABELS), POSES)

    assert len(poses_by_key(manifest)) == 20
    assert manifest.report.sources == (
        SourceReport("s3://two/x", error="list s3://two/x: NoSuchBucket"),
        SourceReport("s3://checkins", total=20, labelled=20, bytes=2000),
    )
    assert manifest.report.failed_sources == manifest.report.sources[:1]


def test_when_all_sources_fail_each_reason_is_said() -> None:
    listings = [
        Listing(Bucket("one"), error=NotFoundError("list s3://one: NoSuchBucket")),
        Listing(Bucket("two"), error=UnreachableError("list s3://two: no answer")),
    ]

    with pytest.raises(StorageError) as caught:
        build_manifest(listings, labels_of(*PLENTY_LABELS), POSES)

    assert str(caught.value) == (
        "none of the 2 sources could be listed: list s3://one: NoSuchBucket; list s3://two: no answer"
    )


def test_each_source_s_report_counts_its_own() -> None:
    one = listing(Bucket("one"), PLENTY, num_others=3)
    two = bucket("two", "lat-1.jpg", "nobody.jpg")

    manifest = build_manifest([one, bucket("three"), two], labels_of(*PLENTY_LABELS), POSES)

    assert manifest.report.sources == (
        SourceReport("s3://one", total=20, labelled=20, bytes=2000, num_others=3),
        SourceReport("s3://three"),
        SourceReport("s3://two", total=2, labelled=1, bytes=200),
    )


def test_empty_buckets_are_said() -> None:
    with pytest.raises(DataError, match=r"^no photos in s3://one, s3://two; check bucket and prefix$"):
        build_manifest([bucket("one"), bucket("two")], labels_of(*PLENTY_LABELS), POSES)


def test_an_empty_bucket_beside_a_failed_one_says_both() -> None:
    failed = Listing(Bucket("two"), error=UnreachableError("list s3://two: no answer"))

    with pytest.raises(DataError, match=r"^no photos in s3://one; .*; list s3://two: no answer$"):
        build_manifest([bucket("one"), failed], labels_of(*PLENTY_LABELS), POSES)


def test_when_no_label_matches_one_example_of_each_is_shown() -> None:
    with pytest.raises(DataError) as caught:
        build_manifest([bucket("one", "x/IMG_1.jpg")], labels_of(("IMG-1.jpg", 1), ("b.jpg", 2)), POSES)

    assert str(caught.value) == (
        "no label matches a photo: 1 photos, 2 usable labels, 0 conflicts; labels are matched on the file "
        "name, for example a photo 'x/IMG_1.jpg' and a label 'IMG-1.jpg'; "
        "check labels, sources and source_buckets"
    )


def test_without_any_usable_label_that_is_said() -> None:
    with pytest.raises(DataError, match=r"0 usable labels.*'\(no usable label\)'"):
        build_manifest([plenty()], labels_of(), POSES)


def test_a_single_pose_cannot_be_trained_on() -> None:
    with pytest.raises(
        DataError, match=r"^only one pose \(7 Back Lat Spread\) has labelled photos; at least"
    ):
        build_manifest([bucket("one", "a.jpg", "b.jpg")], labels_of(("a.jpg", 7), ("b.jpg", 7)), POSES)


def test_without_a_photo_for_validation_nothing_is_trained() -> None:
    labels = labels_of(("a.jpg", 1), ("b.jpg", 2))

    with pytest.raises(
        DataError, match=r"^no photos for training or for validation: pose 1 Front Lat Spread: 1 photo"
    ):
        build_manifest([bucket("one", "a.jpg", "b.jpg")], labels, POSES)


@pytest.mark.parametrize("validation_share", [0.2, 0.9])
def test_a_pose_of_a_single_photo_stays_in_training_and_is_named(validation_share: float) -> None:
    labels = labels_of(*PLENTY_LABELS, ("lonely.jpg", 11))

    manifest = build_manifest(
        [plenty(**{"lonely.jpg": "lonely"})], labels, POSES, validation_share=validation_share
    )

    assert column_by_key(manifest, "split")["lonely.jpg"] == "train"
    assert manifest.class_mapping.classes == ("1", "11", "2")
    assert manifest.report.thin_poses == (
        "pose 11 Abs & Thighs: 1 photo(s) in one group, all in training; "
        "no validation photo measures it: label more",
    )


def test_a_pose_id_may_be_any_number() -> None:
    labels = labels_of(*((name, 2_000_000_000 if pose == 1 else pose) for name, pose in PLENTY_LABELS))

    manifest = build_manifest([plenty()], labels, {2: "A", 2_000_000_000: "B"})

    assert manifest.class_mapping.classes == ("2", "2000000000")
    assert column_by_key(manifest, "class_index")["lat-0.jpg"] == 1


def test_copies_are_counted_and_stay_on_one_side() -> None:
    copies = {f"copy-{number}.jpg": f"lat {number % 2}" for number in range(8)}
    labels = labels_of(*PLENTY_LABELS, *((key, 1) for key in copies))

    manifest = build_manifest([plenty(), listing(Bucket("other"), copies)], labels, POSES)

    assert manifest.report.num_copies == 8
    groups = column_by_key(manifest, "group")
    assert {groups[key] for key in ("lat-0.jpg", "copy-0.jpg", "copy-2.jpg", "copy-6.jpg")} == {
        "s3://checkins/lat-0.jpg"
    }
    splits = column_by_key(manifest, "split")
    assert len({splits[key] for key in ("lat-0.jpg", "copy-0.jpg", "copy-2.jpg", "copy-6.jpg")}) == 1
    assert len({splits[key] for key in ("lat-1.jpg", "copy-1.jpg", "copy-3.jpg", "copy-7.jpg")}) == 1


SESSIONS = {f"athlete-{athlete}/{pose}-{n}.jpg": f"{athlete} {pose} {n}"
            for athlete in range(10) for pose in (1, 2) for n in range(2)}  # fmt: skip


@pytest.mark.parametrize(
    "pattern", ["athlete-[0-9]", "^athlete-([0-9])/", "(?P<athlete>[0-9]+)/", "(?i)ATHLETE-([0-9])/(.)"]
)
def test_photos_of_equal_match_stay_together(pattern: str) -> None:
    labels = labels_of(*((key.rpartition("/")[2], int(key.rpartition("/")[2][0])) for key in SESSIONS))

    manifest = build_manifest([listing(Bucket("one"), SESSIONS)], labels, POSES, group_pattern=pattern)

    groups = column_by_key(manifest, "group")
    assert len(set(groups.values())) == 10
    for athlete in range(10):
        of_athlete = {groups[key] for key in SESSIONS if key.startswith(f"athlete-{athlete}/")}
        assert of_athlete == {f"s3://one/athlete-{athlete}/1-0.jpg"}
    assert manifest.split("validation").num_rows == 8


def test_without_a_capture_group_the_whole_match_counts_and_with_one_only_that() -> None:
    keys = ["a-1.jpg", "b-1.jpg", "a-2.jpg", "b-2.jpg"]
    labels = labels_of(*PLENTY_LABELS, *((key, 1) for key in keys))
    photos = plenty(**{key: key for key in keys})

    whole = build_manifest([photos], labels, POSES, group_pattern=r"[ab]-[0-9]")
    number = build_manifest([photos], labels, POSES, group_pattern=r"[ab]-([0-9])")

    assert len({column_by_key(whole, "group")[key] for key in keys}) == 4
    assert {key: column_by_key(number, "group")[key] for key in keys} == {
        "a-1.jpg": "s3://checkins/a-1.jpg",
        "b-1.jpg": "s3://checkins/a-1.jpg",
        "a-2.jpg": "s3://checkins/a-2.jpg",
        "b-2.jpg": "s3://checkins/a-2.jpg",
    }


@pytest.mark.parametrize("pattern", ["nobody-[0-9]", "(nobody-[0-9])?", "(nobody)|[a-z]"])
def test_photos_that_the_pattern_says_nothing_of_are_each_alone(pattern: str) -> None:
    manifest = build_manifest([plenty()], labels_of(*PLENTY_LABELS), POSES, group_pattern=pattern)

    assert len(set(manifest.table["group"].to_pylist())) == 20


@pytest.mark.parametrize("pattern", ["(?=lat)l", r"(l)\1", "(?<!x)lat"])
def test_a_pattern_that_re2_does_not_know_is_named(pattern: str) -> None:
    with pytest.raises(SettingError) as caught:
        build_manifest([plenty()], labels_of(*PLENTY_LABELS), POSES, group_pattern=pattern)

    assert str(caught.value).startswith(f"group_pattern={pattern!r}: not accepted by RE2: ")


def test_when_all_photos_are_one_group_that_is_said() -> None:
    with pytest.raises(DataError, match=r"^no photos for training or for validation: pose 1 .*; pose 2 "):
        build_manifest([plenty()], labels_of(*PLENTY_LABELS), POSES, group_pattern="jpg")


def test_the_split_depends_on_the_seed() -> None:
    splits = {
        tuple(
            build_manifest([plenty()], labels_of(*PLENTY_LABELS), POSES, seed=seed).table["split"].to_pylist()
        )
        for seed in range(5)
    }

    assert len(splits) == 5


@given(st.randoms(use_true_random=False))
def test_the_order_of_listings_labels_and_sources_does_not_matter(shuffler: random.Random) -> None:
    one = {**PLENTY, "session-1/x.jpg": "lat 1", "session-1/y.jpg": "y"}
    two = {"session-1/z.jpg": "lat 2", "z.jpg": "z"}
    records = [*PLENTY_LABELS, ("x.jpg", 1), ("y.jpg", 1), ("z.jpg", 1)]

    def shuffled() -> Manifest:
        parts = []
        for name, photos in (("one", one), ("two", two)):
            keys = shuffler.sample(list(photos), len(photos))
            parts.append(listing(Bucket(name), {key: photos[key] for key in keys}))
        labels = labels_of(*shuffler.sample(records, len(records)))
        return build_manifest(
            shuffler.sample(parts, 2), labels, POSES, group_pattern="session-[0-9]", validation_share=0.3
        )

    assert shuffled().table.equals(shuffled().table)


def test_photos_that_come_later_leave_the_split_of_most_as_it_was() -> None:
    many = {f"{pose}-{number}.jpg": f"{pose} {number}" for pose in (1, 2) for number in range(200)}
    more = {f"{pose}-later-{number}.jpg": f"{pose} later {number}" for pose in (1, 2) for number in range(20)}
    labels = labels_of(*((key, int(key[0])) for key in {**many, **more}))

    before = column_by_key(build_manifest([listing(Bucket("one"), many)], labels, POSES), "split")
    after = column_by_key(build_manifest([listing(Bucket("one"), {**many, **more})], labels, POSES), "split")

    assert sum(before[key] != after[key] for key in many) < 20  # of 400; a new shuffle moves about 128


@st.composite
def linked_photos(draw: st.DrawFn) -> dict[str, str]:
    """Photos of a few contents in a few sessions, so that contents chain sessions together."""
    places = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=20))
    return {
        f"session-{session}/{number}-of-{content}.jpg": f"content {content}"
        for number, (session, content) in enumerate(places)
    }


@given(linked_photos(), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.2, 0.5, 0.8]))
def test_no_two_copies_and_no_two_photos_of_a_session_are_ever_separated(
    photos: dict[str, str], seed: int, validation_share: float
) -> None:
    # The last digit of the content decides the pose, so that copies agree.
    labels = labels_of(
        *PLENTY_LABELS, *((key.rpartition("/")[2], (1, 2, 7)[int(key[-5]) % 3]) for key in photos)
    )

    manifest = build_manifest(
        [plenty(**photos)],
        labels,
        POSES,
        group_pattern="^session-[0-9]",
        validation_share=validation_share,
        seed=seed,
    )

    groups, splits = column_by_key(manifest, "group"), column_by_key(manifest, "split")
    assert set(groups) == {*PLENTY, *photos}
    for first in photos:
        for second in photos:
            if photos[first] == photos[second] or first[:9] == second[:9]:
                assert groups[first] == groups[second]
                assert splits[first] == splits[second]
    side_of_group = dict(zip(groups.values(), splits.values(), strict=True))
    assert all(splits[key] == side_of_group[group] for key, group in groups.items())


def test_contents_link_sessions_into_one_group_however_long_the_chain() -> None:
    links = {f"session-{n}/{m}.jpg": f"content {m}" for n in range(50) for m in (n, n + 1)}
    chain = dict(random.Random(1).sample(sorted(links.items()), len(links)))
    labels = labels_of(*PLENTY_LABELS, *((f"{number}.jpg", 1) for number in range(51)))

    manifest = build_manifest([plenty(**chain)], labels, POSES, group_pattern="session-[0-9]+")

    groups = column_by_key(manifest, "group")
    assert {groups[key] for key in chain} == {"s3://checkins/session-0/0.jpg"}
    assert manifest.report.num_copies == 49


def split_of(
    class_index: IntArray, group: IntArray, validation_share: float, seed: int
) -> npt.NDArray[np.bool_]:
    order = np.random.default_rng(seed).permutation(int(group.max()) + 1).astype(np.uint64)
    return split_groups(class_index, group, order[group], validation_share)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
)
def test_no_group_of_any_classes_is_ever_separated(
    photos: list[tuple[int, int]], validation_share: float, seed: int
) -> None:
    class_index, group = np.array(photos, np.int64).T

    is_validation = split_of(class_index, group, validation_share, seed)

    assert is_validation.dtype == bool
    assert len(is_validation) == len(photos)
    for each in np.unique(group):
        assert len(np.unique(is_validation[group == each])) == 1


@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=12), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
)
def test_each_class_is_on_both_sides_and_within_a_group_of_its_share(
    group_sizes: list[list[int]], validation_share: float, seed: int
) -> None:
    class_of_group = np.repeat(np.arange(len(group_sizes)), [len(sizes) for sizes in group_sizes])
    sizes = np.concatenate(group_sizes)
    group = np.repeat(np.arange(len(sizes)), sizes)
    class_index = class_of_group[group]

    is_validation = split_of(class_index, group, validation_share, seed)

    for index, of_class in enumerate(group_sizes):
        num_validation = int(is_validation[class_index == index].sum())
        if len(of_class) == 1:
            assert num_validation == 0
        else:
            assert 0 < num_validation < sum(of_class)
            assert abs(num_validation - validation_share * sum(of_class)) <= max(of_class) + 1e-9


def test_athletes_who_show_all_poses_are_shared_out() -> None:
    group = np.repeat(np.arange(10), 8)
    class_index = np.tile(np.arange(8), 10)

    is_validation = split_of(class_index, group, 0.2, seed=1)

    assert np.bincount(class_index[is_validation]).tolist() == [2] * 8


@pytest.mark.parametrize("seed", range(20))
def test_a_pose_that_only_one_athlete_shows_stays_in_training(seed: int) -> None:
    group = np.concatenate([np.repeat(np.arange(10), 8), [3]])
    class_index = np.concatenate([np.tile(np.arange(8), 10), [8]])

    is_validation = split_of(class_index, group, 0.2, seed)

    assert np.bincount(class_index[is_validation], minlength=9).tolist() == [2] * 8 + [0]


def test_of_two_athletes_who_show_all_poses_one_is_for_validation() -> None:
    group = np.repeat(np.arange(2), 8)
    class_index = np.tile(np.arange(8), 2)

    assert split_of(class_index, group, 0.2, seed=1).sum() == 8


def test_a_manifest_survives_its_file() -> None:
    manifest = build_manifest([plenty()], labels_of(*PLENTY_LABELS), POSES)

    read = Manifest.from_parquet(manifest.to_parquet(), name="manifest.parquet")

    assert read.table.equals(manifest.table)
    assert read.class_mapping == manifest.class_mapping
    assert read.split("validation").equals(manifest.split("validation"))


def parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "runs/m.parquet: not a manifest in Parquet: "),
        (b"uri,bucket,key\n", "runs/m.parquet: not a manifest in Parquet: "),
        (parquet(MANIFEST_SCHEMA.empty_table())[:-9], "runs/m.parquet: not a manifest in Parquet: "),
        (
            parquet(MANIFEST_SCHEMA.empty_table()),
            "runs/m.parquet: expected a manifest with the columns uri, bucket, key, size, etag, pose_id, "
            "class_index, group, split, got uri, bucket, key, size, etag, pose_id, class_index, group, split "
            "with 0 rows",
        ),
        (
            parquet(pa.table({"uri": ["a"], "label": [1]})),
            "runs/m.parquet: expected a manifest with the columns uri, bucket, key, size, etag, pose_id, "
            "class_index, group, split, got uri, label with 1 rows",
        ),
    ],
)
def test_another_file_is_refused_as_a_manifest(data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Manifest.from_parquet(data, name="runs/m.parquet")

    assert str(caught.value).startswith(message)


def change(column: str, values: dict[int, object]) -> bytes:
    """Give a saved manifest with these rows of one column overwritten."""
    rows = build_manifest([plenty()], labels_of(*PLENTY_LABELS), POSES).table.to_pylist()
    for row, value in values.items():
        rows[row][column] = rows[0]["uri"] if value == "first" else value
    return parquet(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (change("pose_id", {0: None}), "1 rows have no pose_id"),
        (change("split", {1: "tests"}), "split must be one of 'train', 'validation', 'test', got ['tests']"),
        (
            change("split", {row: "test" if row % 2 else "train" for row in range(len(PLENTY_LABELS))}),
            "no photo is in split 'validation'",
        ),
        (
            change("split", dict.fromkeys(range(len(PLENTY_LABELS)), "train")),
            "all photos are in one split, 'train'",
        ),
        (change("uri", {1: "first"}), "some uris occur twice"),
        (change("class_index", {0: 7}), "class_index does not number the poses 1, 2 from 0"),
    ],
)
def test_a_manifest_changed_by_hand_is_refused_where_it_contradicts_itself(data: bytes, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        Manifest.from_parquet(data, name="m.parquet")

    assert str(caught.value) == f"m.parquet: {problem}; build the manifest again"


def write_photos(folder: Path) -> Path:
    for pose_id in (1, 2):
        (folder / "photos" / str(pose_id)).mkdir(parents=True)
        for number in range(5):
            (folder / "photos" / str(pose_id) / f"{number}.jpg").write_bytes(b"%d %d" % (pose_id, number))
    return folder / "photos"


@pytest.mark.parametrize("origin", ["flag", "environment", "file"])
def test_a_label_file_asked_for_by_name_must_be_there(tmp_path: Path, origin: str) -> None:
    photos, typo = write_photos(tmp_path), str(tmp_path / "typo.json")
    (tmp_path / "settings.toml").write_text(f'labels = "{typo}"')
    settings = load_settings(
        {"sources": [str(photos)], "labels": typo if origin == "flag" else None},
        environment={"PHYSIQ_LABELS": typo} if origin == "environment" else {},
        file=tmp_path / "settings.toml" if origin == "file" else None,
    )

    with pytest.raises(LabelError, match=r"typo\.json: no such labels file; give its path with --labels"):
        collect_manifest(settings, POSES)


def test_folders_named_after_poses_need_no_label_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"sources": [str(write_photos(tmp_path))], "labels": None}, environment={})

    assert collect_manifest(settings, POSES).table.num_rows == 10


def test_a_label_file_that_cannot_be_looked_at_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mappings").write_bytes(b"")  # where the folder of the label file should be
    settings = load_settings({"sources": [str(write_photos(tmp_path))]}, environment={})

    with pytest.raises(LabelError, match="the labels file cannot be read: Not a directory"):
        collect_manifest(settings, POSES)
