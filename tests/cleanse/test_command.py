"""The command `physiq-ray cleanse`: its output, its exit status, and the bucket afterwards."""

import json
import re
from pathlib import Path

import pytest
from cleansing import names_and_states, read_journal_lines
from refusals import refusal


def test_a_scan_reports_each_bucket_and_the_totals_and_deletes_nothing(
    make_bucket, label, cleanse, read_bucket
):
    left = make_bucket({"a.jpg": b"a" * 1000, "b.jpg": b"b" * 2000, "notes.txt": b"n"})
    right = make_bucket({"2026/c.png": b"c" * 500_000, "d.jpeg": b"d"})
    label("a.jpg", "d.jpeg")

    ran = cleanse("--sources", f"s3://{left}", f"s3://{right}")

    assert ran.status == 0
    assert re.sub(r"\d{4}-\d\d-\d\d", "DAY", ran.out).splitlines() == [
        f"📦 {left}:",
        "   Total: 2, Labeled: 1, Unlabeled: 1",
        "   0.0 MB, 0.0 MB of it would be freed; 1 objects are not photos",
        f"     s3://{left}/b.jpg  2.0 kB  DAY",
        f"📦 {right}:",
        "   Total: 2, Labeled: 1, Unlabeled: 1",
        "   0.5 MB, 0.5 MB of it would be freed",
        f"     s3://{right}/2026/c.png  500.0 kB  DAY",
        "🎯 OVERALL TOTALS:",
        "   Total: 4, Labeled: 2, Unlabeled: 2",
        "   Would go: 2 photos, storage to be freed: 0.5 MB of 0.5 MB",
        "Nothing was deleted: this was only a scan. --delete deletes these photos, --plan writes a plan.",
    ]
    assert set(read_bucket(left)) == {"a.jpg", "b.jpg", "notes.txt"}
    assert set(read_bucket(right)) == {"2026/c.png", "d.jpeg"}
    assert not list(Path().glob("deleted-*"))


def test_the_typed_number_deletes_only_unlabelled_photos(make_bucket, label, cleanse, read_bucket, tmp_path):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "x/c.jpg": b"c", "d.HEIC": b"d", "e.txt": b"e"})
    label("a.jpg", "b.jpg", {"poseId": 99, "s3Filename": "c.jpg"})

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert "Type 1 to delete 1 photos (0.0 MB), anything else to leave them: " in ran.err
    assert f"s3://{bucket}: 1 of 1 deleted, 0.0 MB freed" in ran.out
    # The label of c.jpg has an unknown pose, but c.jpg is labelled.
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg", "x/c.jpg", "e.txt"}
    lines = read_journal_lines(tmp_path)
    assert names_and_states(lines) == [("d.HEIC", "deleting"), ("d.HEIC", "deleted")]
    assert lines[0]["etag"] == "8277e0910d750195b448797616e091ad"
    assert lines[0]["size"] == 1


@pytest.mark.parametrize("typed", ["", "y\n", "2\n", "01\n"])
def test_any_other_answer_deletes_nothing(make_bucket, label, cleanse, read_bucket, typed):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed=typed)

    assert ran.status == 2
    assert "nothing was deleted (scripts give --yes --expect N)" in ran.err
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg"}
    assert not list(Path().glob("deleted-*"))


