"""`physiq-ray cleanse` from outside: what it says, how it ends, and what is in the bucket afterwards."""

import json
import re
from pathlib import Path

import pytest
from keeping import denied, journal, states


def test_a_look_reports_each_bucket_and_all_and_touches_nothing(make_bucket, label, cleanse, contents):
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
    assert set(contents(left)) == {"a.jpg", "b.jpg", "notes.txt"}
    assert set(contents(right)) == {"2026/c.png", "d.jpeg"}
    assert not list(Path().glob("deleted-*"))


def test_the_typed_number_deletes_what_no_label_names_and_nothing_else(
    make_bucket, label, cleanse, contents, tmp_path
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "x/c.jpg": b"c", "d.HEIC": b"d", "e.txt": b"e"})
    label("a.jpg", "b.jpg", {"poseId": 99, "s3Filename": "c.jpg"})

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert "Type 1 to delete 1 photos (0.0 MB), anything else to leave them: " in ran.err
    assert f"s3://{bucket}: 1 of 1 deleted, 0.0 MB freed" in ran.out
    # c.jpg is labelled with a pose nobody knows: somebody labelled it all the same.
    assert set(contents(bucket)) == {"a.jpg", "b.jpg", "x/c.jpg", "e.txt"}
    lines = journal(tmp_path)
    assert states(lines) == [("d.HEIC", "deleting"), ("d.HEIC", "deleted")]
    assert lines[0]["etag"] == "8277e0910d750195b448797616e091ad"
    assert lines[0]["size"] == 1


@pytest.mark.parametrize("typed", ["", "y\n", "2\n", "01\n"])
def test_any_other_answer_leaves_everything(make_bucket, label, cleanse, contents, typed):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed=typed)

    assert ran.status == 2
    assert "nothing was deleted (scripts give --yes --expect N)" in ran.err
    assert set(contents(bucket)) == {"a.jpg", "b.jpg"}
    assert not list(Path().glob("deleted-*"))


def test_scripts_say_how_many_they_expect(make_bucket, label, cleanse, contents):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    label("a.jpg", "c.jpg")

    wrong = cleanse("--sources", f"s3://{bucket}", "--delete", "--yes", "--expect", "2")
    assert wrong.status == 2
    assert "--expect 2: the plan holds 1 photos; nothing was deleted" in wrong.err
    assert set(contents(bucket)) == {"a.jpg", "b.jpg", "c.jpg"}

    right = cleanse("--sources", f"s3://{bucket}", "--delete", "--yes", "--expect", "1", "--json")
    assert right.status == 0
    assert set(contents(bucket)) == {"a.jpg", "c.jpg"}
    answer = json.loads(right.out)
    assert answer["would_go"] == 1
    assert answer["removals"][0] | {"source": "", "failures": []} == {
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
    assert Path(answer["journal"]).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--delete", "--yes"], "--yes needs --expect N"),
        (["--yes", "--expect", "1"], "go with --delete, --move-to or --apply"),
        (["--restore", "j.jsonl", "--move-to", "s3://attic/x"], "--restore excludes the other flags"),
        (["--apply", "p.jsonl", "--plan", "q.jsonl"], "give one of the two"),
        (["--sources", "photos"], "sources: /"),
        (["--sources", "s3://bucket-a", "--move-to", "attic"], "--move-to attic: give s3://bucket/prefix"),
        (["--sources", "s3://bucket-a", "--move-to", "s3://bucket-a/attic"], "would find the moved photos"),
        (["--sources", "s3://bucket-a/x/y", "--move-to", "s3://bucket-a/x"], "would find the moved photos"),
    ],
)
def test_flags_that_make_no_sense_are_refused(label, cleanse, flags, message):
    label("a.jpg")
    ran = cleanse(*flags)
    assert ran.status == 2
    assert message in ran.err


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
def test_no_label_file_to_rely_on_stops_it(make_bucket, label, cleanse, contents, text, message):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    path = label()
    path.unlink() if text is None else path.write_text(text)

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--yes", "--expect", "2")

    assert ran.status == 1
    assert message in ran.err
    assert len(contents(bucket)) == 2


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
def test_a_bucket_in_doubt_is_refused(make_bucket, label, cleanse, contents, records, share, reason):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    label(*records)

    ran = cleanse(
        *("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", share, "--yes", "--expect", "0")
    )

    assert ran.status == 1
    assert f"NOT COMPLETE: s3://{bucket}: {reason}" in ran.err
    assert f"   REFUSED: {reason}" in ran.out
    assert len(contents(bucket)) == 4


