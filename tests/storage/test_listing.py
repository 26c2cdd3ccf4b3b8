import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from listings import keys_of, list_one, table_of
from s3_answers import Answer, Script, answer_without, error_answer, page_answer

from physiq_ray import storage
from physiq_ray.errors import DeniedError, NotFoundError, StorageError, UnreachableError
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Folder, list_sources, parse_sources, read_bytes

MakeBucket = Callable[..., str]


def test_a_listing_is_a_table_of_the_photos(make_bucket: MakeBucket) -> None:
    bucket = make_bucket({"2024/a.jpg": b"12345"})

    table = table_of(list_one(f"s3://{bucket}"))

    assert table.schema == LISTING_SCHEMA
    [row] = table.to_pylist()
    assert abs(row.pop("modified") - datetime.now(UTC)) < timedelta(minutes=5)
    assert row == {
        "uri": f"s3://{bucket}/2024/a.jpg",
        "bucket": bucket,
        "key": "2024/a.jpg",
        "size": 5,
        "etag": "827ccb0eea8a706c4c34a16891f84e7b",
    }


def test_objects_that_are_not_photos_are_only_counted(make_bucket: MakeBucket) -> None:
    bucket = make_bucket({"a.jpg": b"1", "notes.txt": b"2", "b.json": b"3", "c.HEIC": b"4"})

    listing = list_one(f"s3://{bucket}")

    assert keys_of(listing) == ["a.jpg", "c.HEIC"]
    assert listing.num_others == 2


