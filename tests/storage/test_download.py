"""Downloads of one object, with the responses that a store may give."""

import hashlib
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from physiq_ray.errors import NotFoundError, StorageError, UnreachableError
from physiq_ray.storage.download import Downloaded, download
from physiq_ray.storage.etag import is_md5

LAST_MODIFIED = {"Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
NEW_YEAR_S = 1_735_689_600
WRONG_MD5 = "0" * 32


@pytest.mark.parametrize("key", ["2026/a.jpg", "a\x01b.jpg", "größe/50% +?#.jpg", "empty.jpg"])
def test_an_object_is_downloaded_with_its_version(make_bucket: Any, tmp_path: Path, key: str) -> None:
    data = b"" if key == "empty.jpg" else os.urandom(10_000)
    bucket = make_bucket({key: data})
    before = int(time.time())
    version = download(f"s3://{bucket}/{key}", tmp_path / "f", len(data))
    assert (tmp_path / "f").read_bytes() == data
    assert version.size == len(data)
    assert version.etag == hashlib.md5(data).hexdigest()
    assert before - 1 <= version.modified_s <= time.time() + 1


@pytest.mark.slow
def test_a_large_object_is_downloaded_in_ranges(
    s3: Any, start_proxy: Any, make_bucket: Any, tmp_path: Path
) -> None:
    data = os.urandom(20_000_000)
    bucket = make_bucket({"large.jpg": data})
    gets: list[str] = []
    start_proxy(lambda method, path: gets.append(path) if method == "GET" else None)
    version = download(f"s3://{bucket}/large.jpg", tmp_path / "f", len(data))
    assert (tmp_path / "f").read_bytes() == data
    assert version.size == len(data)
    assert len(gets) == 3  # of 8 MiB each


@pytest.mark.slow
def test_an_object_that_has_grown_since_the_listing_is_downloaded_in_ranges(
    make_bucket: Any, tmp_path: Path
) -> None:
    data = os.urandom(17 * 2**20)
    bucket = make_bucket({"grown.jpg": data})
    assert download(f"s3://{bucket}/grown.jpg", tmp_path / "f", 5).size == len(data)
    assert (tmp_path / "f").read_bytes() == data


def test_content_that_does_not_match_the_etag_is_read_again_and_then_refused(
    start_proxy: Any, tmp_path: Path
) -> None:
    requests: list[str] = []

    def rule(method: str, path: str) -> Any:
        requests.append(method)
        return 200, {**LAST_MODIFIED, "ETag": f'"{WRONG_MD5}"'}, b"photo"

    start_proxy(rule)
    with pytest.raises(
        StorageError,
        match=f"MD5 of the content is {hashlib.md5(b'photo').hexdigest()}, but the ETag is 0{{32}}",
    ):
        download("s3://bucket/a.jpg", tmp_path / "f", 5)
    assert requests == ["GET", "HEAD"] * 3


def test_content_that_matches_the_etag_on_the_second_try_is_accepted(
    start_proxy: Any, tmp_path: Path
) -> None:
    answers = iter([b"phOto", b"photo"])
    etag = {**LAST_MODIFIED, "ETag": f'"{hashlib.md5(b"photo").hexdigest()}"'}
    start_proxy(lambda method, _: (200, etag, next(answers) if method == "GET" else b"photo"))
    version = download("s3://bucket/a.jpg", tmp_path / "f", 5)
    assert version == Downloaded(5, hashlib.md5(b"photo").hexdigest(), NEW_YEAR_S)
    assert (tmp_path / "f").read_bytes() == b"photo"


def test_an_answer_without_an_etag_is_refused(start_proxy: Any, tmp_path: Path) -> None:
    start_proxy(lambda *_: (200, LAST_MODIFIED, b"photo"))
    with pytest.raises(StorageError, match=r"^download s3://bucket/a\.jpg: the answer has no ETag"):
        download("s3://bucket/a.jpg", tmp_path / "f", 5)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    "encryption",
    [
        {"x-amz-server-side-encryption": "aws:kms"},
        {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
    ],
)
def test_the_etag_of_an_encrypted_object_is_not_compared(
    start_proxy: Any, tmp_path: Path, encryption: dict[str, str]
) -> None:
    headers = {**LAST_MODIFIED, **encryption, "ETag": f'"{WRONG_MD5}"'}
    start_proxy(lambda *_: (200, headers, b"photo"))
    assert download("s3://bucket/a.jpg", tmp_path / "f", 5) == Downloaded(5, WRONG_MD5, NEW_YEAR_S)


@pytest.mark.slow
def test_a_large_object_overwritten_during_the_download_is_read_again(
    start_proxy: Any, make_bucket: Any, s3_direct: Any, tmp_path: Path, without_waiting: None
) -> None:
    old, new = os.urandom(20_000_000), os.urandom(20_000_000)
    bucket = make_bucket({"large.jpg": old})
    overwritten: list[str] = []

    def rule(method: str, path: str) -> None:
        if method == "GET" and not overwritten:
            overwritten.append(path)
            s3_direct.put_object(Bucket=bucket, Key="large.jpg", Body=new)

    start_proxy(rule)
    version = download(f"s3://{bucket}/large.jpg", tmp_path / "f", len(old))
    assert (tmp_path / "f").read_bytes() == new
    assert version.etag == s3_direct.head_object(Bucket=bucket, Key="large.jpg")["ETag"].strip('"')


@pytest.mark.parametrize("size", [5, 20_000_000])
def test_a_missing_object_is_an_error(make_bucket: Any, tmp_path: Path, size: int) -> None:
    bucket = make_bucket({"other.jpg": b"x"})
    with pytest.raises(NotFoundError, match=rf"^download s3://{bucket}/a.jpg: "):
        download(f"s3://{bucket}/a.jpg", tmp_path / "f", size)


@pytest.mark.parametrize("size", [300_000, 20_000_000])
def test_a_disk_error_is_not_treated_as_a_network_error(make_bucket: Any, tmp_path: Path, size: int) -> None:
    bucket = make_bucket({"a.jpg": bytes(size)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            download(f"s3://{bucket}/a.jpg", tmp_path / "f", size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_a_large_object_of_an_unavailable_store_is_an_error(
    start_proxy: Any, tmp_path: Path, without_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    head = {**LAST_MODIFIED, "ETag": '"e-2"', "Content-Length": str(20_000_000)}

    def rule(method: str, _: str) -> Any:
        return (200, head, b"") if method == "HEAD" else (503, {}, b"")

    start_proxy(rule)
    with pytest.raises(UnreachableError, match="after several tries"):
        download("s3://bucket/a.jpg", tmp_path / "f", 20_000_000)


def test_an_md5_etag_is_recognized_by_its_form() -> None:
    assert is_md5("0123456789abcdef0123456789abcdef")
    assert not is_md5("0123456789abcdef0123456789abcdef-2")
    assert not is_md5("")
