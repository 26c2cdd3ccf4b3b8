"""Labels that match no photo, and label files that change between the scan and the last deletion."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keeping import journal, states

from physiq_ray.cleanse.watch import look_at_file

NAMES = [f"{number:02d}.jpg" for number in range(20)]


class Typist(io.StringIO):
    """A terminal at which something else happens before the answer is typed."""

    def __init__(self, text: str, before: Callable[[], object]) -> None:
        super().__init__(text)
        self.before = before

    def readline(self, *args: Any) -> str:
        self.before()
        return super().readline(*args)


@pytest.fixture
def at_the_prompt(cleanse, monkeypatch):
    """Give a function that runs the command and changes something before the number is typed."""

    def run(change: Callable[[], object], *args: str, typed: str) -> Any:
        monkeypatch.setattr(io, "StringIO", lambda text: Typist(text, change))
        try:
            return cleanse(*args, typed=typed)
        finally:
            monkeypatch.undo()

    return run


def test_labels_without_a_photo_are_counted_and_named(make_bucket, label, cleanse):
    bucket = make_bucket(dict.fromkeys([*NAMES, "b.jpg"], b"x"))
    label(*NAMES, 'gone".jpg')

    text = cleanse("--sources", f"s3://{bucket}")
    answer = json.loads(cleanse("--sources", f"s3://{bucket}", "--json").out)

    assert "   1 of 21 labels match no photo: 'gone\".jpg'" in text.out.splitlines()
    assert answer["buckets"][0]["labels"] == 21
    assert answer["buckets"][0]["unmatched"] == 1
    assert answer["buckets"][0]["unmatched_labels"] == ['gone".jpg']
    assert answer["would_go"] == 1


def test_a_bucket_with_too_many_labels_without_a_photo_is_refused(make_bucket, label, cleanse, contents):
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
    assert len(contents(bucket)) == 21

    allowed = cleanse(*flags, "--max-unmatched-share", "0.1", typed="1\n")
    assert allowed.status == 0
    assert set(contents(bucket)) == set(NAMES)


def test_a_twentieth_of_the_labels_may_be_without_a_photo(make_bucket, label, cleanse, contents):
    bucket = make_bucket(dict.fromkeys([*NAMES[1:], "b.jpg"], b"x"))
    label(*NAMES)  # 1 of 20

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert set(contents(bucket)) == set(NAMES[1:])


def test_a_photo_whose_label_spells_it_differently_stays(make_bucket, label, cleanse, contents):
    keys = ["IMG_5001.JPG", "front pose.jpg", "x/signed.jpg", "none.jpg", "unlabelled.jpg"]
    bucket = make_bucket(dict.fromkeys(keys, b"x"))
    label(
        "IMG_5001.jpg",
        "front%20pose.jpg",
        f"https://{bucket}.s3.amazonaws.com/x/signed.jpg?X-Amz-Expires=60",
        {"poseId": None, "s3Filename": "none.jpg"},  # a person looked and saw no known pose
    )

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert "labels match no photo" not in ran.out
    assert set(contents(bucket)) == set(keys) - {"unlabelled.jpg"}


def test_a_photo_in_a_folder_named_after_its_pose_stays(make_bucket, label, cleanse, contents):
    keys = ["7/a.jpg", "7/in/b.jpg", "in/7/c.jpg", *NAMES]
    bucket = make_bucket(dict.fromkeys(keys, b"x"))
    label(*NAMES)

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert set(contents(bucket)) == set(keys) - {"in/7/c.jpg"}


RESEMBLING = ("IMG 5002.JPG", "1757471824350-é7.png")


@pytest.mark.parametrize("deed", [["--delete"], ["--move-to", "s3://attic-of-nothing"]])
def test_a_photo_that_resembles_a_label_without_a_photo_stays_and_says_why(
    make_bucket, label, cleanse, contents, deed
):
    bucket = make_bucket(dict.fromkeys([*NAMES, *RESEMBLING], b"x"))
    label(
        *NAMES, *NAMES, {"poseId": 7, "s3Filename": "img-5002.png"}, {"poseId": None, "s3Filename": "E7.jpeg"}
    )
    flags = ["--sources", f"s3://{bucket}", "--max-unmatched-share", "0.1"]

    look = cleanse(*flags, "--json")
    ran = cleanse(*flags, *deed)

    (plan,) = json.loads(look.out)["buckets"]
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
    assert len(contents(bucket)) == 22


def test_of_a_reviewed_plan_that_stays_which_resembles_a_label_by_now(make_bucket, label, cleanse, contents):
    bucket = make_bucket(dict.fromkeys([*NAMES, *RESEMBLING, "z.jpg"], b"x"))
    flags = ["--sources", f"s3://{bucket}"]
    label(*NAMES)
    cleanse(*flags, "--plan", "plan.jsonl")
    label(*NAMES, "img-5002.png")

    ran = cleanse(*flags, "--apply", "plan.jsonl", "--yes", "--expect", "3", "--json")

    assert ran.status == 0
    answer = json.loads(ran.out)
    assert answer["kept"] == [
        f"'s3://{bucket}/IMG 5002.JPG' resembles the label 'img-5002.png', which matches no photo"
    ]
    assert answer["removals"][0]["deleted"] == 2
    assert set(contents(bucket)) == {*NAMES, "IMG 5002.JPG"}


def test_what_resembles_a_label_that_comes_at_the_prompt_stays(make_bucket, label, at_the_prompt, contents):
    bucket = make_bucket(dict.fromkeys([*NAMES, *RESEMBLING], b"x"))
    label(*NAMES)

    ran = at_the_prompt(
        lambda: label(*NAMES, "img-5002.png"), "--sources", f"s3://{bucket}", "--delete", typed="2\n"
    )

    assert ran.status == 0
    assert "1 of 2 deleted, 0.0 MB freed, 1 stay: the labels changed since the scan" in ran.out
    assert f"  stays: 's3://{bucket}/IMG 5002.JPG' resembles the label 'img-5002.png'" in ran.out
    assert set(contents(bucket)) == {*NAMES, "IMG 5002.JPG"}


def test_a_label_of_a_bucket_that_is_not_listed_keeps_a_photo_of_its_name(
    make_bucket, label, cleanse, contents
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c", "d.jpg": b"d"})
    label("a.jpg", "b.jpg", {"poseId": 7, "s3Filename": "c.jpg", "source": "checkins"})
    # A slip in the name of the bucket: labels of that source match nothing.
    flags = ["--sources", f"s3://{bucket}", "--source-buckets", "checkins=chekin-poses"]

    ran = cleanse(*flags, "--delete", typed="1\n")

    assert ran.status == 0
    assert f"     s3://{bucket}/c.jpg resembles 'c.jpg'" in ran.out
    assert set(contents(bucket)) == {"a.jpg", "b.jpg", "c.jpg"}


def test_what_is_labelled_while_the_confirmation_is_pending_stays(make_bucket, label, contents, tmp_path):
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
    assert len(contents(bucket)) == 10
    assert journal(tmp_path) == []


def test_only_what_is_labelled_by_then_stays_and_json_says_so(
    make_bucket, label, at_the_prompt, contents, tmp_path
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
    assert set(contents(bucket)) == {"a.jpg", "b.jpg", "c.jpg"}
    assert states(journal(tmp_path)) == [("d.jpg", "deleting"), ("d.jpg", "deleted")]


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
@pytest.mark.parametrize("deed", ["--delete", "--move-to", "--apply"])
def test_a_label_file_that_cannot_be_relied_on_any_more_stops_the_bucket(
    make_bucket, label, cleanse, at_the_prompt, contents, tmp_path, text, reason, deed
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    path = label("a.jpg", "b.jpg")
    source = ("--sources", f"s3://{bucket}")
    cleanse(*source, "--plan", "plan.jsonl")
    arguments = {"--move-to": ("s3://" + make_bucket({}),), "--apply": ("plan.jsonl",)}.get(deed, ())

    ran = at_the_prompt(
        lambda: path.unlink() if text is None else path.write_text(text),
        *source,
        deed,
        *arguments,
        typed="2\n",
    )

    assert ran.status == 1
    assert f"NOT COMPLETE: s3://{bucket}: the label file changed: " in ran.err
    assert reason.format(bucket=bucket) in ran.err
    assert "; 2 photos were not tried; run cleanse again" in ran.err
    assert f"s3://{bucket}: 0 of 2 " in ran.out
    assert len(contents(bucket)) == 4
    assert journal(tmp_path) == []


@pytest.fixture
def small_batches(monkeypatch):
    """Make batches of two, one at a time."""
    for name, value in {"MAX_BATCH": 2, "BATCHES_AT_ONCE": 1, "SMALL_BATCH": 2, "THREADS": 1}.items():
        monkeypatch.setattr(f"physiq_ray.cleanse.remove.{name}", value)


@pytest.mark.parametrize(("deed", "event"), [("--delete", "DeleteObjects"), ("--move-to", "CopyObject")])
def test_what_is_labelled_between_two_batches_stays(
    make_bucket, label, cleanse, contents, on_request, small_batches, deed, event
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcdefghij"})
    attic = make_bucket({}) if deed == "--move-to" else None
    label("a.jpg", "b.jpg")

    def label_more(request, **_):
        if b"c.jpg" in (request.body or b"") or "c.jpg" in request.url:
            label("a.jpg", "b.jpg", "d.jpg", "f.jpg", "j.jpg")  # too late for d, which is of this batch

    on_request(f"before-send.s3.{event}", label_more)

    ran = cleanse(
        *(
            "--sources",
            f"s3://{bucket}",
            "--max-delete-share",
            "1",
            deed,
            *([f"s3://{attic}"] if attic else []),
        ),
        typed="8\n",
    )

    assert ran.status == 0, ran.err
    assert "6 of 8 " in ran.out
    assert "2 stay: the labels changed since the scan" in ran.out
    assert set(contents(bucket)) == {"a.jpg", "b.jpg", "f.jpg", "j.jpg"}


def test_a_label_file_that_breaks_between_two_batches_stops_the_rest(
    make_bucket, label, cleanse, contents, on_request, small_batches, tmp_path
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
    assert set(contents(bucket)) == {f"{name}.jpg" for name in "abefgh"}


def test_what_is_labelled_during_a_long_listing_is_in_no_plan(
    make_bucket, label, cleanse, on_request, tmp_path
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    label("a.jpg")
    on_request("before-send.s3.ListObjectsV2", lambda **_: label("a.jpg", "b.jpg", "c.jpg") and None)

    ran = cleanse("--sources", f"s3://{bucket}", "--json")

    assert json.loads(ran.out)["would_go"] == 1


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


def test_a_file_or_object_that_was_written_anew_is_told_from_the_old_one(make_bucket, s3_direct, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text("[1]")
    before = look_at_file(str(path))
    assert look_at_file(str(path)) == before
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("[2]")
    os.utime(path, ns=times)  # as rsync and cp -p do
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


def test_names_are_quoted_where_a_letter_cannot_be_seen(make_bucket, label, cleanse):
    bucket = make_bucket(dict.fromkeys(["a.jpg", "c\u202egpj.exe.jpg", "d\x1b[2J.jpg", "e\u0301.jpg"], b"x"))
    label("a.jpg", "f\u00a0.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--max-unmatched-share", "1", "--max-delete-share", "1")

    assert r"match no photo: 'f\xa0.jpg'" in ran.out
    for shown in (r"c\u202egpj.exe.jpg'", r"d\x1b[2J.jpg'", r"e\u0301.jpg'"):
        assert f"     's3://{bucket}/{shown}  0.0 kB" in ran.out
