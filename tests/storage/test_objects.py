import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_answers import Answer, Script, error_answer

from physiq_ray.errors import NotFoundError, StorageError, UnreachableError
from physiq_ray.storage import create_bytes, read_bytes, write_bytes, write_file

Aws = Callable[..., None]
MakeBucket = Callable[..., str]


def test_a_missing_key_is_named(make_bucket: MakeBucket) -> None:
    bucket = make_bucket({})

    with pytest.raises(NotFoundError, match=rf"^read s3://{bucket}/a\.jpg: NoSuchKey"):
        read_bytes(f"s3://{bucket}/a.jpg")


@pytest.mark.parametrize("uri", ["s3://checkins", "s3://checkins/", "s3://Check ins/a.jpg"])
def test_a_uri_that_cannot_name_an_object_is_refused(s3: Any, uri: str) -> None:
    with pytest.raises(StorageError, match=f"^read {uri}: Parameter validation failed"):
        read_bytes(uri)


def test_reading_a_missing_file_or_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=rf"^read {tmp_path}/a\.jpg: No such file"):
        read_bytes(f"{tmp_path}/a.jpg")
    with pytest.raises(StorageError, match=rf"^read {tmp_path}: Is a directory"):
        read_bytes(str(tmp_path))


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\x00\xff\r\n")

    assert read_bytes(f"{tmp_path}/a.jpg") == b"\x00\xff\r\n"


def test_written_objects_can_be_read(make_bucket: MakeBucket, tmp_path: Path) -> None:
    bucket = make_bucket({"old.bin": b"old"})
    (tmp_path / "new.bin").write_bytes(b"new" * 1000)

    write_file(tmp_path / "new.bin", f"s3://{bucket}/a b/é.bin")
    write_bytes(b"newer", f"s3://{bucket}/old.bin")

    assert read_bytes(f"s3://{bucket}/a b/é.bin") == b"new" * 1000
    assert read_bytes(f"s3://{bucket}/old.bin") == b"newer"


def test_a_multipart_upload_is_complete(make_bucket: MakeBucket, tmp_path: Path, s3_direct: Any) -> None:
    bucket = make_bucket({})
    data = os.urandom(17 * 2**20)
    (tmp_path / "model.pth").write_bytes(data)

    write_file(tmp_path / "model.pth", f"s3://{bucket}/model.pth")

    assert (
        "-" in s3_direct.head_object(Bucket=bucket, Key="model.pth")["ETag"]
    )  # only the ETag of a multipart upload has a dash
    assert read_bytes(f"s3://{bucket}/model.pth") == data


def test_writing_to_a_missing_bucket_is_reported(s3: Any) -> None:
    with pytest.raises(NotFoundError, match=r"^write s3://nowhere-to-be-found/a: NoSuchBucket"):
        write_bytes(b"1", "s3://nowhere-to-be-found/a")


@pytest.mark.usefixtures("without_waiting")
def test_writing_to_an_unreachable_endpoint_is_reported(aws: Aws) -> None:
    aws(AWS_ENDPOINT_URL="http://127.0.0.1:1")

    with pytest.raises(UnreachableError, match=r"^write s3://checkins/a: Could not connect"):
        write_bytes(b"1", "s3://checkins/a")


def test_a_missing_local_file_is_not_reported_as_an_error_of_the_network(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=rf"^read {tmp_path}/a: No such file"):
        write_file(tmp_path / "a", "s3://checkins/a")


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_only_the_first_of_several_creations_of_one_name_succeeds(
    make_bucket: MakeBucket, tmp_path: Path, where: str
) -> None:
    uri = f"s3://{make_bucket({})}/lock" if where == "bucket" else f"{tmp_path}/lock"

    assert create_bytes(b"first", uri) is True
    assert create_bytes(b"second", uri) is False
    assert create_bytes(b"first", uri) is False
    assert read_bytes(uri) == b"first"


LOST_ANSWER = error_answer(500, "InternalError")
EXISTS = error_answer(412, "PreconditionFailed")


@pytest.mark.slow
@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("num_lost", [1, 5])  # fewer and more than botocore retries
@pytest.mark.parametrize(
    ("found", "is_ours"),
    [((200, {}, b"ours"), True), ((200, {}, b"theirs"), False), (error_answer(404, "NoSuchKey"), False)],
)
def test_after_a_lost_answer_the_content_shows_who_created_the_object(
    scripted_s3: Callable[[Script], list[str]], num_lost: int, found: Answer, is_ours: bool
) -> None:
    answers = [*[LOST_ANSWER] * num_lost, EXISTS, found, found]
    requests = scripted_s3(lambda number: answers[number - 1])

    assert create_bytes(b"ours", "s3://checkins/lock") is is_ours
    assert len(requests) >= num_lost + 2


def test_an_object_that_existed_before_the_first_attempt_was_created_by_another(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    requests = scripted_s3(lambda number: EXISTS if number == 1 else (200, {}, b"ours"))

    assert create_bytes(b"ours", "s3://checkins/lock") is False
    assert len(requests) == 1


def test_a_written_file_replaces_the_old_one_and_can_be_read_by_all_users(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "a.bin"

    write_bytes(b"old", str(target))
    write_bytes(b"new", str(target))

    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out" / "model.pth"
    write_bytes(b"old", str(target))
    source = tmp_path / "new.pth"
    source.write_bytes(bytes(300_000))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # like a full disk, it fails part-way
    try:
        with pytest.raises(StorageError, match=rf"^write {target}: File too large"):
            write_file(source, str(target))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["model.pth"]


def test_a_folder_with_the_name_of_the_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out" / "model.pth").mkdir(parents=True)

    with pytest.raises(StorageError, match=r"^write .*/model\.pth: Is a directory"):
        write_bytes(b"1", f"{tmp_path}/out/model.pth")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.pth"]


def test_a_file_with_the_name_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")

    with pytest.raises(StorageError, match=r"^write .*/out/model\.pth: (File exists|Not a directory)"):
        write_bytes(b"1", f"{tmp_path}/out/model.pth")
