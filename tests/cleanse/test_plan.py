"""The photos that a scan puts into the plan, and the buckets that it refuses."""

import json

import pytest
from cleansing import NAMES, RESEMBLING


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such labels file"),
        ("", "the labels file is not JSON"),
        ("[", "the labels file is not JSON"),
        ('{"a": 1}', "expected a JSON list of labels, got a dict"),
        ("[]", "the label file is empty, so every photo would count as unlabelled"),
        (
            '[{"poseId": 7}]',
            "the label file contains no usable label, so every photo would count as unlabelled",
        ),
    ],
)
def test_an_unusable_label_file_stops_the_command(make_bucket, label, cleanse, read_bucket, text, message):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    path = label()
    path.unlink() if text is None else path.write_text(text)

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--yes", "--expect", "2")

    assert ran.status == 1
    assert message in ran.err
    assert len(read_bucket(bucket)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("records", "share", "reason"),
    [
        (["a.jpg", {"poseId": 7}], "1", "1 malformed record(s) in the label file"),
        (["z.jpg"], "1", "no label matches any of its 4 photos"),
        (["a.jpg"], "0.5", "3 of its 4 photos would be removed, more than max_delete_share=0.5 of them"),
        (
            ["a.jpg", "b.jpg", "c.jpg"],
            "0.2",
            "1 of its 4 photos would be removed, more than max_delete_share=0.2",
        ),
    ],
)
def test_a_bucket_is_refused_if_its_labels_or_plan_are_implausible(
    make_bucket, label, cleanse, read_bucket, records, share, reason
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    label(*records)

    ran = cleanse(
        *("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", share, "--yes", "--expect", "0")
    )

    assert ran.status == 1
    assert f"NOT COMPLETE: s3://{bucket}: {reason}" in ran.err
    assert f"   REFUSED: {reason}" in ran.out
    assert len(read_bucket(bucket)) == 4


def test_a_refused_bucket_does_not_stop_the_others(make_bucket, label, cleanse, read_bucket):
    doubtful = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    clear = make_bucket({"p.jpg": b"p", "q.jpg": b"q"})
    label("p.jpg")

    ran = cleanse("--sources", f"s3://{doubtful}", f"s3://{clear}", "--delete", typed="1\n")

    assert ran.status == 1
    assert len(read_bucket(doubtful)) == 4
    assert set(read_bucket(clear)) == {"p.jpg"}


def test_a_recently_uploaded_photo_is_kept(make_bucket, label, cleanse, read_bucket):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", min_age_hours=None)

    assert ran.status == 0
    assert "1 unlabelled stay: they are younger than --min-age-hours" in ran.out
    assert "Nothing to delete." in ran.out
    assert len(read_bucket(bucket)) == 2


def test_a_photo_in_an_unsupported_format_is_kept(make_bucket, label, cleanse, read_bucket):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c", "c.DNG": b"raw"})
    label("a.jpg", "b.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert "1 unlabelled stay: their format cannot be decoded here (for HEIC pip install" in ran.out
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg", "c.DNG"}


def test_photos_that_wait_for_a_label_are_kept(make_bucket, label, cleanse, read_bucket):
    names = ["0" * 32, "0123456789abcdef" * 2]
    waiting = [f"to-label/waiting-for-label/{names[0]}.jpg", f"waiting-for-label/{names[1]}.jpg"]
    others = [f"not-waiting-for-label/{names[0]}.jpg", f"{names[0]}.jpg", "waiting-for-label/me.jpg"]
    bucket = make_bucket(dict.fromkeys(["a.jpg", "b.jpg", "c.jpg", *waiting, *others], b"x"))
    label("a.jpg", "b.jpg", "c.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="3\n")

    assert ran.status == 0
    assert "2 unlabelled stay: the service stored them to be labelled" in ran.out
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg", "c.jpg", *waiting}


def test_unmatched_labels_are_counted_and_named(make_bucket, label, cleanse):
    bucket = make_bucket(dict.fromkeys([*NAMES, "b.jpg"], b"x"))
    label(*NAMES, 'gone".jpg')

    text = cleanse("--sources", f"s3://{bucket}")
    as_json = json.loads(cleanse("--sources", f"s3://{bucket}", "--json").out)

    assert "   1 of 21 labels match no photo: 'gone\".jpg'" in text.out.splitlines()
    assert as_json["buckets"][0]["labels"] == 21
    assert as_json["buckets"][0]["unmatched"] == 1
    assert as_json["buckets"][0]["unmatched_labels"] == ['gone".jpg']
    assert as_json["would_go"] == 1


@pytest.mark.slow
def test_a_bucket_with_too_many_unmatched_labels_is_refused(make_bucket, label, cleanse, read_bucket):
    bucket = make_bucket(dict.fromkeys([*NAMES, "b.jpg"], b"x"))
    flags = ["--sources", f"s3://{bucket}", "--delete"]

    label(*NAMES, "gone 1.jpg", "gone2.jpg")  # 2 of 22: more than a twentieth
    refused = cleanse(*flags, "--yes", "--expect", "0")
    assert refused.status == 1
    assert (
        f"NOT COMPLETE: s3://{bucket}: 2 of its 22 labels match no photo, more than max_unmatched_share=0.05 "
        "of them ('gone 1.jpg', 'gone2.jpg'); correct the names, give all sources that the labels belong to, "
        "map them with source_buckets, or raise --max-unmatched-share if this is right"
    ) in refused.err
    assert len(read_bucket(bucket)) == 21

    allowed = cleanse(*flags, "--max-unmatched-share", "0.1", typed="1\n")
    assert allowed.status == 0
    assert set(read_bucket(bucket)) == set(NAMES)


def test_a_twentieth_of_the_labels_may_be_unmatched(make_bucket, label, cleanse, read_bucket):
    bucket = make_bucket(dict.fromkeys([*NAMES[1:], "b.jpg"], b"x"))
    label(*NAMES)  # 1 of 20

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert set(read_bucket(bucket)) == set(NAMES[1:])


def test_a_photo_whose_label_spells_its_name_differently_is_kept(make_bucket, label, cleanse, read_bucket):
    keys = ["IMG_5001.JPG", "front pose.jpg", "x/signed.jpg", "none.jpg", "unlabelled.jpg"]
    bucket = make_bucket(dict.fromkeys(keys, b"x"))
    label(
        "IMG_5001.jpg",
        "front%20pose.jpg",
        f"https://{bucket}.s3.amazonaws.com/x/signed.jpg?X-Amz-Expires=60",
        {"poseId": None, "s3Filename": "none.jpg"},  # no known pose
    )

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert "labels match no photo" not in ran.out
    assert set(read_bucket(bucket)) == set(keys) - {"unlabelled.jpg"}


def test_a_photo_in_a_folder_named_after_its_pose_is_kept(make_bucket, label, cleanse, read_bucket):
    keys = ["7/a.jpg", "7/in/b.jpg", "in/7/c.jpg", *NAMES]
    bucket = make_bucket(dict.fromkeys(keys, b"x"))
    label(*NAMES)

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert set(read_bucket(bucket)) == set(keys) - {"in/7/c.jpg"}


@pytest.mark.slow
@pytest.mark.parametrize("action", [["--delete"], ["--move-to", "s3://attic-of-nothing"]])
def test_a_photo_that_resembles_an_unmatched_label_is_kept_with_the_reason(
    make_bucket, label, cleanse, read_bucket, action
):
    bucket = make_bucket(dict.fromkeys([*NAMES, *RESEMBLING], b"x"))
    label(
        *NAMES, *NAMES, {"poseId": 7, "s3Filename": "img-5002.png"}, {"poseId": None, "s3Filename": "E7.jpeg"}
    )
    flags = ["--sources", f"s3://{bucket}", "--max-unmatched-share", "0.1"]

    scan = cleanse(*flags, "--json")
    ran = cleanse(*flags, *action)

    (plan,) = json.loads(scan.out)["buckets"]
    assert (plan["would_go"], plan["resembling"]) == (0, 2)
    assert plan["resembling_photos"] == [
        {"uri": f"s3://{bucket}/1757471824350-é7.png", "label": "E7.jpeg"},
        {"uri": f"s3://{bucket}/IMG 5002.JPG", "label": "img-5002.png"},
    ]
    lines = ran.out.splitlines()
    assert "   2 unlabelled photos stay: each resembles a label that matches no photo" in lines
    assert f"     s3://{bucket}/1757471824350-é7.png resembles 'E7.jpeg'" in lines
    assert f"     's3://{bucket}/IMG 5002.JPG' resembles 'img-5002.png'" in lines
    assert "Nothing to delete." in lines
    assert len(read_bucket(bucket)) == 22


def test_a_label_of_an_unlisted_bucket_protects_a_photo_of_its_name(make_bucket, label, cleanse, read_bucket):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c", "d.jpg": b"d"})
    label("a.jpg", "b.jpg", {"poseId": 7, "s3Filename": "c.jpg", "source": "checkins"})
    # The name of the bucket is misspelled, so labels of this source match nothing.
    flags = ["--sources", f"s3://{bucket}", "--source-buckets", "checkins=chekin-poses"]

    ran = cleanse(*flags, "--delete", typed="1\n")

    assert ran.status == 0
    assert f"     s3://{bucket}/c.jpg resembles 'c.jpg'" in ran.out
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg", "c.jpg"}


def test_photos_labelled_during_the_listing_are_not_in_the_plan(
    make_bucket, label, cleanse, on_request, tmp_path
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    label("a.jpg")
    on_request("before-send.s3.ListObjectsV2", lambda **_: label("a.jpg", "b.jpg", "c.jpg") and None)

    ran = cleanse("--sources", f"s3://{bucket}", "--json")

    assert json.loads(ran.out)["would_go"] == 1
