"""All versions of all objects are listed, however many pages they take."""

import pytest

from physiq_ray.errors import StorageError, UnreachableError
from physiq_ray.storage import Bucket
from physiq_ray.storage.history import (
    Stored,
    delete_stored,
    list_history,
    list_stored,
    read_stored,
    replace_stored,
    to_stored,
)

pytestmark = pytest.mark.usefixtures("without_waiting")


@pytest.fixture
def bucket(make_bucket, s3_direct):
    name = make_bucket({})
    s3_direct.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


def take_three(params, **_):
    params["MaxKeys"] = 3


@pytest.mark.slow
def test_all_pages_are_listed_with_the_newest_version_of_each_key_first(bucket, s3_direct, on_request):
    for number in range(4):
        for key in ("é+ a.jpg", "b\nc.jpg", "b.jpg.jpg"):
            s3_direct.put_object(Bucket=bucket, Key=key, Body=bytes(number + 1))
    s3_direct.delete_object(Bucket=bucket, Key="b.jpg.jpg")
    on_request("provide-client-params.s3.ListObjectVersions", take_three)
    rows = list_history(Bucket(bucket)).to_pylist()
    assert len(rows) == 13
    sizes = {}
    for row in rows:
        sizes.setdefault(row["key"], []).append(row["size"])
    assert sizes["é+ a.jpg"] == sizes["b\nc.jpg"] == [4, 3, 2, 1]
    assert [row["key"] for row in rows if row["is_latest"] and row["is_marker"]] == ["b.jpg.jpg"]
    only = to_stored(list_history(Bucket(bucket), key="b\nc.jpg"))
    assert [(item.uri, item.is_latest) for item in only] == [
        (f"s3://{bucket}/b\nc.jpg", number == 0) for number in range(4)
    ]
    assert [read_stored(item) for item in only] == [bytes(size) for size in (4, 3, 2, 1)]


def test_a_listing_that_stops_part_way_is_an_error(bucket, s3_direct, on_request):
    s3_direct.put_object(Bucket=bucket, Key="a.jpg", Body=b"a")
    on_request("after-call.s3.ListObjectVersions", lambda parsed, **_: parsed.pop("IsTruncated"))
    with pytest.raises(UnreachableError, match="the listing stopped part-way"):
        list_history(Bucket(bucket))


def test_only_what_is_below_an_address_is_listed(bucket, s3_direct, tmp_path):
    for key in ("a/1", "a/b/2", "ab/3", "a"):
        s3_direct.put_object(Bucket=bucket, Key=key, Body=b"x")
        if key != "a":
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(b"x")
    found = [item.uri for item in list_stored(f"s3://{bucket}/a/")]
    assert sorted(found) == [f"s3://{bucket}/{key}" for key in ("a", "a/1", "a/b/2")]
    assert len(list_stored(f"s3://{bucket}")) == 4
    assert [item.uri for item in list_stored(str(tmp_path / "a"))] == [
        str(tmp_path / "a/1"),
        str(tmp_path / "a/b/2"),
    ]
    assert list_stored(str(tmp_path / "a/1"))[0].uri == str(tmp_path / "a/1")


@pytest.mark.parametrize("is_versioned", [True, False])
def test_a_replaced_object_leaves_no_older_version(make_bucket, s3_direct, is_versioned):
    name = make_bucket({"a": b"1"})  # its version is "null", with versioning too
    if is_versioned:
        s3_direct.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    (stored,) = list_stored(f"s3://{name}/a")
    replace_stored(stored, b"2")
    (stored,) = list_stored(f"s3://{name}/a")
    assert read_stored(stored) == b"2"
    replace_stored(stored, b"3")
    (stored,) = list_stored(f"s3://{name}/a")
    assert read_stored(stored) == b"3"


def test_a_version_is_deleted_once(bucket, s3_direct):
    for body in (b"1", b"2"):
        s3_direct.put_object(Bucket=bucket, Key="a", Body=body)
    newest, oldest = list_stored(f"s3://{bucket}/a")
    for _ in range(2):
        delete_stored(newest)
    assert [read_stored(item) for item in list_stored(f"s3://{bucket}/a")] == [b"1"]
    assert not oldest.is_latest


def test_a_file_that_cannot_be_deleted_is_an_error(tmp_path):
    delete_stored(Stored(str(tmp_path / "absent"), 0, ""))
    with pytest.raises(StorageError, match="delete"):
        delete_stored(Stored(str(tmp_path), 0, ""))
