"""Files that are written together: all of them appear, or the earlier files stay."""

import pytest
from botocore.exceptions import ClientError

from physiq_ray import storage
from physiq_ray.errors import StorageError
from physiq_ray.storage import remote, written_together
from physiq_ray.storage.s3 import s3_client

LAST = ("b.txt", "a.txt")


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()[:3]
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_all_files_replace_the_earlier_ones_together(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with written_together(str(tmp_path), last=LAST) as folder:
        (folder / "a.txt").write_text("new")
        (folder / "deep").mkdir()
        (folder / "deep" / "c.txt").write_text("new")
        assert contents(tmp_path)["a.txt"] == "old"
    assert contents(tmp_path) == {"a.txt": "new", "deep/c.txt": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "deep"]


def test_a_full_disk_keeps_only_the_earlier_files(make_disk):
    disk, _ = make_disk(2_000_000)
    for name in LAST:
        (disk / name).write_text("old")

    def write():
        with written_together(str(disk), last=LAST) as folder:
            for name in LAST:
                storage.write_bytes(b"new" * 300_000, str(folder / name))
            storage.write_bytes(b"new" * 300_000, str(folder / "c.txt"))

    with pytest.raises(StorageError, match="No space left on device"):
        write()
    assert contents(disk) == {"a.txt": "old", "b.txt": "old"}
    assert sorted(path.name for path in disk.iterdir()) == ["a.txt", "b.txt"]


def test_a_read_only_folder_is_reported_before_the_block_runs(make_disk):
    disk, remount = make_disk(100_000)
    remount("ro")
    with (
        pytest.raises(StorageError, match=r"^write .*disk0: Read-only file system$"),
        written_together(str(disk), last=LAST),
    ):
        pytest.fail("the block ran")


def test_objects_are_uploaded_in_order_and_a_failed_upload_ends_the_sequence(make_bucket, monkeypatch):
    bucket = make_bucket({"m/a.txt": b"old", "m/b.txt": b"old", "m/c.txt": b"old"})
    client, uploaded = s3_client(), []
    upload = client.upload_fileobj

    def refuse_a(content, bucket, key):
        uploaded.append(key)
        if key == "m/a.txt":
            raise ClientError({"Error": {"Code": "QuotaExceeded"}}, "PutObject")
        upload(content, bucket, key)

    monkeypatch.setattr(client, "upload_fileobj", refuse_a)
    monkeypatch.setattr(remote, "s3_client", lambda: client)

    def write():
        with written_together(f"s3://{bucket}/m", last=LAST) as folder:
            for name in ("a.txt", "b.txt", "c.txt"):
                (folder / name).write_text("new")

    with pytest.raises(StorageError, match=r"write .*/m/a\.txt"):
        write()
    assert uploaded == ["m/c.txt", "m/b.txt", "m/a.txt"]
    assert storage.read_bytes(f"s3://{bucket}/m/a.txt") == b"old"


def test_an_error_in_the_block_leaves_all_objects_unchanged(make_bucket):
    bucket = make_bucket({"m/a.txt": b"old"})

    def write():
        with written_together(f"s3://{bucket}/m", last=LAST) as folder:
            (folder / "a.txt").write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert storage.read_bytes(f"s3://{bucket}/m/a.txt") == b"old"
