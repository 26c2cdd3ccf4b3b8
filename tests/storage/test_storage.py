import hashlib
import os
import resource
import socketserver
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.retries.standard import ExponentialBackoff
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray import storage
from physiq_ray.errors import DeniedError, NotFoundError, SettingError, StorageError, UnreachableError
from physiq_ray.storage import (
    LISTING_SCHEMA,
    Bucket,
    Folder,
    Listing,
    absolute_uri,
    create_bytes,
    is_photo,
    join_uri,
    list_sources,
    parse_source,
    parse_sources,
    read_bytes,
    split_uri,
    write_bytes,
    write_file,
)

Aws = Callable[..., None]
MakeBucket = Callable[..., str]
Answer = tuple[int, dict[str, str], bytes]
Script = Callable[[int], Answer]


def list_one(address: str | Path) -> Listing:
    [listing] = list_sources([parse_source(str(address))])
    return listing


def keys_of(listing: Listing) -> list[str]:
    assert listing.error is None, listing.error
    return sorted(listing.table["key"].to_pylist())


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def aws(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """Give a function that changes the AWS environment; None takes a variable away."""

    def change(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        storage.forget_clients()

    yield change
    storage.forget_clients()


@pytest.fixture
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once, here and in botocore."""
    monkeypatch.setattr(storage.retry, "FIRST_WAIT_S", 0)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)


@pytest.fixture
def scripted_s3(aws: Aws) -> Iterator[Callable[[Script], list[str]]]:
    """Give a function that starts a server with faults no real one shows when asked.

    The script turns a request's number into status, headers and body, sent as they are before the
    connection is closed; what is returned grows by each request's path.
    """
    servers: list[ThreadingHTTPServer] = []

    def start(script: Script) -> list[str]:
        paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                paths.append(self.path)
                status, headers, body = script(len(paths))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        aws(AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_address[1]}")
        return paths

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def error_answer(status: int, code: str) -> Answer:
    return status, {}, f"<Error><Code>{code}</Code><Message>scripted</Message></Error>".encode()


def page_answer(*keys: str, next_page: str | None) -> Answer:
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>3</Size><ETag>&quot;e&quot;</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    token = f"<NextContinuationToken>{next_page}</NextContinuationToken>" if next_page else ""
    body = (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{'true' if next_page else 'false'}</IsTruncated>{token}{contents}</ListBucketResult>"
    )
    return 200, {"Content-Type": "application/xml"}, body.encode()


@pytest.mark.parametrize(
    ("text", "source", "written"),
    [
        ("s3://checkins", Bucket("checkins"), "s3://checkins"),
        ("s3://checkins/", Bucket("checkins"), "s3://checkins"),
        ("s3://checkins/2024", Bucket("checkins", "2024/"), "s3://checkins/2024"),
        ("s3://checkins/2024/a b/", Bucket("checkins", "2024/a b/"), "s3://checkins/2024/a b"),
        ("s3://my.bucket-1/x", Bucket("my.bucket-1", "x/"), "s3://my.bucket-1/x"),
        ("/photos", Folder(Path("/photos")), "/photos"),
    ],
)
def test_an_address_becomes_a_source(text: str, source: Bucket | Folder, written: str) -> None:
    assert parse_source(text) == source
    assert str(source) == written


def test_a_folder_s_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/coach")

    assert parse_source("photos") == Folder(tmp_path / "photos")
    assert parse_source("~/photos") == Folder(Path("/home/coach/photos"))
    assert parse_source("photos").name == f"{tmp_path}/photos"


@pytest.mark.parametrize(
    "text",
    [
        "s3://",
        "s3:///key",
        "s3://ab",
        "s3://Checkins",
        "s3://check_ins",
        "s3://-checkins",
        "s3://checkins.",
        "s3://" + "x" * 64,
        "s3://check ins/a",
    ],
)
def test_a_name_that_no_bucket_can_have_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^sources: 's3://.*cannot be the name of a bucket$"):
        parse_source(text)


@pytest.mark.parametrize("text", ["gs://checkins", "https://checkins.s3.amazonaws.com", "S3://checkins"])
def test_another_scheme_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"is not supported; give s3:// or a folder$"):
        parse_source(text)


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_address_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="an empty address"):
        parse_source(text)


def test_no_source_at_all_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^sources: none given; .*PHYSIQ_SOURCES$"):
        parse_sources([])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["s3://aaa", "s3://aaa/x"], "s3://aaa/x lies within s3://aaa;"),
        (["s3://aaa/x/y", "s3://aaa/x"], "s3://aaa/x/y lies within s3://aaa/x;"),
        (["s3://aaa/x", "s3://aaa/x/"], "s3://aaa/x lies within s3://aaa/x;"),
        (["/photos", "/photos/2024"], "/photos/2024 lies within /photos;"),
        (["/photos", "/other/../photos"], "/photos lies within /other/../photos;"),
    ],
)
def test_sources_that_contain_each_other_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_sources(texts)

    assert str(caught.value) == f"sources: {message} give one of the two"


def test_a_folder_under_another_name_is_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")

    with pytest.raises(SettingError, match="lies within"):
        parse_sources([f"{tmp_path}/photos", f"{tmp_path}/link"])


def test_neighbours_whose_names_begin_alike_are_no_conflict() -> None:
    texts = ["s3://aaa/x", "s3://aaa/x2", "s3://aaab", "/photos", "/photos2", "aaa"]

    assert len(parse_sources(texts)) == 6


@given(st.text(min_size=1))
def test_a_uri_gives_its_key_back_whatever_stands_in_it(key: str) -> None:
    assert split_uri(f"s3://checkins/{key}") == ("checkins", key)
    assert split_uri(join_uri("s3://checkins/", key)) == ("checkins", key)


def test_names_are_joined_to_a_prefix_and_to_a_folder() -> None:
    assert join_uri("s3://models/poses/", "a", "b.pth") == "s3://models/poses/a/b.pth"
    assert join_uri("s3://models", "b.pth") == "s3://models/b.pth"
    assert join_uri("output/", "a", "b.pth") == "output/a/b.pth"


def test_only_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert absolute_uri("s3://models/poses") == "s3://models/poses"
    assert absolute_uri("runs") == f"{tmp_path}/runs"


@pytest.mark.parametrize(
    "key",
    [
        *("a.jpg", "x/A.JPEG", "a.b.png", "a.WebP", "a.tif", "a.heic", "a.gif", "a.avif", "a.HIF"),
        *("a.jfif", "a.jpe", "a.mpo", "a.DNG", "a.cr3", "a.nef", "a.ARW", "a.jp2", "a.jxl"),
    ],
)
def test_a_photo_is_told_by_its_extension(key: str) -> None:
    assert is_photo(key)


@pytest.mark.parametrize("key", ["a.jpg.txt", "jpg", ".jpg", "a.jpg/notes", "a.mp4", "Thumbs.db", ""])
def test_other_objects_are_no_photos(key: str) -> None:
    assert not is_photo(key)


def test_a_listing_is_a_table_of_the_photos(make_bucket: MakeBucket) -> None:
    bucket = make_bucket({"2024/a.jpg": b"12345"})

    table = list_one(f"s3://{bucket}").table

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


def test_what_is_no_photo_is_counted_apart(make_bucket: MakeBucket) -> None:
    bucket = make_bucket({"a.jpg": b"1", "notes.txt": b"2", "b.json": b"3", "c.HEIC": b"4"})

    listing = list_one(f"s3://{bucket}")

    assert keys_of(listing) == ["a.jpg", "c.HEIC"]
    assert listing.num_others == 2


def test_what_a_console_shows_as_a_folder_is_no_object(scripted_s3: Callable[[Script], list[str]]) -> None:
    scripted_s3(lambda _: page_answer("2024/", "spring.jpg/", "spring.jpg/a.jpg", next_page=None))

    listing = list_one("s3://checkins")

    assert keys_of(listing) == ["spring.jpg/a.jpg"]
    assert listing.num_others == 0


def test_names_are_of_all_that_lies_right_under_a_prefix_or_folder(
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


def test_an_empty_bucket_is_an_empty_table_and_no_error(make_bucket: MakeBucket) -> None:
    listing = list_one(f"s3://{make_bucket({})}")

    assert listing.error is None
    assert listing.num_others == 0
    assert listing.table.num_rows == 0
    assert listing.table.schema == LISTING_SCHEMA


def test_a_missing_bucket_keeps_its_error_and_the_others_go_on(make_bucket: MakeBucket) -> None:
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


def test_more_photos_than_one_page_holds_are_all_listed(make_bucket: MakeBucket) -> None:
    bucket = make_bucket({f"{number:04d}.jpg": b"" for number in range(1050)})

    assert keys_of(list_one(f"s3://{bucket}")) == [f"{number:04d}.jpg" for number in range(1050)]


@pytest.mark.parametrize("max_folders", [256, 2])
def test_a_large_bucket_is_listed_by_its_folders_without_gap_or_overlap(
    make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch, max_folders: int
) -> None:
    monkeypatch.setattr(storage.listing, "PAGE_KEYS", 20)
    monkeypatch.setattr(storage.listing, "MAX_FOLDERS", max_folders)
    keys = [f"{folder}/{number:03d}.jpg" for folder in ("0", "a", "b é", "b/c", "ü") for number in range(25)]
    keys += [f"flat-{number:03d}.jpg" for number in range(9)]
    bucket = make_bucket(dict.fromkeys(keys, b"1"))

    assert keys_of(list_one(f"s3://{bucket}")) == sorted(keys)
    assert keys_of(list_one(f"s3://{bucket}/b")) == [f"b/c/{number:03d}.jpg" for number in range(25)]


def test_odd_keys_are_listed_as_they_are_and_their_uris_lead_back_to_them(make_bucket: MakeBucket) -> None:
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
    read = {uri: read_bytes(uri) for uri in listing.table["uri"].to_pylist()}
    assert read == {f"s3://{bucket}/{key}": key.encode() for key in odd}


def test_a_listing_that_breaks_off_is_an_error_and_not_a_short_listing(
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


def answer_without(text: str, *, next_page: str | None) -> Answer:
    status, headers, body = page_answer("b.jpg", next_page=next_page)
    assert text.encode() in body
    return status, headers, body.replace(text.encode(), b"")


SILENT_ENDS = {
    "nothing at all": (200, {}, b""),
    "no word of what follows": answer_without("<IsTruncated>false</IsTruncated>", next_page=None),
    "more, but not where": answer_without("<NextContinuationToken>x</NextContinuationToken>", next_page="x"),
    "the same page over and over": page_answer("b.jpg", next_page="more"),
    "no S3": (200, {"Content-Type": "text/html"}, b"<html><p>Welcome</p></html>"),
}


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("end", SILENT_ENDS.values(), ids=list(SILENT_ENDS))
def test_a_listing_that_ends_early_in_silence_is_an_error(
    scripted_s3: Callable[[Script], list[str]], end: Answer
) -> None:
    # The first page, that of the folders at the top, and the first page again, to go on from.
    scripted_s3(lambda number: page_answer("a.jpg", next_page="more") if number < 4 else end)
    listing = list_one("s3://checkins")

    assert listing.table is None
    assert type(listing.error) is UnreachableError
    assert str(listing.error).startswith("list s3://checkins: ")
    assert str(listing.error).endswith("check that AWS_ENDPOINT_URL is that of an S3 server")


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("end", SILENT_ENDS.values(), ids=list(SILENT_ENDS))
def test_names_that_end_early_in_silence_are_an_error(
    scripted_s3: Callable[[Script], list[str]], end: Answer
) -> None:
    scripted_s3(lambda number: page_answer("a.jpg", next_page="more") if number == 1 else end)

    with pytest.raises(UnreachableError, match=r"^list s3://checkins: "):
        storage.list_names(Bucket("checkins"))


@pytest.mark.usefixtures("without_waiting")
def test_a_page_that_does_not_come_whole_is_asked_for_again(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    answers = [
        page_answer("a.jpg", next_page="more"),
        (200, {}, b""),
        *[error_answer(503, "SlowDown")] * 5,  # more than botocore itself tries
        page_answer("b.jpg", next_page=None),
    ]
    requests = scripted_s3(lambda number: answers[number - 1])

    assert storage.list_names(Bucket("checkins")) == ("a.jpg", "b.jpg")
    assert ["continuation-token=more" in path for path in requests] == [False] + [True] * 7


@pytest.mark.slow
def test_a_server_away_for_five_seconds_costs_no_listing_and_no_write(
    s3: Any, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.listing, "PAGE_KEYS", 20)
    bucket = make_bucket({f"{number % 3}/{number:03d}.jpg": b"1" for number in range(90)} | {"a.txt": b""})
    s3.stop()
    back = threading.Timer(5, s3.start)
    back.start()
    try:
        with ThreadPoolExecutor() as threads:
            listing = threads.submit(list_one, f"s3://{bucket}")
            names = threads.submit(storage.list_names, Bucket(bucket))
            written = threads.submit(write_bytes, b"written", f"s3://{bucket}/out/written")
            created = threads.submit(create_bytes, b"created", f"s3://{bucket}/out/created")
    finally:
        back.join()

    assert len(keys_of(listing.result())) == 90
    assert names.result() == ("a.txt",)
    assert written.result() is None
    assert created.result() is True
    assert read_bytes(f"s3://{bucket}/out/written") == b"written"
    assert read_bytes(f"s3://{bucket}/out/created") == b"created"


@pytest.mark.parametrize(
    ("variable", "value", "code", "own_words"),
    [
        (
            *("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch"),
            "The request signature we calculated does not match the signature you provided. Check your key "
            "and signing method.",
        ),
        (
            *("AWS_ACCESS_KEY_ID", "unknown", "InvalidAccessKeyId"),
            "The access key ID you provided does not exist in our records.",
        ),
    ],
)
def test_wrong_credentials_are_said_when_listing_reading_and_writing(
    make_bucket: MakeBucket, aws: Aws, variable: str, value: str, code: str, own_words: str
) -> None:
    bucket = make_bucket({"a.jpg": b"1"})
    aws(**{variable: value})

    error = list_one(f"s3://{bucket}").error

    assert type(error) is DeniedError
    assert str(error) == (
        f"list s3://{bucket}: the credentials were refused ({code}); check AWS_PROFILE and keys "
        f"(S3: {own_words})"
    )
    with pytest.raises(DeniedError, match=rf"^read s3://{bucket}/a\.jpg: the credentials were refused"):
        read_bytes(f"s3://{bucket}/a.jpg")
    with pytest.raises(DeniedError, match=rf"^write s3://{bucket}/b\.jpg: the credentials were refused"):
        write_bytes(b"2", f"s3://{bucket}/b.jpg")


def test_missing_credentials_are_said_with_how_to_give_them(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    aws(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)

    error = list_one("s3://checkins").error

    assert type(error) is DeniedError
    assert "Unable to locate credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and" in str(error)


def test_a_profile_that_does_not_exist_is_named(aws: Aws) -> None:
    aws(AWS_PROFILE="coach")

    error = list_one("s3://checkins").error

    assert type(error) is DeniedError
    assert str(error) == (
        "S3: The config profile (coach) could not be found; set AWS_PROFILE to one that exists or unset it"
    )


def test_credentials_whose_source_gives_expired_ones_are_said(aws: Aws, tmp_path: Path) -> None:
    script = tmp_path / "give-keys"
    keys = '{"Version":1,"AccessKeyId":"a","SecretAccessKey":"b","Expiration":"2020-01-01T00:00:00Z"}'
    script.write_text(f"#!/bin/sh\necho '{keys}'\n")
    script.chmod(0o755)
    (tmp_path / "config").write_text(f"[profile coach]\ncredential_process = {script}\n")
    aws(
        AWS_CONFIG_FILE=str(tmp_path / "config"),
        AWS_PROFILE="coach",
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
    )

    error = list_one("s3://checkins").error

    assert type(error) is DeniedError
    assert str(error).startswith(
        "list s3://checkins: the credentials expired and could not be refreshed; sign in again, e.g. "
        "`aws sso login`"
    )


def test_an_endpoint_that_is_no_address_is_named_at_once(aws: Aws) -> None:
    aws(AWS_ENDPOINT_URL="localhost:9000")

    started = time.monotonic()
    with pytest.raises(UnreachableError, match=r"Invalid endpoint: localhost:9000; set AWS_ENDPOINT_URL"):
        read_bytes("s3://checkins/a.jpg")

    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("without_waiting")
def test_an_unreachable_endpoint_is_said_when_listing_and_when_reading(aws: Aws) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as taken:
        port = taken.server_address[1]
    aws(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")

    error = list_one("s3://checkins").error

    assert type(error) is UnreachableError
    assert str(error).startswith("list s3://checkins: Could not connect to the endpoint URL")
    assert str(error).endswith("; check AWS_ENDPOINT_URL and the network")
    with pytest.raises(UnreachableError, match=r"^read s3://checkins/a\.jpg: Could not connect"):
        read_bytes("s3://checkins/a.jpg")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied; the role or key needs", DeniedError),
        (403, "RequestTimeTooSkewed; this machine's clock is off", DeniedError),
        (403, "InvalidObjectState; the object is in an archive class", StorageError),
        (400, "ExpiredToken", DeniedError),
        (404, "NoSuchKey", NotFoundError),
        (404, "NoSuchBucket", NotFoundError),
        (400, "AuthorizationHeaderMalformed", StorageError),
    ],
)
def test_a_refusal_is_translated_and_asked_for_once_by_each_client(
    scripted_s3: Callable[[Script], list[str]], status: int, code: str, kind: type[StorageError]
) -> None:
    requests = scripted_s3(lambda _: error_answer(status, code.partition(";")[0]))

    with pytest.raises(StorageError, match=rf"^read s3://checkins/a\.jpg: .*{code}") as caught:
        read_bytes("s3://checkins/a.jpg")

    assert type(caught.value) is kind
    assert requests == ["/checkins/a.jpg"] * 2


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (429, "Throttled")])
def test_a_server_s_fault_is_waited_out_longer_each_time_and_then_said(
    scripted_s3: Callable[[Script], list[str]], monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append(seconds) if seconds else None)
    scripted_s3(lambda _: error_answer(status, code))

    with pytest.raises(UnreachableError, match=rf"^read s3://checkins/a\.jpg: {code} after several tries"):
        read_bytes("s3://checkins/a.jpg")

    longest = [0.5, 1, 2, 4, 8, 8, 8]
    assert len(waits) == len(longest)
    assert all(most * 0.75 <= wait <= most for wait, most in zip(waits, longest, strict=True))


def test_a_missing_key_is_named(make_bucket: MakeBucket) -> None:
    bucket = make_bucket({})

    with pytest.raises(NotFoundError, match=rf"^read s3://{bucket}/a\.jpg: NoSuchKey"):
        read_bytes(f"s3://{bucket}/a.jpg")


@pytest.mark.parametrize("uri", ["s3://checkins", "s3://checkins/", "s3://Check ins/a.jpg"])
def test_a_uri_that_can_name_no_object_is_refused(s3: Any, uri: str) -> None:
    with pytest.raises(StorageError, match=f"^read {uri}: Parameter validation failed"):
        read_bytes(uri)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=rf"^read {tmp_path}/a\.jpg: No such file"):
        read_bytes(f"{tmp_path}/a.jpg")
    with pytest.raises(StorageError, match=rf"^read {tmp_path}: Is a directory"):
        read_bytes(str(tmp_path))


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\x00\xff\r\n")

    assert read_bytes(f"{tmp_path}/a.jpg") == b"\x00\xff\r\n"


@pytest.mark.usefixtures("without_waiting")
def test_a_body_that_breaks_off_half_way_is_read_again(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    requests = scripted_s3(
        lambda number: (200, {"Content-Length": "10"}, b"01234" if number < 3 else b"0123456789")
    )

    assert read_bytes("s3://checkins/a.jpg") == b"0123456789"
    assert requests == ["/checkins/a.jpg"] * 3


@pytest.mark.usefixtures("without_waiting")
def test_a_body_that_always_breaks_off_is_never_returned_short(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    requests = scripted_s3(lambda _: (200, {"Content-Length": "10"}, b"01234"))

    with pytest.raises(UnreachableError, match=r"^read s3://checkins/a\.jpg: .*5 bytes read"):
        read_bytes("s3://checkins/a.jpg")
    assert len(requests) == 16  # eight tries of two clients


def test_what_is_written_to_a_bucket_is_there(make_bucket: MakeBucket, tmp_path: Path) -> None:
    bucket = make_bucket({"old.bin": b"old"})
    (tmp_path / "new.bin").write_bytes(b"new" * 1000)

    write_file(tmp_path / "new.bin", f"s3://{bucket}/a b/é.bin")
    write_bytes(b"newer", f"s3://{bucket}/old.bin")

    assert read_bytes(f"s3://{bucket}/a b/é.bin") == b"new" * 1000
    assert read_bytes(f"s3://{bucket}/old.bin") == b"newer"


def test_a_file_of_several_upload_parts_arrives_whole(
    make_bucket: MakeBucket, tmp_path: Path, s3_direct: Any
) -> None:
    bucket = make_bucket({})
    data = os.urandom(17 * 2**20)
    (tmp_path / "model.pth").write_bytes(data)

    write_file(tmp_path / "model.pth", f"s3://{bucket}/model.pth")

    assert "-" in s3_direct.head_object(Bucket=bucket, Key="model.pth")["ETag"]  # as multipart ETags have
    assert read_bytes(f"s3://{bucket}/model.pth") == data


def test_writing_to_a_missing_bucket_is_said(s3: Any) -> None:
    with pytest.raises(NotFoundError, match=r"^write s3://nowhere-to-be-found/a: NoSuchBucket"):
        write_bytes(b"1", "s3://nowhere-to-be-found/a")


@pytest.mark.usefixtures("without_waiting")
def test_writing_to_an_unreachable_endpoint_is_said(aws: Aws) -> None:
    aws(AWS_ENDPOINT_URL="http://127.0.0.1:1")

    with pytest.raises(UnreachableError, match=r"^write s3://checkins/a: Could not connect"):
        write_bytes(b"1", "s3://checkins/a")


def test_a_file_that_is_not_there_is_no_fault_of_the_network(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=rf"^read {tmp_path}/a: No such file"):
        write_file(tmp_path / "a", "s3://checkins/a")


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_of_two_that_create_the_same_name_the_first_one_does(
    make_bucket: MakeBucket, tmp_path: Path, where: str
) -> None:
    uri = f"s3://{make_bucket({})}/lock" if where == "bucket" else f"{tmp_path}/lock"

    assert create_bytes(b"first", uri) is True
    assert create_bytes(b"second", uri) is False
    assert create_bytes(b"first", uri) is False
    assert read_bytes(uri) == b"first"


LOST = error_answer(500, "InternalError")
THERE = error_answer(412, "PreconditionFailed")


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("num_lost", [1, 5])  # fewer and more than botocore itself tries
@pytest.mark.parametrize(
    ("found", "is_ours"),
    [((200, {}, b"own"), True), ((200, {}, b"another's"), False), (error_answer(404, "NoSuchKey"), False)],
)
def test_a_name_that_was_created_though_the_answer_was_lost_is_known_by_its_content(
    scripted_s3: Callable[[Script], list[str]], num_lost: int, found: Answer, is_ours: bool
) -> None:
    answers = [*[LOST] * num_lost, THERE, found, found]
    requests = scripted_s3(lambda number: answers[number - 1])

    assert create_bytes(b"own", "s3://checkins/lock") is is_ours
    assert len(requests) >= num_lost + 2


def test_a_name_that_was_there_before_the_first_try_is_another_s_whatever_it_holds(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    requests = scripted_s3(lambda number: THERE if number == 1 else (200, {}, b"own"))

    assert create_bytes(b"own", "s3://checkins/lock") is False
    assert len(requests) == 1


def test_what_is_written_to_a_folder_is_there_and_may_be_read_by_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "a.bin"

    write_bytes(b"old", str(target))
    write_bytes(b"new", str(target))

    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "out" / "model.pth"
    write_bytes(b"old", str(target))
    source = tmp_path / "new.pth"
    source.write_bytes(bytes(300_000))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # as a full disk would: half-way
    try:
        with pytest.raises(StorageError, match=rf"^write {target}: File too large"):
            write_file(source, str(target))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["model.pth"]


def test_a_folder_where_the_file_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "out" / "model.pth").mkdir(parents=True)

    with pytest.raises(StorageError, match=r"^write .*/model\.pth: Is a directory"):
        write_bytes(b"1", f"{tmp_path}/out/model.pth")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.pth"]


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")

    with pytest.raises(StorageError, match=r"^write .*/out/model\.pth: (File exists|Not a directory)"):
        write_bytes(b"1", f"{tmp_path}/out/model.pth")


def test_a_folder_is_listed_like_a_bucket(tmp_path: Path) -> None:
    fill(tmp_path, "7/a.jpg", "7/deep/b.PNG", "c.jpg", "notes.txt", "é è.jpg")

    listing = list_one(tmp_path)

    assert listing.table.schema == LISTING_SCHEMA
    assert keys_of(listing) == ["7/a.jpg", "7/deep/b.PNG", "c.jpg", "é è.jpg"]
    assert listing.num_others == 1
    assert set(listing.table["bucket"].to_pylist()) == {str(tmp_path)}
    rows = {row["key"]: row for row in listing.table.to_pylist()}
    assert rows["7/deep/b.PNG"]["uri"] == f"{tmp_path}/7/deep/b.PNG"
    assert rows["7/deep/b.PNG"]["size"] == 12
    assert read_bytes(rows["é è.jpg"]["uri"]) == "é è.jpg".encode()


def test_hidden_files_and_folders_are_not_listed(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg", "x/.d/e.jpg", "x/f.jpg")

    listing = list_one(tmp_path)

    assert keys_of(listing) == ["a.jpg", "x/f.jpg"]
    assert listing.num_others == 0


def test_links_to_files_are_followed_and_broken_ones_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "c.jpg").symlink_to("gone.jpg")
    (tmp_path / "circle").symlink_to(tmp_path)

    assert keys_of(list_one(tmp_path)) == ["a.jpg", "b.jpg"]


def test_links_to_folders_are_followed_and_each_folder_counted_once(tmp_path: Path) -> None:
    fill(tmp_path, "elsewhere/7/x.jpg", "elsewhere/y.jpg", "elsewhere/.z/z.jpg", "photos/7/a.jpg")
    photos = tmp_path / "photos"
    (photos / "0-of-7").symlink_to("7")  # sorted before what it leads to
    (photos / "7" / "back").symlink_to(photos)
    (photos / "new").symlink_to(tmp_path / "elsewhere")
    (photos / "new-again").symlink_to(tmp_path / "elsewhere" / "7")
    (tmp_path / "elsewhere" / "round").symlink_to(photos)
    (photos / ".hidden").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(photos)

    assert keys_of(list_one(photos)) == ["7/a.jpg", "new/7/x.jpg", "new/y.jpg"]
    assert keys_of(list_one(tmp_path / "link")) == ["7/a.jpg", "new/7/x.jpg", "new/y.jpg"]


def test_a_folder_that_may_not_be_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 300)
    assert str(list_one(long).error) == f"list {long}: File name too long"
    look = Path.stat

    def refuse(path: Path, **options: Any) -> os.stat_result:  # root may look everywhere
        if path.name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    error = list_one(tmp_path / "private").error

    assert type(error) is DeniedError
    assert str(error) == f"list {tmp_path}/private: Permission denied"


def test_an_empty_folder_is_an_empty_table_and_no_error(tmp_path: Path) -> None:
    listing = list_one(tmp_path)

    assert listing.error is None
    assert listing.table.schema == LISTING_SCHEMA
    assert listing.table.num_rows == 0


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    error = list_one(tmp_path / "gone").error

    assert type(error) is NotFoundError
    assert str(error) == f"list {tmp_path}/gone: No such file or directory"


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    error = list_one(fill(tmp_path, "a.jpg") / "a.jpg").error

    assert type(error) is StorageError
    assert str(error) == f"list {tmp_path}/a.jpg: not a folder"


def test_a_sub_folder_that_may_not_be_read_is_an_error_and_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a.jpg", "private/b.jpg")
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # root may read everything, so the refusal cannot be a real one
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    listing = list_one(tmp_path)

    assert listing.table is None
    assert type(listing.error) is DeniedError
    assert str(listing.error) == f"list {tmp_path}/private: Permission denied"


def test_a_file_name_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"latin-1")

    error = list_one(tmp_path).error

    assert type(error) is StorageError
    assert str(error) == f"list {tmp_path}: 'caf\\udce9.jpg' is not UTF-8; rename it"


def test_equal_content_has_the_same_etag_in_a_folder_and_in_a_bucket(
    make_bucket: MakeBucket, tmp_path: Path
) -> None:
    bucket = make_bucket({"a.jpg": b"same", "b.jpg": b"of another size"})
    (tmp_path / "c.jpg").write_bytes(b"same")
    (tmp_path / "d.jpg").write_bytes(b"of another kind")
    (tmp_path / "e.jpg").write_bytes(b"the only one of its size")

    in_bucket, in_folder = list_sources(parse_sources([f"s3://{bucket}", str(tmp_path)]))

    etags = {
        row["key"]: row["etag"] for listing in (in_bucket, in_folder) for row in listing.table.to_pylist()
    }
    assert etags == {
        "a.jpg": hashlib.md5(b"same").hexdigest(),
        "b.jpg": hashlib.md5(b"of another size").hexdigest(),
        "c.jpg": hashlib.md5(b"same").hexdigest(),
        "d.jpg": hashlib.md5(b"of another kind").hexdigest(),
        # No copy can exist, so it was not read: its time of change tells a later version.
        "e.jpg": f"mtime-{(tmp_path / 'e.jpg').stat().st_mtime_ns}",
    }
    assert in_folder.table.schema == LISTING_SCHEMA
