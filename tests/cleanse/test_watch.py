"""Label files that change between the scan and the last deletion."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cleansing import NAMES, RESEMBLING, names_and_states, read_journal_lines

from physiq_ray.cleanse.watch import look_at_file

pytestmark = pytest.mark.slow


class Terminal(io.StringIO):
    """A terminal where something changes before the number is typed."""

    def __init__(self, text: str, before: Callable[[], object]) -> None:
        super().__init__(text)
        self.before = before

    def readline(self, *args: Any) -> str:  # type: ignore[override]  # the stub inherits that of bytes, too
        self.before()
        return super().readline(*args)


@pytest.fixture
def at_the_prompt(cleanse, monkeypatch):
    """Give a function that runs the command and changes something before the number is typed."""

    def run(change: Callable[[], object], *args: str, typed: str) -> Any:
        monkeypatch.setattr(io, "StringIO", lambda text: Terminal(text, change))
        try:
            return cleanse(*args, typed=typed)
        finally:
            monkeypatch.undo()

    return run


def test_a_photo_that_resembles_a_label_added_at_the_prompt_is_kept(
    make_bucket, label, at_the_prompt, read_bucket
):
    bucket = make_bucket(dict.fromkeys([*NAMES, *RESEMBLING], b"x"))
    label(*NAMES)

    ran = at_the_prompt(
        lambda: label(*NAMES, "img-5002.png"), "--sources", f"s3://{bucket}", "--delete", typed="2\n"
    )

    assert ran.status == 0
    assert "1 of 2 deleted, 0.0 MB freed, 1 stay: the labels changed since the scan" in ran.out
    assert f"  stays: 's3://{bucket}/IMG 5002.JPG' resembles the label 'img-5002.png'" in ran.out
    assert set(read_bucket(bucket)) == {*NAMES, "IMG 5002.JPG"}


def test_photos_labelled_at_the_prompt_are_kept(make_bucket, label, read_bucket, tmp_path):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcdefghij"})
    label(*(f"{name}.jpg" for name in "abcde"))
    command = [
        *(sys.executable, "-m", "physiq_ray.cli", "cleanse", "--sources", f"s3://{bucket}", "--delete"),
        *("--poses", "poses.json", "--labels", "labels.json", "--min-age-hours", "0"),
    ]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ.copy(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        prompt = b""
        while not prompt.endswith(b"to leave them: "):
            letter = process.stderr.read(1)
            assert letter, prompt
            prompt += letter
        label(*(f"{name}.jpg" for name in "abcdefghij"))
        out, err = process.communicate(b"5\n", timeout=60)

    assert process.returncode == 0, err
    assert f"s3://{bucket}: 0 of 5 deleted, 0.0 MB freed, 5 stay: the labels changed since the scan" in (
        out.decode()
    )
    assert f"  stays: s3://{bucket}/f.jpg is labelled now" in out.decode()
    assert len(read_bucket(bucket)) == 10
    assert read_journal_lines(tmp_path) == []


def test_json_names_the_photos_that_were_labelled_at_the_prompt(
    make_bucket, label, at_the_prompt, read_bucket, tmp_path
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    label("a.jpg", "b.jpg")

    ran = at_the_prompt(
        lambda: label("a.jpg", "b.jpg", "c.jpg"),
        *("--sources", f"s3://{bucket}", "--delete", "--json"),
        typed="2\n",
    )

    assert ran.status == 0
    (removal,) = json.loads(ran.out)["removals"]
    assert (removal["planned"], removal["deleted"]) == (2, 1)
    assert removal["kept"] == [f"s3://{bucket}/c.jpg is labelled now"]
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg", "c.jpg"}
    assert names_and_states(read_journal_lines(tmp_path)) == [("d.jpg", "deleting"), ("d.jpg", "deleted")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "labels.json: no such labels file"),
        ('[{"poseId": 7, "s3Filename": "a.jpg"}', "labels.json: the labels file is not JSON"),
        ("[]", "the label file is empty, so every photo would count as unlabelled"),
        ('[{"poseId": 7, "s3Filename": "z.jpg"}]', "2 photos have lost their labels, such as "),
        (
            '[{"poseId": 7, "s3Filename": "a.jpg"}, {"poseId": 7, "s3Filename": "d.jpg"}]',
            "1 photos have lost their labels, such as s3://{bucket}/b.jpg; wait until",
        ),
        (
            '[{"poseId": 7, "s3Filename": "a.jpg"}, {"poseId": 7, "s3Filename": "b.jpg"}, {"poseId": 7}]',
            "1 malformed record(s) in the label file",
        ),
        (
            '[{"poseId": 7, "s3Filename": "a.jpg"}, {"poseId": 7, "s3Filename": "b.jpg"}, '
            '{"poseId": 7, "s3Filename": "nowhere.jpg"}]',
            "1 of its 3 labels match no photo",
        ),
    ],
)
@pytest.mark.parametrize("action", ["--delete", "--move-to", "--apply"])
def test_a_label_file_that_became_unusable_at_the_prompt_stops_the_bucket(
    make_bucket, label, cleanse, at_the_prompt, read_bucket, tmp_path, text, reason, action
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    path = label("a.jpg", "b.jpg")
    source = ("--sources", f"s3://{bucket}")
    cleanse(*source, "--plan", "plan.jsonl")
    arguments = {"--move-to": ("s3://" + make_bucket({}),), "--apply": ("plan.jsonl",)}.get(action, ())

    ran = at_the_prompt(
        lambda: path.unlink() if text is None else path.write_text(text),
        *source,
        action,
        *arguments,
        typed="2\n",
    )

    assert ran.status == 1
    assert f"NOT COMPLETE: s3://{bucket}: the label file changed: " in ran.err
    assert reason.format(bucket=bucket) in ran.err
    assert "; 2 photos were not tried; run cleanse again" in ran.err
    assert f"s3://{bucket}: 0 of 2 " in ran.out
    assert len(read_bucket(bucket)) == 4
    assert read_journal_lines(tmp_path) == []


@pytest.fixture
def small_batches(monkeypatch):
    """Make batches of two photos, one batch at a time."""
    for name, value in {"MAX_BATCH": 2, "BATCHES_AT_ONCE": 1, "SMALL_BATCH": 2, "THREADS": 1}.items():
        monkeypatch.setattr(f"physiq_ray.cleanse.remove.{name}", value)


@pytest.mark.parametrize(("action", "event"), [("--delete", "DeleteObjects"), ("--move-to", "CopyObject")])
def test_photos_labelled_between_two_batches_are_kept(
    make_bucket, label, cleanse, read_bucket, on_request, small_batches, action, event
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcdefghij"})
    attic = make_bucket({}) if action == "--move-to" else None
    label("a.jpg", "b.jpg")

    def label_more(request, **_):
        if b"c.jpg" in (request.body or b"") or "c.jpg" in request.url:
            label("a.jpg", "b.jpg", "d.jpg", "f.jpg", "j.jpg")  # too late for d.jpg, which is in this batch

    on_request(f"before-send.s3.{event}", label_more)

    ran = cleanse(
        *(
            "--sources",
            f"s3://{bucket}",
            "--max-delete-share",
            "1",
            action,
            *([f"s3://{attic}"] if attic else []),
        ),
        typed="8\n",
    )

    assert ran.status == 0, ran.err
    assert "6 of 8 " in ran.out
    assert "2 stay: the labels changed since the scan" in ran.out
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg", "f.jpg", "j.jpg"}


def test_a_label_file_damaged_between_two_batches_stops_the_bucket(
    make_bucket, label, cleanse, read_bucket, on_request, small_batches, tmp_path
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcdefgh"})
    path = label("a.jpg", "b.jpg")

    def tear(request, **_):
        if b"c.jpg" in request.body:
            path.write_text(path.read_text()[:30])

    on_request("before-send.s3.DeleteObjects", tear)

    ran = cleanse("--sources", f"s3://{bucket}", "--max-delete-share", "1", "--delete", typed="6\n")

    assert ran.status == 1
    assert f"NOT COMPLETE: s3://{bucket}: the label file changed: " in ran.err
    assert "4 photos were not tried" in ran.err
    assert "2 of 6 deleted" in ran.out
    assert set(read_bucket(bucket)) == {f"{name}.jpg" for name in "abefgh"}


def test_an_unchanged_label_file_is_read_once(make_bucket, label, cleanse, monkeypatch, small_batches):
    from physiq_ray.cleanse import watch

    reads: list[object] = []
    load = watch.load_configured_labels
    monkeypatch.setattr(watch, "load_configured_labels", lambda *args: reads.append(args) or load(*args))
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcdefgh"})
    label("a.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--max-delete-share", "1", "--delete", typed="7\n")

    assert ran.status == 0
    assert len(reads) == 1


def test_a_rewritten_file_or_object_is_recognized(make_bucket, s3_direct, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text("[1]")
    before = look_at_file(str(path))
    assert look_at_file(str(path)) == before
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("[2]")
    os.utime(path, ns=times)  # as after rsync or cp -p
    assert look_at_file(str(path)) != before
    path.unlink()
    assert look_at_file(str(path)) == look_at_file(str(Path(f"{path}.too")))

    bucket = make_bucket({"labels.json": b"[1]"})
    uri = f"s3://{bucket}/labels.json"
    before = look_at_file(uri)
    assert look_at_file(uri) == before
    s3_direct.put_object(Bucket=bucket, Key="labels.json", Body=b"[2]")
    assert look_at_file(uri) != before
    s3_direct.delete_object(Bucket=bucket, Key="labels.json")
    assert look_at_file(uri) == ()
