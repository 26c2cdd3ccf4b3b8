import json

import pytest
from cleansing import NAMES, RESEMBLING


@pytest.mark.slow
def test_a_reviewed_plan_is_applied(make_bucket, label, cleanse, read_bucket, tmp_path):
    bucket = make_bucket({f"{name}.jpg": name.encode() for name in "abcdefgh"})
    label("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    written = cleanse("--sources", f"s3://{bucket}", "--plan", "plan.jsonl")
    assert written.status == 0
    assert "wrote plan.jsonl: 4 photos" in written.out
    lines = (tmp_path / "plan.jsonl").read_text().splitlines()
    assert [sorted(json.loads(line)) for line in lines] == [["etag", "modified", "size", "uri"]] * 4
    (tmp_path / "plan.jsonl").write_text(
        "\n".join(lines[:2])
    )  # a person reviewed the plan and removed g and h

    ran = cleanse("--sources", f"s3://{bucket}", "--apply", "plan.jsonl", "--yes", "--expect", "2")

    assert ran.status == 0
    assert set(read_bucket(bucket)) == {f"{name}.jpg" for name in "abcdgh"}


def test_photos_of_a_plan_that_may_no_longer_be_deleted_are_kept(
    make_bucket, label, cleanse, read_bucket, s3_direct
):
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
    assert set(read_bucket(bucket)) == {f"{name}.jpg" for name in "abcdef"}


def test_photos_of_a_plan_outside_the_sources_are_kept(make_bucket, label, cleanse, read_bucket):
    bucket = make_bucket({"in/a.jpg": b"a", "in/b.jpg": b"b", "out/c.jpg": b"c"})
    label("a.jpg")
    cleanse("--sources", f"s3://{bucket}", "--plan", "plan.jsonl", "--max-delete-share", "1")

    ran = cleanse("--sources", f"s3://{bucket}/in", "--apply", "plan.jsonl", "--yes", "--expect", "2")

    assert ran.status == 0
    assert f"stays: s3://{bucket}/out/c.jpg is in none of the sources" in ran.out
    assert set(read_bucket(bucket)) == {"in/a.jpg", "out/c.jpg"}


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
def test_a_damaged_plan_is_refused(make_bucket, label, cleanse, read_bucket, tmp_path, line):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    cleanse("--sources", f"s3://{bucket}", "--plan", "plan.jsonl")
    with (tmp_path / "plan.jsonl").open("a") as plan:
        plan.write(line + "\n")

    ran = cleanse("--sources", f"s3://{bucket}", "--apply", "plan.jsonl", "--yes", "--expect", "1")

    assert ran.status == 1
    assert "plan.jsonl: line 2: expected one photo" in ran.err
    assert len(read_bucket(bucket)) == 2


@pytest.mark.slow
def test_a_photo_of_a_plan_that_now_resembles_an_unmatched_label_is_kept(
    make_bucket, label, cleanse, read_bucket
):
    bucket = make_bucket(dict.fromkeys([*NAMES, *RESEMBLING, "z.jpg"], b"x"))
    flags = ["--sources", f"s3://{bucket}"]
    label(*NAMES)
    cleanse(*flags, "--plan", "plan.jsonl")
    label(*NAMES, "img-5002.png")

    ran = cleanse(*flags, "--apply", "plan.jsonl", "--yes", "--expect", "3", "--json")

    assert ran.status == 0
    as_json = json.loads(ran.out)
    assert as_json["kept"] == [
        f"'s3://{bucket}/IMG 5002.JPG' resembles the label 'img-5002.png', which matches no photo"
    ]
    assert as_json["removals"][0]["deleted"] == 2
    assert set(read_bucket(bucket)) == {*NAMES, "IMG 5002.JPG"}