def test_yes_deletes_only_the_expected_number_of_photos(make_bucket, label, cleanse, read_bucket):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    label("a.jpg", "c.jpg")

    wrong = cleanse("--sources", f"s3://{bucket}", "--delete", "--yes", "--expect", "2")
    assert wrong.status == 2
    assert "--expect 2: the plan holds 1 photos; nothing was deleted" in wrong.err
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg", "c.jpg"}

    right = cleanse("--sources", f"s3://{bucket}", "--delete", "--yes", "--expect", "1", "--json")
    assert right.status == 0
    assert set(read_bucket(bucket)) == {"a.jpg", "c.jpg"}
    as_json = json.loads(right.out)
    assert as_json["would_go"] == 1
    assert as_json["removals"][0] | {"source": "", "failures": []} == {
        "source": "",
        "planned": 1,
        "deleted": 1,
        "freed_bytes": 1,
        "kept": [],
        "changed": [],
        "gone": 0,
        "failures": [],
        "stopped": None,
        "condition": "batch",
    }
    assert Path(as_json["journal"]).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--delete", "--yes"], "--yes needs --expect N"),
        (["--yes", "--expect", "1"], "go with --delete, --move-to, --tag or --apply"),
        (["--restore", "j.jsonl", "--move-to", "s3://attic/x"], "--restore excludes the other flags"),
        (["--apply", "p.jsonl", "--plan", "q.jsonl"], "give one of the two"),
        (["--sources", "photos"], "sources: /"),
        (["--sources", "s3://bucket-a", "--move-to", "attic"], "--move-to attic: give s3://bucket/prefix"),
        (["--sources", "s3://bucket-a", "--move-to", "s3://bucket-a/attic"], "would find the moved photos"),
        (["--sources", "s3://bucket-a/x/y", "--move-to", "s3://bucket-a/x"], "would find the moved photos"),
    ],
)
def test_contradictory_flags_are_refused(label, cleanse, flags, message):
    label("a.jpg")
    ran = cleanse(*flags)
    assert ran.status == 2
    assert message in ran.err


def test_a_bucket_that_cannot_be_listed_does_not_stop_the_others(make_bucket, label, cleanse, read_bucket):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", "s3://no-such-bucket", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 1
    assert "NOT COMPLETE: s3://no-such-bucket: list s3://no-such-bucket: NoSuchBucket" in ran.err
    assert "OVERALL TOTALS (without 1 not listed)" in ran.out
    assert set(read_bucket(bucket)) == {"a.jpg"}


def test_a_denied_listing_is_reported_with_the_needed_policy(make_bucket, label, cleanse, deny):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    deny(bucket, "s3:ListBucket")

    ran = cleanse("--sources", f"s3://{bucket}")

    assert ran.status == 1
    assert f"AccessDenied; the role or key needs s3:ListBucket on arn:aws:s3:::{bucket}" in ran.err
    needed = json.loads(ran.err.partition("needs this policy:\n")[2])
    assert needed["Statement"][0] == {
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{bucket}"],
    }
    assert needed["Statement"][1]["Action"] == ["s3:GetObject", "s3:DeleteObject"]


@pytest.mark.slow
def test_a_denied_deletion_is_reported_with_the_needed_policy(
    make_bucket, label, cleanse, read_bucket, on_request
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    label("a.jpg", "c.jpg")
    # The refusal is scripted, because SeaweedFS does not apply a policy that denies s3:DeleteObject to
    # DeleteObjects. The probe's deletion is not refused.
    on_request(
        "before-send.s3.DeleteObjects",
        lambda request, **_: refusal("AccessDenied", "scripted") if b"<Key>b.jpg" in request.body else None,
    )

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 1
    assert (
        f"AccessDenied; the role or key needs s3:DeleteObject and s3:GetObject on arn:aws:s3:::{bucket}/*"
        in (ran.err)
    )
    assert '"s3:DeleteObject"' in ran.err.partition("needs this policy:\n")[2]
    assert len(read_bucket(bucket)) == 3


def test_a_denied_probe_is_reported_before_the_first_deletion(make_bucket, label, cleanse, read_bucket, deny):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    deny(bucket, "s3:PutObject", "*")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 1
    assert "needs s3:PutObject on" in ran.err
    assert "to test conditional deletion" in ran.err
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg"}


def test_names_with_invisible_characters_are_quoted(make_bucket, label, cleanse):
    bucket = make_bucket(dict.fromkeys(["a.jpg", "c\u202egpj.exe.jpg", "d\x1b[2J.jpg", "e\u0301.jpg"], b"x"))
    label("a.jpg", "f\u00a0.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--max-unmatched-share", "1", "--max-delete-share", "1")

    assert r"match no photo: 'f\xa0.jpg'" in ran.out
    for shown in (r"c\u202egpj.exe.jpg'", r"d\x1b[2J.jpg'", r"e\u0301.jpg'"):
        assert f"     's3://{bucket}/{shown}  0.0 kB" in ran.out
