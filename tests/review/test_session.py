"""What a review shows in which order, what it remembers, and what it says about the progress."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from listings import fill
from reviewing import lines_of

from physiq_ray.serving.refusals import RequestError

NAMES = ("anna/1.jpg", "anna/2.jpg", "anna/3.jpg", "ben/4.jpg", "cleo/5.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos", *NAMES)


def write_lines(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_unlabelled_photos_are_shown_and_labelled_ones_are_not(
    photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    label({"poseId": 7, "s3Filename": "1.jpg"}, {"poseId": None, "s3Filename": "4.jpg"})

    assert open_review(settings_of(photos)).shown() == ["anna/2.jpg", "anna/3.jpg", "cleo/5.jpg"]


def test_uncertain_drafts_come_first_and_certain_ones_last(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any
) -> None:
    drafts = write_lines(
        tmp_path / "drafts.jsonl",
        *(
            {"uri": str(photos / name), "poseId": pose_id, "confidence": confidence, "margin": margin}
            | {"draft": True, "model": "m"}
            for name, pose_id, confidence, margin in (
                ("anna/2.jpg", 7, 0.93, 0.9),
                ("cleo/5.jpg", None, 0.61, 0.31),
                ("ben/4.jpg", 5, 0.6, 0.4),
                ("gone.jpg", 7, 0.5, 0.1),
            )
        ),
    )
    review = open_review(settings_of(photos), drafts=drafts)

    # By the margin; photos without a draft count as 0.5.
    assert review.shown() == ["cleo/5.jpg", "ben/4.jpg", "anna/1.jpg", "anna/3.jpg", "anna/2.jpg"]
    first, last = review.session.items(0, 1)[0], review.session.items(4, 1)[0]
    assert (first["kind"], first["suggestion"], first["confidence"]) == ("draft", {"pose": None}, 0.61)
    assert (last["kind"], last["suggestion"], last["confidence"]) == ("draft", {"pose": 7}, 0.93)
    assert review.candidates.problems == [f"{drafts}: 1 drafts mean no listed photo"]


def test_drafts_unlike_all_labelled_photos_come_earlier(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any
) -> None:
    drafts = write_lines(
        tmp_path / "drafts.jsonl",
        *(
            {"uri": str(photos / name), "poseId": 7, "draft": True, "margin": margin, "unlike": unlike}
            for name, margin, unlike in (
                ("anna/1.jpg", 0.9, 0.4),  # 0.9 · 0
                ("anna/2.jpg", 0.3, 0.1),  # 0.3 · 3 / 4
                ("cleo/5.jpg", 0.1, 0.2),  # 0.1 · 2 / 4
                ("ben/4.jpg", 0.8, 0.3),  # 0.8 · 1 / 4; without a draft: 0.5 · 0.5
            )
        ),
    )

    shown = open_review(settings_of(photos), drafts=drafts).shown()

    assert shown == ["anna/1.jpg", "cleo/5.jpg", "ben/4.jpg", "anna/2.jpg", "anna/3.jpg"]


def test_likely_wrong_labels_are_shown_with_the_suggested_pose_and_corrected_ones_are_not(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    label(*({"poseId": 1, "s3Filename": name} for name in NAMES[:3]))

    def suspect(name: str, pose_id: int, *, is_likely_wrong: bool = True) -> dict[str, Any]:
        return {
            **{"poseId": pose_id, "uri": str(photos / name), "likelyWrong": is_likely_wrong},
            **{"labelledProbability": 0.02, "suggestedPoseId": 7, "suggestedProbability": 0.9},
        }

    suspects = write_lines(
        tmp_path / "suspects.jsonl",
        suspect("anna/1.jpg", 1),
        suspect("anna/2.jpg", 1, is_likely_wrong=False),
        suspect("anna/3.jpg", 5),
    )
    review = open_review(settings_of(photos), suspects=suspects)

    assert review.shown() == ["anna/1.jpg", "ben/4.jpg", "cleo/5.jpg"]
    [item] = review.session.items(0, 1)
    assert (item["kind"], item["label"], item["suggestion"]) == ("suspect", {"pose": 1}, {"pose": 7})
    review.decide("anna/1.jpg", 7)
    assert lines_of(review.close())[0]["replaces"] == 1


def test_doubtful_photos_of_the_service_are_shown_by_their_margin(
    make_bucket: Callable[..., str], settings_of: Any, open_review: Any
) -> None:
    def answer(*shares: float) -> bytes:
        poses = [{"id": id, "probability": share} for id, share in zip((5, 1), shares, strict=True)]
        return json.dumps({"probabilities": poses}).encode()

    bucket = make_bucket({"a.jpg": b"1"})
    queue = make_bucket(
        {
            **{"2026-11-28/sure.jpg": b"2", "2026-11-28/sure.json": answer(0.95, 0.05)},
            **{"2026-11-28/unsure.jpg": b"3", "2026-11-28/unsure.json": answer(0.51, 0.49)},
            **{"2026-11-28/alone.jpg": b"4"},
        }
    )
    review = open_review(settings_of(f"s3://{bucket}"), feedback=f"s3://{queue}")

    assert [key.rpartition("/")[2] for key in review.shown()] == [
        "unsure.jpg",
        "a.jpg",
        "alone.jpg",
        "sure.jpg",
    ]
    assert review.session.items(0, 1)[0]["suggestion"] == {"pose": 5}
    assert review.candidates.problems == [
        f"s3://{queue}: 1 photos have no answer next to them that can be read"
    ]


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        (None, ["anna/1.jpg", "ben/4.jpg", "cleo/5.jpg", "anna/2.jpg", "anna/3.jpg"]),
        (r"\d", ["anna/1.jpg", "anna/2.jpg", "anna/3.jpg", "ben/4.jpg", "cleo/5.jpg"]),
    ],
)
def test_spread_takes_one_photo_of_each_group_in_turn(
    photos: Path, settings_of: Any, open_review: Any, pattern: str | None, keys: list[str]
) -> None:
    assert open_review(settings_of(photos, group_pattern=pattern), order="spread").shown() == keys


def test_a_decision_counts_at_once_and_undo_takes_it_back(
    photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    label({"poseId": 7, "s3Filename": "1.jpg"})
    review = open_review(settings_of(photos))

    assert review.decide("anna/2.jpg", 7)["progress"]["poses"][2] == {
        **{"id": 7, "labelled": 1, "added": 1, "thin": None}
    }
    again = review.decide("anna/2.jpg", 5)["progress"]
    assert (again["done"], [pose["added"] for pose in again["poses"]]) == (1, [0, 1, 0])
    undone = review.session.undo()
    assert (undone["key"], undone["position"], undone["decided"]) == ("anna/2.jpg", 0, {"pose": 7})
    undone = review.session.undo()
    assert (undone["decided"], undone["progress"]["done"]) == (None, 0)
    with pytest.raises(RequestError, match="no decision of this journal is left"):
        review.session.undo()


def test_photos_per_hour_count_from_the_first_decision(
    photos: Path, settings_of: Any, open_review: Any
) -> None:
    review = open_review(settings_of(photos))
    assert review.decide("anna/1.jpg", 7)["progress"]["per_hour"] is None
    review.decide("anna/2.jpg", 7)
    review.clock["s"] += 36

    assert review.session.progress()["per_hour"] == 200


def test_a_review_continues_its_journal_and_can_undo_in_it(
    photos: Path, settings_of: Any, open_review: Any
) -> None:
    review = open_review(settings_of(photos))
    review.decide("anna/3.jpg", 7)
    review.close()

    again = open_review(settings_of(photos))

    assert again.shown() == ["anna/3.jpg", "anna/1.jpg", "anna/2.jpg", "ben/4.jpg", "cleo/5.jpg"]
    assert again.session.describe()["first"] == 1
    assert again.session.undo()["key"] == "anna/3.jpg"


def test_photos_that_another_journal_decided_are_not_shown_again(
    photos: Path, settings_of: Any, open_review: Any
) -> None:
    review = open_review(settings_of(photos))
    review.decide("anna/1.jpg", 7)
    review.decide("anna/2.jpg", 7)
    review.session.undo()
    review.close()

    other = open_review(settings_of(photos), "review-b.jsonl")

    assert other.shown() == ["anna/2.jpg", "anna/3.jpg", "ben/4.jpg", "cleo/5.jpg"]
    assert other.decide("anna/1.jpg", 5)["label"] == {"pose": 7}
    assert lines_of(other.close())[0]["replaces"] == 7


def test_a_search_finds_labelled_photos_too(
    photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    label({"poseId": 7, "s3Filename": "4.jpg"})
    review = open_review(settings_of(photos))

    [found] = review.session.search("BEN/")
    assert (found["key"], found["label"]) == ("ben/4.jpg", {"pose": 7})
    assert review.session.search(" ") == review.session.search("[") == []


@pytest.mark.parametrize(("row", "pose_id"), [(5, 7), (-1, 7), (0, 2)])
def test_an_unknown_photo_or_pose_is_refused_and_not_written(
    photos: Path, settings_of: Any, open_review: Any, row: int, pose_id: int
) -> None:
    review = open_review(settings_of(photos))

    with pytest.raises(RequestError):
        review.session.decide(row, pose_id)
    assert review.close().read_text() == ""


def test_digits_then_letters_are_the_keys_of_poses_without_those_of_other_actions(
    tmp_path: Path, photos: Path, settings_of: Any, open_review: Any
) -> None:
    settings = settings_of(photos)
    poses = [{"id": number, "name": f"Pose {number}"} for number in range(100, 140)]
    (tmp_path / "poses.json").write_text(json.dumps(poses))

    keys = [pose["key"] for pose in open_review(settings).session.describe()["poses"]]

    assert keys[:12] == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c"]
    assert {"u", "z", "0"}.isdisjoint(keys)
    assert keys[33:] == [None] * 7  # these poses have a button only


def test_a_label_that_is_newer_than_another_journal_counts(
    photos: Path, settings_of: Any, open_review: Any, label: Any
) -> None:
    label({"poseId": 1, "s3Filename": "4.jpg"})
    review = open_review(settings_of(photos))
    review.decide("anna/1.jpg", 7)
    review.decide("ben/4.jpg", 7)
    review.close()
    # The first decision was merged and then corrected; the second, a correction, is not merged yet.
    label({"poseId": 1, "s3Filename": "4.jpg"}, {"poseId": 5, "s3Filename": "1.jpg"})

    other = open_review(settings_of(photos), "review-b.jsonl")

    assert [found["label"] for found in other.session.search("/1.jpg")] == [{"pose": 5}]
    assert [found["label"] for found in other.session.search("/4.jpg")] == [{"pose": 7}]
