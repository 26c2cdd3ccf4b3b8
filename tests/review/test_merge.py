"""Journals and feedback records become labels; conflicts are named, and nothing is lost or written twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from listings import fill
from reviewing import labels_in

from physiq_ray.cli import main
from physiq_ray.labels import load_labels
from physiq_ray.review.catalogue import load_catalogue
from physiq_ray.review.merge import Decisions, MergeResult, merge, read_decisions

NAMES = ("anna/1.jpg", "anna/2.jpg", "ben/3.jpg", "ben/4.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos", *NAMES)


def merged(settings: Any, *journals: Path, **options: Any) -> MergeResult:
    return merge(load_catalogue(settings), read_decisions(journals, None), **options)


def feedback(md5: str | None, pose_id: int | None = 7, time: str = "t1", **more: Any) -> bytes:
    record = {"photoMd5": md5, "poseId": pose_id, "by": "feedback", "time": time, **more}
    return json.dumps(record).encode()


def test_decisions_become_labels_once(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    settings = settings_of(photos)
    review = open_review(settings)
    review.decide("anna/1.jpg", 7)
    review.decide("ben/3.jpg", None)
    review.decide("ben/4.jpg", 5)
    review.session.undo()
    journal = review.close()

    first, second = merged(settings, journal), merged(settings, journal)

    assert labels_in(tmp_path / "labels.json") == {"1.jpg": 7, "3.jpg": None}
    assert (first.num_added, first.is_written) == (2, True)
    assert (second.num_added, second.num_same, second.is_written) == (0, 2, False)


def test_what_was_merged_is_read_as_labels_of_exactly_these_photos(
    tmp_path: Path, settings_of: Any, open_review: Any
) -> None:
    # The bare name 1.jpg would mean both photos.
    settings = settings_of(fill(tmp_path / "photos", "1.jpg", "anna/1.jpg"))
    review = open_review(settings)
    review.decide("1.jpg", 7)
    merged(settings, review.close())

    again = open_review(settings, "review-b.jsonl")

    assert again.shown() == ["anna/1.jpg"]
    assert load_labels([tmp_path / "labels.json"], {7: ""}).malformed == ()


def test_a_conflict_is_named_and_nothing_is_written_unless_asked_to(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    settings = settings_of(photos)
    review = open_review(settings)
    review.decide("anna/1.jpg", 7)
    review.decide("anna/2.jpg", 7)
    journal = review.close()
    before = label({"poseId": 1, "s3Filename": "anna/1.jpg"}).read_bytes()  # by somebody else, meanwhile

    refused = merged(settings, journal)
    assert (tmp_path / "labels.json").read_bytes() == before
    assert refused.conflicts == (f"{photos}/anna/1.jpg: review says pose 7, the label says pose 1",)
    assert not refused.is_written

    assert merged(settings, journal, allow_conflicts=True).is_written
    assert labels_in(tmp_path / "labels.json") == {"1.jpg": 1, "2.jpg": 7}


def test_a_correction_changes_the_label_that_was_seen_and_its_other_keys_stay(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    label({"poseId": 1, "s3Filename": "1.jpg", "coach": "Kim"}, {"poseId": 1, "s3Filename": "2.jpg"})
    settings = settings_of(photos)
    review = open_review(settings)
    review.decide("anna/1.jpg", 5)
    review.decide("anna/1.jpg", 7)

    result = merged(settings, review.close())

    assert (result.num_changed, result.conflicts) == (1, ())
    assert json.loads((tmp_path / "labels.json").read_text()) == [
        {"poseId": 7, "s3Filename": "1.jpg", "coach": "Kim"},
        {"poseId": 1, "s3Filename": "2.jpg"},
    ]


def test_a_correction_of_a_label_that_somebody_changed_meanwhile_is_a_conflict(
    photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    label({"poseId": 1, "s3Filename": "1.jpg"})
    settings = settings_of(photos)
    review = open_review(settings)
    review.decide("anna/1.jpg", 7)
    label({"poseId": 5, "s3Filename": "1.jpg"})

    assert merged(settings, review.close()).conflicts == (
        f"{photos}/anna/1.jpg: review says pose 7, the label says pose 5",
    )


def test_a_label_in_another_spelling_of_the_name_counts(
    photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    settings = settings_of(photos)
    review = open_review(settings)
    review.decide("anna/1.jpg", 7)
    label({"poseId": 1, "s3Filename": "https://cdn.example.com/anna/1.JPG?v=2"})

    assert len(merged(settings, review.close()).conflicts) == 1


def test_a_decision_that_contradicts_the_folder_of_the_photo_is_a_conflict(
    tmp_path: Path, settings_of: Any, open_review: Any
) -> None:
    settings = settings_of(fill(tmp_path / "photos", "1/a.jpg"))
    review = open_review(settings)
    review.decide("1/a.jpg", 7)

    assert merged(settings, review.close()).conflicts == (
        f"{tmp_path}/photos/1/a.jpg: review says pose 7, the label says pose 1 (by its folder)",
    )


def test_a_label_in_another_file_counts_and_is_not_changed(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    second = label({"poseId": 1, "s3Filename": "1.jpg"}, name="more.json")
    label()
    settings = settings_of(photos, labels=(str(tmp_path / "labels.json"), str(second)))
    review = open_review(settings)
    review.decide("anna/1.jpg", 7)

    assert merged(settings, review.close()).conflicts == (
        f"{photos}/anna/1.jpg: review says pose 7, the label says pose 1 (in another label file)",
    )


def test_an_undo_after_a_merge_takes_the_label_back(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any
) -> None:
    settings = settings_of(photos)
    review = open_review(settings)
    review.decide("anna/1.jpg", 7)
    merged(settings, review.journal.path)
    assert labels_in(tmp_path / "labels.json") == {"1.jpg": 7}
    review.session.undo()
    merged(settings, review.close())

    assert labels_in(tmp_path / "labels.json") == {}


def test_two_reviewers_lose_nothing_and_their_contradiction_is_named(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any
) -> None:
    settings = settings_of(photos)
    one, two = open_review(settings, "one.jsonl"), open_review(settings, "two.jsonl")
    one.decide("anna/1.jpg", 7)
    two.decide("anna/1.jpg", 5)
    two.decide("anna/2.jpg", 5)
    one.decide("ben/3.jpg", 1)

    merged(settings, one.close())
    result = merged(settings, two.close(), allow_conflicts=True)

    assert labels_in(tmp_path / "labels.json") == {"1.jpg": 7, "3.jpg": 1, "2.jpg": 5}
    assert len(result.conflicts) == 1


@pytest.mark.parametrize("is_merged_before", [False, True])
def test_a_correction_of_what_another_journal_says_is_no_conflict(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any, is_merged_before: bool
) -> None:
    settings = settings_of(photos)
    one = open_review(settings, "review-one.jsonl")
    one.decide("anna/1.jpg", 7)
    if is_merged_before:
        merged(settings, one.journal.path)
    two = open_review(settings, "review-two.jsonl")  # it shows pose 7
    two.decide("anna/1.jpg", 5)
    journals = one.close(), two.close()

    for _ in range(2):
        assert merged(settings, *journals).conflicts == ()
        assert labels_in(tmp_path / "labels.json") == {"1.jpg": 5}


def test_feedback_about_a_photo_that_only_the_service_has_means_its_copy(
    make_bucket: Callable[..., str], settings_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, known, first, second = (hashlib.md5(text).hexdigest() for text in (b"kept", b"known", b"a", b"b"))

    def answer(md5: str, request_id: str) -> bytes:
        return json.dumps({"photo_md5": md5, "request_id": request_id}).encode()

    bucket = make_bucket({"app/1.jpg": b"known"})
    queue = make_bucket(
        {
            **{f"waiting-for-label/{md5}.jpg": b"a smaller copy" for md5 in (kept, known)},
            f"waiting-for-label/{kept}.json": answer(kept, "request-1"),
            f"waiting-for-label/{known}.json": answer(known, "request-2"),
            f"waiting-for-label/{first}.json": answer(first, "request-of-two"),
            f"waiting-for-label/{second}.json": answer(second, "request-of-two"),
            "labels/1.json": feedback(None, 7, requestId="request-1"),
            "labels/2.json": feedback(known, 5),
            "labels/3.json": feedback(None, 7, requestId="request-of-two"),
            "labels/4.json": feedback(None, 7, requestId="request-that-was-sure"),
        }
    )
    settings_of()
    flags = ["--sources", f"s3://{bucket}", "--feedback", f"s3://{queue}"]
    files = ["--labels", str(tmp_path / "labels.json"), "--poses", str(tmp_path / "poses.json")]

    assert main(["labels", "merge", *flags, *files, "--json"]) == 1

    result = json.loads(capsys.readouterr().out)
    assert result["problems"] == [
        "the feedback for request 'request-of-two': it had 2 photos",
        "the feedback for request 'request-that-was-sure': its photo was not stored",
    ]
    assert labels_in(tmp_path / "labels.json") == {f"{kept}.jpg": 7, "1.jpg": 5}
    records = json.loads((tmp_path / "labels.json").read_text())
    assert {record["s3Filename"] for record in records} == {
        f"s3://{queue}/waiting-for-label/{kept}.jpg",
        f"s3://{bucket}/app/1.jpg",
    }


def test_feedback_is_found_by_the_md5_of_the_photo_and_the_rest_is_reported(
    make_bucket: Callable[..., str], settings_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = make_bucket({"a/1.jpg": b"one", "a/2.jpg": b"two", "copy.jpg": b"one"})
    queue = make_bucket(
        {
            "labels/1.json": feedback(hashlib.md5(b"one").hexdigest()),
            "labels/2.json": feedback(hashlib.md5(b"three").hexdigest()),
            "labels/3.json": b"no json",
            "labels/4.json": feedback(None, 5, s3Filename="2.jpg", requestId="r1"),
            "2026-11-28/x.json": b"an answer",
        }
    )
    settings_of()
    flags = ["--sources", f"s3://{bucket}", "--feedback", f"s3://{queue}"]
    files = ["--labels", str(tmp_path / "labels.json"), "--poses", str(tmp_path / "poses.json")]

    assert main(["labels", "merge", *flags, *files, "--json"]) == 1

    answer = json.loads(capsys.readouterr().out)
    assert (answer["num_added"], answer["conflicts"]) == (3, [])
    assert [hashlib.md5(b"three").hexdigest() in sentence for sentence in answer["not_found"]] == [True]
    assert [f"s3://{queue}/labels/3.json" in sentence for sentence in answer["problems"]] == [True]
    assert {
        record["s3Filename"]: (record["poseId"], record["by"])
        for record in json.loads((tmp_path / "labels.json").read_text())
    } == {
        f"s3://{bucket}/a/1.jpg": (7, "feedback"),
        f"s3://{bucket}/copy.jpg": (7, "feedback"),
        f"s3://{bucket}/a/2.jpg": (5, "feedback"),
    }


def test_labels_in_a_bucket_are_merged_into_the_object(
    make_bucket: Callable[..., str], read_bucket: Any, settings_of: Any, open_review: Any
) -> None:
    bucket = make_bucket({"a/1.jpg": b"one", "labels.jsonl": b'{"poseId": 1, "s3Filename": "z.jpg"}\n'})
    settings = settings_of(f"s3://{bucket}", labels=(f"s3://{bucket}/labels.jsonl",))
    review = open_review(settings)
    review.decide("a/1.jpg", 7)
    merged(settings, review.close())

    lines = [json.loads(line) for line in read_bucket(bucket)["labels.jsonl"].splitlines()]
    assert [(line["s3Filename"], line["poseId"]) for line in lines] == [
        ("z.jpg", 1),
        (f"s3://{bucket}/a/1.jpg", 7),
    ]


def test_a_photo_that_is_gone_is_reported(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any
) -> None:
    settings = settings_of(photos)
    review = open_review(settings)
    review.decide("anna/1.jpg", 7)
    (photos / "anna/1.jpg").unlink()

    assert merged(settings, review.close()).not_found == (
        f"'{photos}/anna/1.jpg' means no listed photo; it stays in the journal",
    )


def test_without_decisions_nothing_is_written(tmp_path: Path, photos: Path, settings_of: Any) -> None:
    merge(load_catalogue(settings_of(photos)), Decisions(()))

    assert not (tmp_path / "labels.json").exists()


def test_merging_nothing_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", "merge", "--sources", "photos"]) == 2
    assert "name journals of review, or give --feedback" in capsys.readouterr().err
