"""Photos that were deleted or moved are restored from a journal."""

import json

import pytest
from cleansing import names_and_states, read_journal_lines


@pytest.fixture
def attic(make_bucket):
    return make_bucket({})


def journal_file(folder):
    (path,) = folder.glob("deleted-*.jsonl")
    return path


@pytest.mark.slow
def test_photos_are_moved_with_their_metadata_and_restored(
    make_bucket, attic, label, cleanse, read_bucket, s3_direct, tmp_path
):
    bucket = make_bucket({"a.jpg": b"a", "x/b c é+.jpg": b"b", "x\ny.jpg": b"z"})
    s3_direct.put_object(
        Bucket=bucket, Key="d.jpg", Body=b"d", ContentType="image/jpeg", Metadata={"athlete": "7"}
    )
    before = read_bucket(bucket)
    label("a.jpg")
    flags = ["--sources", f"s3://{bucket}", "--max-delete-share", "1"]

    moved = cleanse(*flags, "--move-to", f"s3://{attic}/old", typed="3\n")

    assert moved.status == 0, moved.err
    assert f"Type 3 to move 3 photos (0.0 MB) to s3://{attic}/old" in moved.err
    assert set(read_bucket(bucket)) == {"a.jpg"}
    assert read_bucket(attic) == {
        f"old/{bucket}/d.jpg": b"d",
        f"old/{bucket}/x/b c é+.jpg": b"b",
        f"old/{bucket}/x\ny.jpg": b"z",
    }
    head = s3_direct.head_object(Bucket=attic, Key=f"old/{bucket}/d.jpg")
    assert (head["ContentType"], head["Metadata"]) == ("image/jpeg", {"athlete": "7"})
    assert {state for _, state in names_and_states(read_journal_lines(tmp_path))} == {"moving", "moved"}

    restored = cleanse("--restore", journal_file(tmp_path))

    assert restored.status == 0
    assert "3 photos in the journal: 3 restored, 0 already in place, 0 failed" in restored.out
    assert read_bucket(bucket) == before
    assert not read_bucket(attic)

    again = cleanse("--restore", journal_file(tmp_path), "--json")
    assert json.loads(again.out) == {"photos": 3, "restored": 0, "in_place": 3, "failures": []}
    assert read_bucket(bucket) == before


def test_deleted_photos_of_a_versioned_bucket_are_restored(
    make_bucket, label, cleanse, read_bucket, s3_direct, tmp_path
):
    bucket = make_bucket({})
    s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for name in ("a", "b", "c", "d"):
        s3_direct.put_object(Bucket=bucket, Key=f"{name}.jpg", Body=name.encode())
    label("a.jpg")
    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", "1", typed="3\n")
    assert ran.status == 0
    assert read_bucket(bucket) == {"a.jpg": b"a"}
    assert all(line["delete_marker"] for line in read_journal_lines(tmp_path) if line["state"] == "deleted")
    s3_direct.put_object(Bucket=bucket, Key="c.jpg", Body=b"a newer one")
    s3_direct.put_object(Bucket=bucket, Key="d.jpg", Body=b"a newer one, deleted by somebody")
    s3_direct.delete_object(Bucket=bucket, Key="d.jpg")

    restored = cleanse("--restore", journal_file(tmp_path))

    assert restored.status == 1
    assert "1 restored, 1 already in place, 1 failed" in restored.out
    assert f"s3://{bucket}/d.jpg: deleted once more since, by somebody else" in restored.err
    assert read_bucket(bucket) == {"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"a newer one"}


def test_a_deletion_whose_last_journal_line_is_truncated_is_restored(
    make_bucket, label, cleanse, read_bucket, s3_direct, tmp_path
):
    bucket = make_bucket({})
    s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for name in ("a", "b"):
        s3_direct.put_object(Bucket=bucket, Key=f"{name}.jpg", Body=name.encode())
    label("a.jpg")
    cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")
    path = journal_file(tmp_path)
    first, second = path.read_text().splitlines()
    path.write_text(first + "\n" + second[:20])  # as if the process was killed while it wrote

    restored = cleanse("--restore", path)

    assert restored.status == 0
    assert read_bucket(bucket) == {"a.jpg": b"a", "b.jpg": b"b"}


def test_a_permanently_deleted_photo_is_reported(make_bucket, label, cleanse, tmp_path):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    restored = cleanse("--restore", journal_file(tmp_path))

    assert restored.status == 1
    assert f"s3://{bucket}/b.jpg: deleted permanently: the bucket has no version of it" in restored.err


def test_another_object_in_the_attic_is_not_restored(
    make_bucket, attic, label, cleanse, read_bucket, s3_direct, tmp_path
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    cleanse("--sources", f"s3://{bucket}", "--move-to", f"s3://{attic}", typed="1\n")
    s3_direct.put_object(Bucket=attic, Key=f"{bucket}/b.jpg", Body=b"another object")

    restored = cleanse("--restore", journal_file(tmp_path))

    assert restored.status == 1
    assert "is another object; it stays there" in restored.err
    assert read_bucket(attic) == {f"{bucket}/b.jpg": b"another object"}
    assert read_bucket(bucket) == {"a.jpg": b"a"}
