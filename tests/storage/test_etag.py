import os
from http.server import BaseHTTPRequestHandler

import pytest

from physiq_ray.errors import ChangedError, NotFoundError
from physiq_ray.storage import list_sources, parse_sources, read_bytes
from physiq_ray.storage.etag import if_match

NEW, OLD = b"new" * 9, b"old" * 9


def etag_of(source, key):
    [listing] = list_sources(parse_sources([str(source)]))
    return {row["key"]: row["etag"] for row in listing.table.to_pylist()}[key]


@pytest.mark.parametrize("key", ["a.jpg", "a\tb.jpg"])  # obstore reads the first, boto3 the second
def test_an_object_replaced_by_one_of_equal_size_is_not_read(make_bucket, s3_direct, key):
    bucket = make_bucket({key: OLD})
    etag = etag_of(f"s3://{bucket}", key)
    assert read_bytes(f"s3://{bucket}/{key}", etag=etag) == OLD
    s3_direct.put_object(Bucket=bucket, Key=key, Body=NEW)
    with pytest.raises(ChangedError) as caught:
        read_bytes(f"s3://{bucket}/{key}", etag=etag)
    assert str(caught.value) == (
        f"read s3://{bucket}/{key}: it changed since it was listed (its ETag is no longer {etag}); "
        "list the photos again to use what is there now"
    )
    assert read_bytes(f"s3://{bucket}/{key}") == NEW


def test_the_etag_of_a_multipart_upload_is_compared_too(make_bucket, s3_direct):
    bucket = make_bucket({"a.jpg": b"1"})
    upload = s3_direct.create_multipart_upload(Bucket=bucket, Key="big.jpg")["UploadId"]
    part = {"Bucket": bucket, "Key": "big.jpg", "UploadId": upload}
    parts = [
        {"PartNumber": n, "ETag": s3_direct.upload_part(**part, PartNumber=n, Body=body)["ETag"]}
        for n, body in ((1, b"a" * 5 * 2**20), (2, b"b"))
    ]
    s3_direct.complete_multipart_upload(**part, MultipartUpload={"Parts": parts})
    etag = etag_of(f"s3://{bucket}", "big.jpg")
    assert etag.endswith("-2")
    assert len(read_bytes(f"s3://{bucket}/big.jpg", etag=etag)) == 5 * 2**20 + 1
    s3_direct.put_object(Bucket=bucket, Key="big.jpg", Body=NEW)
    with pytest.raises(ChangedError):
        read_bytes(f"s3://{bucket}/big.jpg", etag=etag)


@pytest.fixture
def s3_without_if_match(replace_s3):
    """Give a function that starts a server which ignores If-Match; it returns the values of that header."""

    def start(etag):
        conditions = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                conditions.append(self.headers.get("If-Match"))
                self.send_response(200)
                for name, value in (
                    ("Content-Length", str(len(OLD))),
                    ("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT"),
                    *([("ETag", etag)] if etag else []),
                ):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(OLD)

            def log_message(self, *_):
                pass

        replace_s3(Handler)
        return conditions

    return start


@pytest.mark.parametrize("key", ["a.jpg", "a//odd.jpg"])
def test_a_change_is_found_although_the_server_ignores_if_match(s3_without_if_match, key):
    conditions = s3_without_if_match('"2222"')
    with pytest.raises(ChangedError, match=r"it changed since it was listed \(ETag 1111 → 2222\)"):
        read_bytes(f"s3://checkins/{key}", etag="1111")
    assert conditions == ['"1111"']


@pytest.mark.slow
@pytest.mark.parametrize("answered", ['"1111"', "1111", 'W/"1111"', None])
def test_quotes_and_weakness_do_not_make_etags_differ(s3_without_if_match, answered):
    s3_without_if_match(answered)
    assert read_bytes("s3://checkins/a.jpg", etag="1111") == OLD


def test_a_weak_etag_is_not_sent_but_compared_with_the_answer(s3_without_if_match):
    conditions = s3_without_if_match('W/"1111"')
    assert read_bytes("s3://checkins/a.jpg", etag='W/"1111') == OLD  # pages.py keeps it in this form
    with pytest.raises(ChangedError):
        read_bytes("s3://checkins/a.jpg", etag='W/"3333')
    assert conditions == [None, None]
    assert [if_match(etag) for etag in ("", "1111-2")] == [None, '"1111-2"']


@pytest.mark.parametrize(
    "num_files", [1, 2]
)  # with one file, the ETag is its time of change; with two, its MD5
def test_a_file_replaced_by_one_of_equal_size_is_not_read(tmp_path, num_files):
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg")[:num_files]]
    for path in paths:
        path.write_bytes(OLD)
    etag = etag_of(tmp_path, "a.jpg")
    assert read_bytes(str(paths[0]), etag=etag) == OLD
    before = paths[0].stat().st_mtime_ns
    paths[0].write_bytes(NEW)
    os.utime(paths[0], ns=(before, before + 1_000))
    with pytest.raises(ChangedError, match=r"a.jpg: it changed since it was listed"):
        read_bytes(str(paths[0]), etag=etag)
    assert read_bytes(str(paths[0])) == NEW


def test_a_missing_object_with_a_listed_etag_is_reported_as_missing(make_bucket):
    bucket = make_bucket({"a.jpg": OLD})
    with pytest.raises(NotFoundError):
        read_bytes(f"s3://{bucket}/b.jpg", etag="1111")
