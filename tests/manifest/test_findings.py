import pyarrow as pa
import pytest
from building import (
    PLENTY,
    PLENTY_LABELS,
    POSES,
    build_manifest,
    labels_of,
    list_bucket,
    list_photos,
    list_plenty,
    poses_by_key,
)

from physiq_ray.errors import NotFoundError
from physiq_ray.labels import NAMED_SCHEMA
from physiq_ray.manifest import SourceReport, describe_manifest
from physiq_ray.storage import Bucket, Listing, kinds


def test_unmatched_labels_are_reported() -> None:
    labels = labels_of(*PLENTY_LABELS, ("gone.jpg", 1), ("lost.jpg", 2, "training"))

    manifest = build_manifest([list_plenty()], labels, POSES)

    assert sorted(manifest.report.labels_without_photo) == ["gone.jpg", "lost.jpg"]


def test_a_photo_that_only_an_unusable_label_names_is_not_unlabelled() -> None:
    named = [("odd.jpg", None), ("here.jpg", "phone"), ("elsewhere.jpg", "web"), ("1-1.jpg", None)]
    unusable = pa.Table.from_pylist([{"name": n, "source": s} for n, s in named], schema=NAMED_SCHEMA)
    photos = list_plenty(**{"x/odd.jpg": "1", "here.jpg": "2", "elsewhere.jpg": "3", "unlabelled.jpg": "4"})

    manifest = build_manifest(
        [photos, list_bucket("two", "odd.jpg", "unlabelled.jpg")],
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
def test_photos_that_cannot_be_decoded_and_poses_without_a_photo_are_reported(
    monkeypatch: pytest.MonkeyPatch, reads_heic: bool, undecodable: tuple[str, ...]
) -> None:
    monkeypatch.setattr(kinds, "reads_heic", lambda: reads_heic)
    photos = list_plenty(**{"x/1.HEIC": "1", "2.heif": "2", "heic": "3", "4.heic.jpg": "4", "5.DNG": "5"})

    report = build_manifest([photos], labels_of(*PLENTY_LABELS, ("1.HEIC", 1)), POSES).report

    assert report.undecodable == undecodable
    assert report.poses_without_photo == ("pose 7 Back Lat Spread", "pose 11 Abs & Thighs")


def test_a_failed_source_is_reported_and_the_others_are_used() -> None:
    failed = Listing(Bucket("two", "x/"), error=NotFoundError("list s3://two/x: NoSuchBucket"))

    manifest = build_manifest([failed, list_plenty()], labels_of(*PLENTY_LABELS), POSES)

    assert len(poses_by_key(manifest)) == 20
    assert manifest.report.sources == (
        SourceReport("s3://two/x", error="list s3://two/x: NoSuchBucket"),
        SourceReport("s3://checkins", total=20, labelled=20, bytes=2000),
    )
    assert manifest.report.failed_sources == manifest.report.sources[:1]


def test_photos_that_the_service_stored_wait_for_a_label_until_they_have_one() -> None:
    waiting = [f"to-label/waiting-for-label/{digit * 32}.jpg" for digit in "01"]
    listing = list_bucket("checkins", *PLENTY, *waiting, "waiting-for-label/other.jpg")
    labels = labels_of(*PLENTY_LABELS, (waiting[0], 1))

    manifest = build_manifest([listing], labels, POSES)

    (source,) = manifest.report.sources
    assert (source.total, source.labelled, source.unlabelled, source.waiting) == (23, 21, 2, 1)
    line = next(describe_manifest(manifest))
    assert line.startswith(
        "s3://checkins: 23 photos, 21 labelled, 2 unlabelled (1 stored by the service to be"
    )
    assert waiting[0] in manifest.table["key"].to_pylist()


def test_the_report_of_a_source_counts_only_its_own_photos() -> None:
    one = list_photos(Bucket("one"), PLENTY, num_others=3)
    two = list_bucket("two", "1-1.jpg", "unlabelled.jpg")

    manifest = build_manifest([one, list_bucket("three"), two], labels_of(*PLENTY_LABELS), POSES)

    assert manifest.report.sources == (
        SourceReport("s3://one", total=20, labelled=20, bytes=2000, num_others=3),
        SourceReport("s3://three"),
        SourceReport("s3://two", total=2, labelled=1, bytes=200),
    )
