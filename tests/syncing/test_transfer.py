import errno
import hashlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from physiq_ray.cli import main
from physiq_ray.config import SyncSettings
from physiq_ray.errors import StorageError, UnreachableError
from physiq_ray.syncing import sync, transfer

LAST_MODIFIED = {"Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}


def settings(*buckets: str, **values: Any) -> SyncSettings:
    return SyncSettings(sources=tuple(f"s3://{bucket}" for bucket in buckets), **values)


def counts(report: Any) -> list[tuple[int, int, int, int]]:
    return [(len(s.gone), s.downloaded, s.skipped, len(s.failures)) for s in report.sources]


@pytest.fixture
def directory_bucket(replace_s3: Any) -> Callable[[dict[str, bytes]], list[str]]:
    """Give a function that starts a server of one bucket `express`, whose ETags only look like MD5s.

    The ETag of an object named right-….jpg is its MD5. The function returns a list, to which the key of each
    GET is appended.
    """

    def start(photos: dict[str, bytes]) -> list[str]:
        requests: list[str] = []
        etags = {
            key: hashlib.md5(data if key.startswith("right") else key.encode()).hexdigest()
            for key, data in photos.items()
        }
        listing = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><ETag>{etags[key]}</ETag>"
            "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, data in photos.items()
        )
        page = f"<ListBucketResult><IsTruncated>false</IsTruncated>{listing}</ListBucketResult>".encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                key = self.path.partition("?")[0].removeprefix("/express").strip("/")
                body = photos[key] if key else page
                if self.command == "GET" and key:
                    requests.append(key)
                self.send_response(200)
                for name, value in {**LAST_MODIFIED, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                if key:
                    self.send_header("ETag", f'"{etags[key]}"')
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        replace_s3(Handler)
        return requests

    return start


@pytest.mark.slow
@pytest.mark.parametrize("transfers", ["1", "8"])
def test_a_bucket_whose_etags_are_not_md5s_is_checked_by_length(
    directory_bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], transfers: str
) -> None:
    photos = {f"{number:02d}.jpg": b"photo %d" % number for number in range(12)}
    requests = directory_bucket(photos)
    command = ["sync", str(tmp_path / "photos"), "--sources", "s3://express", "--transfers", transfers]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.count("s3://express: its ETags look like MD5s of the photos but are none") == 1
    assert "12 found, 12 downloaded, 0 skipped, 0 failed" in shown
    for key, data in photos.items():
        assert (tmp_path / "photos" / "express" / key).read_bytes() == data
    if transfers == "1":
        # The first two are read three times and once more at the end, the third twice, the others once.
        assert [requests.count(key) for key in photos] == [4, 4, 2, *[1] * 9]
    requests.clear()
    assert main(command) == 0
    assert requests == []


@pytest.mark.parametrize("words", [("right", "wrong"), ("wrong", "right")])
def test_content_that_does_not_match_is_refused_if_other_photos_of_the_bucket_match(
    directory_bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    photos = {f"{word}-{number}.jpg": b"photo %d" % number for word in words for number in range(4)}
    directory_bucket(photos)
    assert main(["sync", str(tmp_path / "photos"), "--sources", "s3://express", "--transfers", "1"]) == 1
    shown = capsys.readouterr()
    assert "its ETags look like MD5s" not in shown.out
    assert "8 found, 4 downloaded, 0 skipped, 4 failed" in shown.out
    here = sorted(path.name for path in (tmp_path / "photos" / "express").iterdir())
    assert here == ["right-0.jpg", "right-1.jpg", "right-2.jpg", "right-3.jpg"]


def test_two_photos_that_do_not_match_are_too_few_to_judge_their_bucket(
    directory_bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory_bucket({"a.jpg": b"one", "b.jpg": b"two"})
    assert main(["sync", str(tmp_path / "photos"), "--sources", "s3://express"]) == 1
    shown = capsys.readouterr()
    assert "2 found, 0 downloaded, 0 skipped, 2 failed" in shown.out
    assert shown.err.count("3 times; upload the photo again") == 2


@pytest.mark.slow
def test_a_full_disk_is_an_error_with_the_remedy(
    make_bucket: Any, monkeypatch: pytest.MonkeyPatch, read_folder: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({f"{n}.jpg": b"x" for n in range(20)})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "download", full)
    with pytest.raises(StorageError, match="No space left on device; make room and run the same command"):
        sync(settings(bucket), tmp_path)
    assert read_folder(tmp_path) == {}


@pytest.mark.slow
def test_photos_are_not_tried_after_many_without_a_response(
    make_bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:

    bucket = make_bucket({f"{n:03d}.jpg": b"x" for n in range(100)})
    tried: list[str] = []

    def unreachable(uri: str, *_: Any) -> None:
        tried.append(uri)
        raise UnreachableError(f"download {uri}: no answer")

    monkeypatch.setattr(transfer, "download", unreachable)
    report = sync(settings(bucket, transfers=1), tmp_path)
    assert counts(report) == [(0, 0, 0, 100)]
    assert len(tried) == 64
    assert "not tried: the 64 before it got no answer" in report.sources[0].failures[-1][1]
