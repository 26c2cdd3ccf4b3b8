"""Photos that were replaced or deleted between their listing and their reading."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from physiq_ray import storage
from physiq_ray.audit import audit_manifest
from physiq_ray.errors import ChangedError, DataError, NotFoundError
from physiq_ray.ingest import open_photos
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.prediction.batch import list_photos
from physiq_ray.quarantine import Unreadable, check_unreadable
from physiq_ray.storage import list_sources, parse_sources, read_bytes
from physiq_ray.storage.etag import if_match

SIZE = 64
NEW, OLD = b"new" * 9, b"old" * 9


def listed_rows(source):
    """Make manifest rows of a source's listing, in the order of their keys, class 0 and 1 by turns."""
    [listing] = list_sources(parse_sources([str(source)]))
    rows = [
        {
            **{name: row[name] for name in ("uri", "bucket", "key", "size", "etag")},
            **{"pose_id": 1 + number % 2, "class_index": number % 2, "group": row["key"], "split": "train"},
        }
        for number, row in enumerate(listing.table.sort_by("key").to_pylist())
    ]
    return MANIFEST_SCHEMA.empty_table().from_pylist(rows, schema=MANIFEST_SCHEMA)


def etag_of(source, key):
    [listing] = list_sources(parse_sources([str(source)]))
    return {row["key"]: row["etag"] for row in listing.table.to_pylist()}[key]


@pytest.mark.parametrize("key", ["a.jpg", "a\tb.jpg"])  # by obstore, and by boto3 alone
def test_an_object_replaced_by_one_of_its_size_is_not_read(make_bucket, s3_direct, key):
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


def test_an_object_uploaded_in_parts_is_compared_too(make_bucket, s3_direct):
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
def careless_s3(s3, monkeypatch):
    """Give a function that starts a server which passes over If-Match; it returns the headers it got."""
    servers = []

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

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        storage.forget_clients()
        return conditions

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    storage.forget_clients()


@pytest.mark.parametrize("key", ["a.jpg", "a//odd.jpg"])
def test_a_server_that_passes_over_the_condition_is_found_out_by_its_answer(careless_s3, key):
    conditions = careless_s3('"2222"')
    with pytest.raises(ChangedError, match=r"it changed since it was listed \(ETag 1111 → 2222\)"):
        read_bytes(f"s3://checkins/{key}", etag="1111")
    assert conditions == ['"1111"']


@pytest.mark.parametrize("answered", ['"1111"', "1111", 'W/"1111"', None])
def test_one_etag_in_another_spelling_is_the_same(careless_s3, answered):
    careless_s3(answered)
    assert read_bytes("s3://checkins/a.jpg", etag="1111") == OLD


def test_a_weak_etag_is_compared_here_and_not_by_the_server(careless_s3):
    conditions = careless_s3('W/"1111"')
    assert read_bytes("s3://checkins/a.jpg", etag='W/"1111') == OLD  # as the listing keeps it
    with pytest.raises(ChangedError):
        read_bytes("s3://checkins/a.jpg", etag='W/"3333')
    assert conditions == [None, None]
    assert [if_match(etag) for etag in ("", "1111-2")] == [None, '"1111-2"']


@pytest.mark.parametrize("num_files", [1, 2])  # alone of its size, and one whose content was hashed
def test_a_file_replaced_by_one_of_its_size_is_not_read(tmp_path, num_files):
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


@pytest.mark.parametrize("where", ["bucket", "folder"])
@pytest.mark.parametrize("kind", ["memory", "none"])
def test_photos_that_changed_or_are_gone_since_the_listing_are_set_aside(
    ray_local, make_bucket, s3_direct, make_photo, tmp_path, where, kind
):
    files = {f"{n}.jpeg": make_photo(seed=n) for n in range(6)}
    bucket = make_bucket(files) if where == "bucket" else tmp_path
    source = f"s3://{bucket}" if where == "bucket" else tmp_path
    for key, data in files.items():
        (tmp_path / key).write_bytes(data)
    table = listed_rows(source)
    other = make_photo(seed=77)
    if where == "bucket":
        s3_direct.put_object(Bucket=bucket, Key="1.jpeg", Body=other)
        s3_direct.delete_object(Bucket=bucket, Key="4.jpeg")
    else:
        (tmp_path / "1.jpeg").write_bytes(other)
        (tmp_path / "4.jpeg").unlink()
    photos = open_photos(table, image_size=SIZE, kind=kind)
    [batch] = photos.batches(np.arange(6), 8)
    assert batch.rows.tolist() == [0, 2, 3, 5]
    assert {row: item.step for row, item in batch.unreadable} == {1: "changed", 4: "gone"}
    assert "1.jpeg: it changed since it was listed" in dict(batch.unreadable)[1].error


