"""Doubtful photos are stored with their answer, and storing them neither delays nor prevents an answer."""

import hashlib
import io
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from replica import WAIT_S, Clock, MakePhoto, Reported, Run, answer_to

from physiq_ray.config import ServingSettings
from physiq_ray.images import decode_image
from physiq_ray.serving import feedback
from physiq_ray.serving.feedback import MAX_WAITING, Doubtful, Feedback
from physiq_ray.storage import write_bytes


def with_exif(photo: bytes) -> bytes:
    """Add EXIF data to a photo: place, time, camera and an orientation on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0110] = "Secret Camera 3000"
    exif[0x9003] = "2024:05:01 10:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    file = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(file, "JPEG", quality=95, exif=exif, comment=b"Secret comment")
    return file.getvalue()


def keep(
    folder: Path, reported: Reported, clock: Callable[[], float] = time.time, **settings: Any
) -> Feedback:
    return Feedback(ServingSettings(**settings), str(folder), reported.count_feedback, clock)


def doubtful(data: bytes, pose_id: int = 7) -> Doubtful:
    """Give a photo for which pose_id is the likeliest pose."""
    poses = [{"id": 1, "probability": 0.3}, {"id": pose_id, "probability": 0.4}]
    return Doubtful(data, {"probabilities": poses}, "request-1")


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("waiting-for-label/*.jpg"))


def test_a_doubtful_photo_is_stored_upright_and_without_exif_next_to_its_answer(
    make_photo: MakePhoto, run: Run, reported: Reported, tmp_path: Path
) -> None:
    photo = with_exif(make_photo(3, size=(120, 90)))

    [answer] = run(answer_to(photo), feedback=str(tmp_path / "kept"), feedback_below=1.0)

    md5 = hashlib.md5(photo).hexdigest()
    kept = tmp_path / "kept" / "waiting-for-label" / f"{md5}.jpg"
    data = kept.read_bytes()
    image = Image.open(io.BytesIO(data))
    assert image.size == (90, 120)
    assert not image.getexif()
    assert not {"exif", "comment", "icc_profile", "xmp"} & set(image.info)
    assert b"Secret" not in data
    record = json.loads(kept.with_suffix(".json").read_text(encoding="utf-8"))
    assert datetime.now(UTC) - datetime.fromisoformat(record.pop("time")) < timedelta(minutes=5)
    assert (record.pop("photo_md5"), record.pop("request_id")) == (md5, "")
    assert record == answer
    assert reported.feedback == {"kept": 1}
    assert len(list(kept.parent.iterdir())) == 2


def test_a_photo_with_a_high_confidence_is_not_stored(
    make_photo: MakePhoto, run: Run, reported: Reported, tmp_path: Path
) -> None:
    run(answer_to(make_photo()), feedback=str(tmp_path / "kept"), feedback_below=0.1)

    assert not (tmp_path / "kept").exists()
    assert reported.feedback == {}


def test_without_the_setting_no_photo_is_stored(
    make_photo: MakePhoto, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    run(answer_to(make_photo()), feedback_below=1.0)

    assert list(tmp_path.iterdir()) == []


def test_photos_that_arrive_faster_than_they_are_written_are_dropped_without_a_wait(
    make_photo: MakePhoto, reported: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_writing, may_continue = threading.Event(), threading.Event()
    write = write_bytes

    def write_late(data: bytes, uri: str) -> None:
        is_writing.set()
        assert may_continue.wait(WAIT_S)
        write(data, uri)

    monkeypatch.setattr(feedback, "write_bytes", write_late)
    kept = keep(tmp_path, reported)
    photos = [make_photo(number, size=(12, 16)) for number in range(101)]

    kept.offer(doubtful(photos[0]))
    assert is_writing.wait(WAIT_S)
    started_s = time.monotonic()
    for photo in photos[1:]:
        kept.offer(doubtful(photo))
    took_s = time.monotonic() - started_s
    dropped = reported.feedback["dropped"]
    may_continue.set()
    kept.close()

    assert took_s < 0.5
    assert dropped == 100 - MAX_WAITING
    assert reported.feedback == {"dropped": 100 - MAX_WAITING, "kept": 1 + MAX_WAITING}
    assert len(list(tmp_path.glob("*/*.jpg"))) == len(list(tmp_path.glob("*/*.json"))) == 1 + MAX_WAITING


def test_a_folder_that_cannot_be_written_does_not_prevent_answers(
    make_photo: MakePhoto, run: Run, reported: Reported, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("a file in its place")

    answers = run(
        answer_to(make_photo(1), make_photo(2)), feedback=str(tmp_path / "kept"), feedback_below=1.0
    )

    assert [answer["confidence"] > 0 for answer in answers] == [True, True]
    assert reported.feedback == {"failed": 2}


@pytest.mark.parametrize(
    "fault", [MemoryError(), ValueError("cannot write"), RuntimeError("storage")], ids=repr
)
def test_an_error_with_one_photo_does_not_prevent_the_storing_of_others(
    make_photo: MakePhoto,
    reported: Reported,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
) -> None:
    decode = decode_image
    faults = [fault]

    def decode_or_fail(*args: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return decode(*args, **options)

    monkeypatch.setattr(feedback, "decode_image", decode_or_fail)
    kept = keep(tmp_path, reported)

    kept.offer(doubtful(make_photo(1)))
    kept.offer(doubtful(make_photo(2)))
    kept.close()

    assert names(tmp_path) == [hashlib.md5(make_photo(2)).hexdigest()]
    assert reported.feedback == {"failed": 1, "kept": 1}


def test_a_photo_too_long_for_jpeg_is_answered_and_does_not_prevent_the_storing_of_others(
    make_photo: MakePhoto, run: Run, reported: Reported, tmp_path: Path
) -> None:
    file = io.BytesIO()
    Image.new("L", (70_000, 2)).save(file, "PNG")

    answers = run(
        answer_to(file.getvalue(), make_photo()), feedback=str(tmp_path / "kept"), feedback_below=1.0
    )

    assert len(answers) == 2
    assert reported.feedback == {"failed": 1, "kept": 1}


# Bounds


def test_a_photo_with_the_same_content_is_stored_once(
    make_photo: MakePhoto, reported: Reported, tmp_path: Path
) -> None:
    first, second = keep(tmp_path, reported), keep(tmp_path, reported)  # two replicas
    for kept in (first, first, second):
        kept.offer(doubtful(make_photo(1)))
        time.sleep(0.01)
    first.close()
    second.close()

    assert names(tmp_path) == [hashlib.md5(make_photo(1)).hexdigest()]
    assert reported.feedback == {"kept": 2, "known": 1}


def test_at_most_so_many_photos_are_kept_in_an_hour_a_day_and_of_a_pose(
    make_photo: MakePhoto, reported: Reported, tmp_path: Path, clock: Clock
) -> None:
    clock.now_s = 86_400 * 20_000
    settings = {"feedback_per_hour": 3, "feedback_per_day": 6, "feedback_per_pose": 4}
    results: list[dict[str, int]] = []

    def offer(pose_id: int, seed: int) -> None:
        kept.offer(doubtful(make_photo(seed, size=(12, 16)), pose_id))
        deadline_s = time.monotonic() + WAIT_S
        while sum(reported.feedback.values()) <= len(results) and time.monotonic() < deadline_s:
            time.sleep(0.005)
        results.append(dict(reported.feedback))

    kept = keep(tmp_path, reported, clock, **settings)
    for seed in range(4):  # the fourth is too many for the hour
        offer(7, seed)
    assert results[-1] == {"kept": 3, "capped": 1}
    clock.now_s += 3600
    for seed in range(4, 6):  # the second is too many of the pose
        offer(7, seed)
    assert results[-1] == {"kept": 4, "capped": 2}
    for seed in range(6, 9):  # the third is too many for the hour and the day
        offer(5, seed)
    assert results[-1] == {"kept": 6, "capped": 3}
    clock.now_s += 3600
    offer(6, 9)
    assert results[-1] == {"kept": 6, "capped": 4}
    clock.now_s += 86_400
    offer(7, 10)
    assert results[-1] == {"kept": 7, "capped": 4}
    kept.close()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_photos_is_kept_chosen_by_content(
    make_photo: MakePhoto, reported: Reported, tmp_path: Path, share: float
) -> None:
    photos = [make_photo(number, size=(12, 16)) for number in range(20)]
    # By the definition: the first four bytes of the MD5, as a share of their range.
    expected = sorted(
        digest
        for digest in (hashlib.md5(photo).hexdigest() for photo in photos)
        if int(digest[:8], 16) < share * 2**32
    )
    assert share in (0.0, 1.0) or 0 < len(expected) < 20

    kept = keep(tmp_path, reported, feedback_share=share)
    for photo in photos:
        kept.offer(doubtful(photo))
        time.sleep(0.02)
    kept.close()

    assert names(tmp_path) == expected