def test_beside_a_bucket_in_doubt_the_others_go_on(make_bucket, label, cleanse, contents):
    doubtful = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    clear = make_bucket({"p.jpg": b"p", "q.jpg": b"q"})
    label("p.jpg")

    ran = cleanse("--sources", f"s3://{doubtful}", f"s3://{clear}", "--delete", typed="1\n")

    assert ran.status == 1
    assert len(contents(doubtful)) == 4
    assert set(contents(clear)) == {"p.jpg"}


def test_a_photo_uploaded_just_now_stays(make_bucket, label, cleanse, contents):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", min_age_hours=None)

    assert ran.status == 0
    assert "1 unlabelled stay: they are younger than --min-age-hours" in ran.out
    assert "Nothing to delete." in ran.out
    assert len(contents(bucket)) == 2


def test_a_bucket_that_cannot_be_listed_keeps_everything_and_the_others_go_on(
    make_bucket, label, cleanse, contents
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", "s3://no-such-bucket", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 1
    assert "NOT COMPLETE: s3://no-such-bucket: list s3://no-such-bucket: NoSuchBucket" in ran.err
    assert "OVERALL TOTALS (without 1 not listed)" in ran.out
    assert set(contents(bucket)) == {"a.jpg"}


def test_a_denied_listing_is_said_with_the_policy(make_bucket, label, cleanse, s3_direct):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": ["s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
            }
        ],
    }
    s3_direct.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))

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


def test_a_denied_deletion_is_said_with_the_policy_and_stops_at_once(
    make_bucket, label, cleanse, contents, on_request
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    label("a.jpg", "c.jpg")
    # Scripted, as SeaweedFS lets DeleteObjects pass a policy that denies s3:DeleteObject; not the probe's.
    on_request(
        "before-send.s3.DeleteObjects",
        lambda request, **_: denied() if b"<Key>b.jpg" in request.body else None,
    )

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 1
    assert (
        f"AccessDenied; the role or key needs s3:DeleteObject and s3:GetObject on arn:aws:s3:::{bucket}/*"
        in (ran.err)
    )
    assert '"s3:DeleteObject"' in ran.err.partition("needs this policy:\n")[2]
    assert len(contents(bucket)) == 3


def test_a_denied_probe_is_said_before_anything_is_deleted(make_bucket, label, cleanse, contents, s3_direct):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Deny",
                "Principal": "*",
                "Action": ["s3:PutObject"],
                "Resource": [f"arn:aws:s3:::{bucket}/*"],
            }
        ],
    }
    s3_direct.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 1
    assert "needs s3:PutObject on" in ran.err
    assert "to test conditional deletion" in ran.err
    assert set(contents(bucket)) == {"a.jpg", "b.jpg"}


