"""Doubtful photos are stored with their answer, and storing them neither delays nor prevents an answer."""

import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from replica import WAIT_S, MakePhoto, Reported, Run, answer_to

from physiq_ray.serving import feedback
from physiq_ray.serving.feedback import MAX_WAITING, Feedback


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


def test_a_doubtful_photo_is_stored_upright_and_without_exif_next_to_its_answer(
    make_photo: MakePhoto, run: Run, reported: Reported, tmp_path: Path
) -> None:
    photo = with_exif(make_photo(3, size=(120, 90)))

    [answer] = run(answer_to(photo), feedback=str(tmp_path / "kept"), feedback_below=1.0)

    [kept] = (tmp_path / "kept").glob("????-??-??/a.jpg")
    data = kept.read_bytes()
    image = Image.open(io.BytesIO(data))
    assert image.size == (90, 120)
    assert not image.getexif()
    assert not {"exif", "comment", "icc_profile", "xmp"} & set(image.info)
    assert b"Secret" not in data
    record = json.loads(kept.with_suffix(".json").read_text(encoding="utf-8"))
    assert record.pop("time").startswith(kept.parent.name)
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
    write = feedback.write_bytes

    def write_late(data: bytes, uri: str) -> None:
        is_writing.set()
        assert may_continue.wait(WAIT_S)
        write(data, uri)

    monkeypatch.setattr(feedback, "write_bytes", write_late)
    kept = Feedback(str(tmp_path), reported.count_feedback)
    photo = make_photo()

    kept.offer(photo, "first", {})
    assert is_writing.wait(WAIT_S)
    started_s = time.monotonic()
    for number in range(100):
        kept.offer(photo, f"photo-{number}", {})
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
    decode = feedback.decode_image
    faults = [fault]

    def decode_or_fail(*args: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return decode(*args, **options)

    monkeypatch.setattr(feedback, "decode_image", decode_or_fail)
    kept = Feedback(str(tmp_path), reported.count_feedback)

    kept.offer(make_photo(1), "first", {})
    kept.offer(make_photo(2), "second", {})
    kept.close()

    assert [path.name for path in tmp_path.glob("*/*.jpg")] == ["second.jpg"]
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
