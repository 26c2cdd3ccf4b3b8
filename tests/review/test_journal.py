"""The journal keeps every confirmed decision, and no other one."""

import errno
import json
from pathlib import Path

import pytest

from physiq_ray.errors import ReviewError
from physiq_ray.review.journal import Decision, Journal, is_in_use, parse_decision, read_journal

FIRST = Decision("s3://checkins/a.jpg", 7, "review", "2026-11-28T09:30:00+00:00")
SECOND = Decision(
    "s3://checkins/é.jpg", None, "review", "2026-11-28T09:30:01+00:00", has_label=True, replaces=5
)
UNDONE = Decision("s3://checkins/a.jpg", None, "review", "2026-11-28T09:30:02+00:00", undone=FIRST.time)


def test_a_decision_is_on_the_disk_when_write_returns(tmp_path: Path) -> None:
    with Journal(tmp_path / "review-1.jsonl") as journal:
        journal.write([FIRST])
        assert read_journal(journal.path) == ([FIRST], None)


def test_decisions_are_read_as_they_were_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "review-1.jsonl") as journal:
        journal.write([FIRST, SECOND, UNDONE])

    assert read_journal(journal.path) == ([FIRST, SECOND, UNDONE], None)


def test_an_incomplete_last_line_is_ignored_reported_and_replaced_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "review-1.jsonl"
    with Journal(path) as journal:
        journal.write([FIRST, SECOND])
    path.write_bytes(path.read_bytes()[:-20])

    with Journal(path) as journal:
        assert journal.decisions == [FIRST]
        assert journal.torn is not None
        assert journal.torn.startswith('{"s3Filename": "s3://checkins/é.jpg"')
        journal.write([UNDONE])

    assert read_journal(path) == ([FIRST, UNDONE], None)


def test_a_damaged_line_before_the_last_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "review-1.jsonl"
    path.write_text(f'{json.dumps(FIRST.to_record())}\n{{"poseId": 7}}\n')

    with pytest.raises(ReviewError, match="line 2 is not a line of a review's journal"):
        read_journal(path)


def test_a_second_review_may_not_write_the_same_journal(tmp_path: Path) -> None:
    path = tmp_path / "review-1.jsonl"
    with Journal(path):
        assert is_in_use(path)
        with pytest.raises(ReviewError, match="another review writes this journal"):
            Journal(path)

    assert not is_in_use(path)


def test_a_full_disk_is_an_error_and_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path / "review-1.jsonl") as journal:
        journal.write([FIRST])
        with monkeypatch.context() as patch:
            patch.setattr("physiq_ray.review.journal.os.fsync", fail)
            with pytest.raises(ReviewError, match="No space left on device; the decision is not kept"):
                journal.write([SECOND])
        journal.write([UNDONE])

    assert read_journal(journal.path) == ([FIRST, UNDONE], None)


@pytest.mark.parametrize(
    "record",
    [
        [],
        {"by": "coach", "time": "t", "poseId": 7, "s3Filename": "a.jpg"},
        {"by": "review", "poseId": 7, "s3Filename": "a.jpg"},
        {"by": "review", "time": "t", "s3Filename": "a.jpg"},
        {"by": "feedback", "time": "t", "poseId": 7},
        {"by": "feedback", "time": "t", "poseId": "seven", "photoMd5": "00"},
        {"by": "feedback", "time": "t", "poseId": True, "photoMd5": "00"},
    ],
)
def test_a_record_that_is_no_decision_is_refused(record: object) -> None:
    with pytest.raises(ValueError, match=r"expected|missing"):
        parse_decision(record)