def test_keys_that_end_in_a_slash_are_not_counted_as_objects(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    scripted_s3(lambda _: page_answer("2024/", "spring.jpg/", "spring.jpg/a.jpg", next_page=None))

    listing = list_one("s3://checkins")

    assert keys_of(listing) == ["spring.jpg/a.jpg"]
    assert listing.num_others == 0


def test_list_names_gives_the_names_directly_under_a_prefix_or_folder(
    make_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = make_bucket({"out/b.parquet": b"", "out/a.txt": b"", "out/deeper/c": b"", "output": b""})
    assert storage.list_names(Bucket(bucket, "out/")) == ("a.txt", "b.parquet")
    assert storage.list_names(Bucket(bucket, "nothing/")) == ()
    for name in ("b.parquet", "a.txt"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    assert storage.list_names(Folder(tmp_path)) == ("a.txt", "b.parquet")
    assert storage.list_names(Folder(tmp_path / "nothing")) == ()
    with pytest.raises(StorageError, match="list s3://not-there-at-all: NoSuchBucket"):
        storage.list_names(Bucket("not-there-at-all"))


def test_an_empty_bucket_gives_an_empty_table_and_no_error(make_bucket: MakeBucket) -> None:
    listing = list_one(f"s3://{make_bucket({})}")

    assert listing.error is None
    assert listing.num_others == 0
    assert table_of(listing).num_rows == 0
    assert table_of(listing).schema == LISTING_SCHEMA


def test_a_missing_bucket_gives_an_error_and_the_other_buckets_are_listed(make_bucket: MakeBucket) -> None:
    one, two = make_bucket({"a.jpg": b"1"}), make_bucket({"b.jpg": b"2"})
    sources = parse_sources([f"s3://{one}", "s3://nowhere-to-be-found/x", f"s3://{two}"])

    listings = list_sources(sources)

    assert [listing.source for listing in listings] == list(sources)
    assert keys_of(listings[0]) == ["a.jpg"]
    assert keys_of(listings[2]) == ["b.jpg"]
    assert listings[1].table is None
    assert type(listings[1].error) is NotFoundError
    assert str(listings[1].error).startswith("list s3://nowhere-to-be-found/x: NoSuchBucket; check the name")


def test_a_prefix_means_the_folder_of_that_name_only(make_bucket: MakeBucket) -> None:
    bucket = make_bucket(
        {
            "pre/a.jpg": b"1",
            "pre/deep/b.jpg": b"2",
            "prefix2/c.jpg": b"3",
            "pre.jpg": b"4",
            "x/pre/d.jpg": b"5",
        }
    )

    assert keys_of(list_one(f"s3://{bucket}/pre")) == ["pre/a.jpg", "pre/deep/b.jpg"]
    assert keys_of(list_one(f"s3://{bucket}/pre/")) == ["pre/a.jpg", "pre/deep/b.jpg"]
    assert keys_of(list_one(f"s3://{bucket}/none")) == []


@pytest.mark.slow
def test_more_photos_than_one_page_holds_are_all_listed(make_bucket: MakeBucket) -> None:
    bucket = make_bucket({f"{number:04d}.jpg": b"" for number in range(1050)})

    assert keys_of(list_one(f"s3://{bucket}")) == [f"{number:04d}.jpg" for number in range(1050)]


@pytest.mark.slow
@pytest.mark.parametrize("max_folders", [256, 2])
def test_a_large_bucket_listed_by_folders_has_each_photo_once(
    make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch, max_folders: int
) -> None:
    monkeypatch.setattr(storage.walk, "PAGE_KEYS", 20)
    monkeypatch.setattr(storage.walk, "MAX_FOLDERS", max_folders)
    keys = [f"{folder}/{number:03d}.jpg" for folder in ("0", "a", "b é", "b/c", "ü") for number in range(25)]
    keys += [f"flat-{number:03d}.jpg" for number in range(9)]
    bucket = make_bucket(dict.fromkeys(keys, b"1"))

    assert keys_of(list_one(f"s3://{bucket}")) == sorted(keys)
    assert keys_of(list_one(f"s3://{bucket}/b")) == [f"b/c/{number:03d}.jpg" for number in range(25)]


def test_unusual_keys_are_listed_unchanged_and_can_be_read_by_their_uris(make_bucket: MakeBucket) -> None:
    odd = [
        "a b.jpg",
        " begins with a space.jpg",
        "a..b.jpg",
        "..a.jpg",
        "s\u00e9ance.jpg",
        "se\u0301ance 2.jpg",
        "日本/写真 1.jpg",
        "😀.jpg",
        "#1.jpg",
        "what?.jpg",
        "what?x=1&y=2.jpg",
        "100%.jpg",
        "%41.jpg",
        "a+b.jpg",
        "a;b:c@d=e,f.jpg",
        'it\'s "quoted".jpg',
        "<x>&amp;.jpg",
        "*.jpg",
        "~a.jpg",
        "two\nlines.jpg",
    ]
    bucket = make_bucket({key: key.encode() for key in odd})

    listing = list_one(f"s3://{bucket}")

    assert keys_of(listing) == sorted(odd)
    read = {uri: read_bytes(uri) for uri in table_of(listing)["uri"].to_pylist()}
    assert read == {f"s3://{bucket}/{key}": key.encode() for key in odd}


def test_a_listing_that_is_refused_part_way_is_an_error(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    requests = scripted_s3(
        lambda number: (
            page_answer("a.jpg", next_page="more") if number == 1 else error_answer(403, "AccessDenied")
        )
    )

    listing = list_one("s3://checkins")

    assert len(requests) == 2
    assert listing.table is None
    assert type(listing.error) is DeniedError


INCOMPLETE_ENDS = {
    "empty body": (200, {}, b""),
    "no IsTruncated": answer_without("<IsTruncated>false</IsTruncated>", next_page=None),
    "truncated without a token": answer_without(
        "<NextContinuationToken>x</NextContinuationToken>", next_page="x"
    ),
    "the same token again": page_answer("b.jpg", next_page="more"),
    "not an S3 server": (200, {"Content-Type": "text/html"}, b"<html><p>Welcome</p></html>"),
}


@pytest.mark.slow
@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("end", INCOMPLETE_ENDS.values(), ids=list(INCOMPLETE_ENDS))
def test_a_listing_whose_answers_stop_part_way_is_an_error(
    scripted_s3: Callable[[Script], list[str]], end: Answer
) -> None:
    # The first three requests get the first page, the top-level folders, and the page after the first one.
    scripted_s3(lambda number: page_answer("a.jpg", next_page="more") if number < 4 else end)
    listing = list_one("s3://checkins")

    assert listing.table is None
    assert type(listing.error) is UnreachableError
    assert str(listing.error).startswith("list s3://checkins: ")
    assert str(listing.error).endswith("check that AWS_ENDPOINT_URL is that of an S3 server")


@pytest.mark.slow
@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("end", INCOMPLETE_ENDS.values(), ids=list(INCOMPLETE_ENDS))
def test_list_names_raises_if_the_answers_stop_part_way(
    scripted_s3: Callable[[Script], list[str]], end: Answer
) -> None:
    scripted_s3(lambda number: page_answer("a.jpg", next_page="more") if number == 1 else end)

    with pytest.raises(UnreachableError, match=r"^list s3://checkins: "):
        storage.list_names(Bucket("checkins"))


@pytest.mark.usefixtures("without_waiting")
def test_an_incomplete_page_is_requested_again(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    answers = [
        page_answer("a.jpg", next_page="more"),
        (200, {}, b""),
        *[error_answer(503, "SlowDown")] * 5,  # more than botocore retries
        page_answer("b.jpg", next_page=None),
    ]
    requests = scripted_s3(lambda number: answers[number - 1])

    assert storage.list_names(Bucket("checkins")) == ("a.jpg", "b.jpg")
    assert ["continuation-token=more" in path for path in requests] == [False] + [True] * 7


def test_equal_content_has_the_same_etag_in_a_folder_and_in_a_bucket(
    make_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = make_bucket({"a.jpg": b"same", "b.jpg": b"of another size"})
    (tmp_path / "c.jpg").write_bytes(b"same")
    (tmp_path / "d.jpg").write_bytes(b"of another kind")
    (tmp_path / "e.jpg").write_bytes(b"the only one of its size")

    in_bucket, in_folder = list_sources(parse_sources([f"s3://{bucket}", str(tmp_path)]))

    etags = {
        row["key"]: row["etag"] for listing in (in_bucket, in_folder) for row in table_of(listing).to_pylist()
    }
    assert etags == {
        "a.jpg": hashlib.md5(b"same").hexdigest(),
        "b.jpg": hashlib.md5(b"of another size").hexdigest(),
        "c.jpg": hashlib.md5(b"same").hexdigest(),
        "d.jpg": hashlib.md5(b"of another kind").hexdigest(),
        # No copy of this size can exist, so the file was not read and its time of change is the identifier.
        "e.jpg": f"mtime-{(tmp_path / 'e.jpg').stat().st_mtime_ns}",
    }
    assert table_of(in_folder).schema == LISTING_SCHEMA