def test_a_plan_is_written_looked_through_and_followed(make_bucket, label, cleanse, contents, tmp_path):
    bucket = make_bucket({f"{name}.jpg": name.encode() for name in "abcdefgh"})
    label("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    written = cleanse("--sources", f"s3://{bucket}", "--plan", "plan.jsonl")
    assert written.status == 0
    assert "wrote plan.jsonl: 4 photos" in written.out
    lines = (tmp_path / "plan.jsonl").read_text().splitlines()
    assert [sorted(json.loads(line)) for line in lines] == [["etag", "modified", "size", "uri"]] * 4
    (tmp_path / "plan.jsonl").write_text("\n".join(lines[:2]))  # g and h were looked at, and are to stay

    ran = cleanse("--sources", f"s3://{bucket}", "--apply", "plan.jsonl", "--yes", "--expect", "2")

    assert ran.status == 0
    assert set(contents(bucket)) == {f"{name}.jpg" for name in "abcdgh"}


def test_of_a_plan_only_that_goes_which_still_may(make_bucket, label, cleanse, contents, s3_direct):
    bucket = make_bucket({f"{name}.jpg": name.encode() for name in "abcdefgh"})
    label("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    cleanse("--sources", f"s3://{bucket}", "--plan", "plan.jsonl")
    label("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    s3_direct.put_object(Bucket=bucket, Key="f.jpg", Body=b"another")
    s3_direct.delete_object(Bucket=bucket, Key="g.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--apply", "plan.jsonl", "--yes", "--expect", "4")

    assert ran.status == 0
    assert f"stays: s3://{bucket}/e.jpg is labelled now" in ran.out
    assert (
        f"stays: s3://{bucket}/f.jpg changed since the plan (ETag 8fa14cdd754f91cc6554c9e71929cce7 → "
        in ran.out
    )
    assert f"stays: s3://{bucket}/g.jpg no longer exists" in ran.out
    assert set(contents(bucket)) == {f"{name}.jpg" for name in "abcdef"}


def test_a_plan_never_reaches_beyond_the_sources(make_bucket, label, cleanse, contents):
    bucket = make_bucket({"in/a.jpg": b"a", "in/b.jpg": b"b", "out/c.jpg": b"c"})
    label("a.jpg")
    cleanse("--sources", f"s3://{bucket}", "--plan", "plan.jsonl", "--max-delete-share", "1")

    ran = cleanse("--sources", f"s3://{bucket}/in", "--apply", "plan.jsonl", "--yes", "--expect", "2")

    assert ran.status == 0
    assert f"stays: s3://{bucket}/out/c.jpg is in none of the sources" in ran.out
    assert set(contents(bucket)) == {"in/a.jpg", "out/c.jpg"}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        '{"uri": "s3://b/a.jpg"}',
        '{"uri": "s3://b/a.txt", "size": 1, "etag": "e", "modified": "2026-01-01T00:00:00+00:00"}',
        '{"uri": "s3://b/a.jpg", "size": 1, "etag": "", "modified": "2026-01-01T00:00:00+00:00"}',
        '{"uri": "/b/a.jpg", "size": 1, "etag": "e", "modified": "2026-01-01T00:00:00+00:00"}',
        '{"uri": "s3://b/a.jpg", "size": 1.5, "etag": "e", "modified": "2026-01-01T00:00:00+00:00"}',
    ],
)
def test_of_a_damaged_plan_nothing_is_done(make_bucket, label, cleanse, contents, tmp_path, line):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    cleanse("--sources", f"s3://{bucket}", "--plan", "plan.jsonl")
    with (tmp_path / "plan.jsonl").open("a") as plan:
        plan.write(line + "\n")

    ran = cleanse("--sources", f"s3://{bucket}", "--apply", "plan.jsonl", "--yes", "--expect", "1")

    assert ran.status == 1
    assert "plan.jsonl: line 2: expected one photo" in ran.err
    assert len(contents(bucket)) == 2


def test_names_of_every_kind_are_deleted_right(make_bucket, label, cleanse, contents):
    odd = [
        "a b+c%41.jpg",
        "é.jpg",
        "日本/写真.jpg",
        "x\ry.jpg",
        "x\x01y.jpg",
        "&<>'\".jpg",
        "q?#.jpg",
        "z\U0001f4aa.jpg",
    ]
    bucket = make_bucket({name: name.encode() for name in odd} | {"x\ny.jpg": b"stays", "keep.jpg": b"k"})
    label("x\ny.jpg", "keep.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", "0.9", typed="8\n")

    assert ran.status == 0
    assert contents(bucket) == {"x\ny.jpg": b"stays", "keep.jpg": b"k"}


def test_interrupted_and_run_again_it_goes_on(make_bucket, label, cleanse, contents, on_request, monkeypatch):
    monkeypatch.setattr("physiq_ray.cleanse.remove.MAX_BATCH", 10)
    monkeypatch.setattr("physiq_ray.cleanse.remove.BATCHES_AT_ONCE", 1)
    bucket = make_bucket({f"{number:03d}.jpg": b"x" for number in range(50)} | {"keep.jpg": b"k"})
    label("keep.jpg")
    flags = ["--sources", f"s3://{bucket}", "--max-delete-share", "1", "--delete"]
    num_calls = 0

    def interrupt(**_):
        nonlocal num_calls
        num_calls += 1
        if num_calls == 4:  # the probe and two batches went through
            raise KeyboardInterrupt

    on_request("before-send.s3.DeleteObjects", interrupt)

    first = cleanse(*flags, typed="50\n")
    left = len(contents(bucket))
    second = cleanse(*flags, typed=f"{left - 1}\n")

    assert first.status == 1
    assert "names what was deleted; run the same command again to continue" in first.err
    assert left == 31
    assert second.status == 0
    assert set(contents(bucket)) == {"keep.jpg"}


def test_a_photo_of_a_kind_that_is_not_read_here_stays(make_bucket, label, cleanse, contents):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c", "c.DNG": b"raw"})
    label("a.jpg", "b.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 0
    assert "1 unlabelled stay: their format cannot be decoded here (for HEIC pip install" in ran.out
    assert set(contents(bucket)) == {"a.jpg", "b.jpg", "c.DNG"}