def test_a_size_is_enough_to_see_a_change_where_the_server_gives_no_etag(ray_local, make_bucket, make_photo):
    bucket = make_bucket({"0.jpeg": make_photo(), "1.jpeg": make_photo(1)})
    rows = [
        row | {"etag": "", "size": row["size"] + number}
        for number, row in enumerate(listed_rows(f"s3://{bucket}").to_pylist())
    ]
    table = MANIFEST_SCHEMA.empty_table().from_pylist(rows, schema=MANIFEST_SCHEMA)
    [batch] = open_photos(table, image_size=SIZE, kind="none").batches(np.arange(2), 2)
    assert {row: item.step for row, item in batch.unreadable} == {1: "changed"}


def test_too_many_changed_photos_are_refused_in_words_of_their_own():
    items = [
        Unreadable(f"s3://b/{n}.jpeg", step, "no") for n, step in enumerate(["changed", "gone", "fetch"])
    ]
    with pytest.raises(DataError) as caught:
        check_unreadable(items, 20, 0.1)
    assert str(caught.value) == (
        "3 of 20 photos cannot be read, more than max_unreadable_share=0.1 allows: s3://b/0.jpeg: no; "
        "s3://b/1.jpeg: no; s3://b/2.jpeg: no; 2 of them changed or disappeared since they were listed "
        "(1 changed, 1 gone): check their labels, then start a new run, which lists the photos again"
    )


def test_the_audit_says_what_changed_while_it_ran(make_bucket, s3_direct, make_photo):
    bucket = make_bucket({f"{n}.jpeg": make_photo(seed=n) for n in range(4)})
    manifest = Manifest(listed_rows(f"s3://{bucket}"), ClassMapping.of_poses([1, 2]))
    s3_direct.put_object(Bucket=bucket, Key="1.jpeg", Body=make_photo(seed=9))
    s3_direct.delete_object(Bucket=bucket, Key="2.jpeg")
    audit = audit_manifest(manifest, {1: "One", 2: "Two"}, check_photos=True)
    assert {(item.uri[-6:], item.step) for item in audit.check.unreadable} == {
        ("1.jpeg", "changed"),
        ("2.jpeg", "gone"),
    }
    [sentence] = audit.not_looked_at
    assert sentence.startswith(
        "2 photos changed or disappeared since they were listed, the first: read s3://"
    )


def test_a_prediction_s_list_has_the_listed_etags_and_none_of_single_objects(make_bucket):
    bucket = make_bucket({"in/a.jpg": b"12345", "b.jpg": b"2"})
    table, failures = list_photos([f"s3://{bucket}/in", f"s3://{bucket}/b.jpg"])
    assert failures == ()
    assert {row["uri"]: row["etag"] for row in table.to_pylist()} == {
        f"s3://{bucket}/in/a.jpg": "827ccb0eea8a706c4c34a16891f84e7b",
        f"s3://{bucket}/b.jpg": "",
    }


def test_a_missing_object_is_still_said_to_be_missing(make_bucket):
    bucket = make_bucket({"a.jpg": OLD})
    with pytest.raises(NotFoundError):
        read_bytes(f"s3://{bucket}/b.jpg", etag="1111")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_train_neither_with_a_manifest_nor_resumed_uses_what_was_replaced(
    run_cli, make_bucket, s3_direct, make_photo, tmp_path, cache
):
    bucket = make_bucket({f"{n:02d}.jpeg": make_photo(seed=n) for n in range(24)})
    labels = [{"source": "x", "poseId": 1 + n % 2, "s3Filename": f"{n:02d}.jpeg"} for n in range(24)]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}]')
    names = ("--poses", "poses.json", "--labels", "labels.json")
    done = run_cli("audit", "--sources", f"s3://{bucket}", *names, "--manifest", "m.parquet")
    assert done.returncode == 0, done.stderr

    s3_direct.put_object(Bucket=bucket, Key="03.jpeg", Body=make_photo(seed=300))
    s3_direct.delete_object(Bucket=bucket, Key="10.jpeg")
    settings = (
        "--weights random --image-size 64 --batch-size 8 --epochs 1 --precision fp32 --run-name old "
        f"--max-unreadable-share 0.2 --cache {cache} --json"
    )
    done = run_cli("train", "--manifest", "m.parquet", *names, *settings.split(), timeout=400)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["quarantined_by_step"] == {"changed": 1, "gone": 1}
    assert sum(result["photos"][split] for split in ("train", "validation")) == 22

    s3_direct.put_object(Bucket=bucket, Key="04.jpeg", Body=make_photo(seed=400))
    done = run_cli(
        *("train", "--resume", "--run-name", "old", "--epochs", "2", "--cache", cache), timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "3 quarantined" in done.stdout
    assert "2 changed" in done.stdout
    lines = (tmp_path / "output" / "quarantine.jsonl").read_text().splitlines()
    assert {(item["uri"][-7:], item["step"]) for item in map(json.loads, lines)} == {
        ("03.jpeg", "changed"),
        ("04.jpeg", "changed"),
        ("10.jpeg", "gone"),
    }
