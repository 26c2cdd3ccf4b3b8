from pathlib import Path

from building import (
    PLENTY,
    PLENTY_LABELS,
    POSES,
    build_manifest,
    labels_of,
    list_photos,
    list_plenty,
    poses_by_key,
)

from physiq_ray.manifest import SourceReport
from physiq_ray.storage import Bucket, Folder


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
    photos = list_photos(Folder(Path("/photos")), {key: key for key in keys})

    manifest = build_manifest([photos], labels_of(), POSES)

    assert poses_by_key(manifest) == {"7/a.jpg": 7, "7/deep/b.jpg": 7, "11/a.jpg": 11, "11/7/b.jpg": 11}
    assert manifest.report.sources == (SourceReport("/photos", total=8, labelled=4, bytes=800),)


def test_folders_named_after_poses_label_photos_in_a_bucket_too() -> None:
    photos = list_photos(Bucket("checkins"), {"7/a.jpg": "a", "2026/7/b.jpg": "b", "07/c.jpg": "c", **PLENTY})

    manifest = build_manifest([photos], labels_of(*PLENTY_LABELS), POSES)

    assert poses_by_key(manifest)["7/a.jpg"] == 7
    assert set(poses_by_key(manifest)) == {"7/a.jpg", *PLENTY}
    assert manifest.report.num_by_folder == 1


def test_folders_named_after_poses_are_directly_below_the_prefix_of_the_source() -> None:
    keys = ["2026/7/a.jpg", "2026/7/b.jpg", "2026/11/c.jpg", "2026/11/d.jpg", "2026/e.jpg"]
    photos = list_photos(Bucket("checkins", "2026/"), {key: key for key in keys})

    manifest = build_manifest([photos], labels_of(), {**POSES, 2026: "Year"})

    assert poses_by_key(manifest) == {
        "2026/7/a.jpg": 7,
        "2026/7/b.jpg": 7,
        "2026/11/c.jpg": 11,
        "2026/11/d.jpg": 11,
    }


def test_a_label_that_contradicts_the_folder_is_a_conflict() -> None:
    photos = list_photos(
        Folder(Path("/photos")), {f"{pose}/{n}.jpg": f"{pose} {n}" for pose in (1, 2) for n in "abc"}
    )

    manifest = build_manifest([photos], labels_of(("a.jpg", 1)), POSES)

    assert manifest.report.conflicts == ("'/photos/2/a.jpg': labelled with different poses",)
    assert poses_by_key(manifest) == {"1/a.jpg": 1, "1/b.jpg": 1, "1/c.jpg": 1, "2/b.jpg": 2, "2/c.jpg": 2}


def test_two_labels_of_different_poses_are_a_conflict_and_the_photo_is_not_used() -> None:
    labels = labels_of(*PLENTY_LABELS, ("odd.jpg", 1), ("odd.jpg", 2), ("twice.jpg", 1), ("twice.jpg", 1))

    manifest = build_manifest([list_plenty(**{"odd.jpg": "odd", "twice.jpg": "twice"})], labels, POSES)

    assert manifest.report.conflicts == ("'s3://checkins/odd.jpg': labelled with different poses",)
    assert poses_by_key(manifest).get("odd.jpg") is None
    assert poses_by_key(manifest)["twice.jpg"] == 1
    assert manifest.report.sources[0].labelled == 22  # conflicting labels protect a photo from cleanse too


def test_labels_with_and_without_a_mapped_source_can_conflict() -> None:
    labels = labels_of(*PLENTY_LABELS, ("odd.jpg", 1, "phone"), ("odd.jpg", 2))

    manifest = build_manifest(
        [list_plenty(**{"odd.jpg": "odd"})], labels, POSES, source_buckets={"phone": "checkins"}
    )

    assert manifest.report.conflicts == ("'s3://checkins/odd.jpg': labelled with different poses",)
