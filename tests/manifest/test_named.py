from building import (
    PLENTY_LABELS,
    POSES,
    build_manifest,
    labels_of,
    labels_with_sources,
    list_bucket,
    list_plenty,
)

from physiq_ray.errors import UnreachableError
from physiq_ray.manifest import find_labelled
from physiq_ray.storage import Bucket, Listing


def test_labels_concern_the_bucket_that_they_name_or_all_buckets() -> None:
    one, two = list_bucket("one", "a.jpg", "b 1.jpg"), list_bucket("two", "a.jpg")
    labels = labels_with_sources(
        *(("a.jpg", "phone"), ("b%201.jpg", None), ("gone.jpg", None), ("lost.jpg", "phone")),
        *(("s3://two/away.jpg", None), ("s3://three/far.jpg", None)),
    )

    first, second = find_labelled([one, two], labels, POSES, {"phone": "one"})

    assert first is not None
    assert second is not None
    assert first.is_labelled.to_pylist() == [True, True]
    assert second.is_labelled.to_pylist() == [False]
    assert (first.num_labels, first.unmatched) == (4, ("gone.jpg", "lost.jpg"))
    assert (second.num_labels, second.unmatched) == (2, ("gone.jpg", "s3://two/away.jpg"))


def test_a_label_resembles_photos_of_its_bucket_or_photos_that_may_have_moved() -> None:
    photos = list_bucket("one", "x/A-1.png", "x/b_2.png", "x/c3.png", "x/d4.png")
    two = list_bucket("two", "other.jpg")
    labels = labels_with_sources(
        *(("a1.jpg", None), ("B 2.jpg", "web"), ("s3://two/c3.jpg", None), ("s3://old/d4.jpg", None))
    )

    first, _ = find_labelled([photos, two], labels, POSES, {"web": "two"})

    assert first is not None
    assert first.resembles.to_pylist() == ["a1.jpg", None, None, "s3://old/d4.jpg"]


def test_labels_that_may_belong_to_a_failed_source_are_not_unmatched_but_protect_photos() -> None:
    failed = Listing(Bucket("two"), error=UnreachableError("list s3://two: no answer"))

    first, second = find_labelled(
        [list_bucket("one", "a-1.png"), failed], labels_with_sources(("a1.jpg", None)), POSES, {}
    )

    assert second is None
    assert first is not None
    assert first.unmatched == ()
    assert first.resembles.to_pylist() == ["a1.jpg"]


def test_labels_of_a_source_that_could_not_be_listed_are_not_unmatched() -> None:
    failed = Listing(Bucket("two"), error=UnreachableError("list s3://two: no answer"))
    labels = labels_of(*PLENTY_LABELS, ("there.jpg", 1, "training"), ("gone.jpg", 1, "checkins"))

    manifest = build_manifest(
        [list_plenty(), failed], labels, POSES, source_buckets={"training": "two", "checkins": "checkins"}
    )

    assert manifest.report.labels_without_photo == ("gone.jpg",)
