import base64
import gzip
import json
import zlib

import pytest
from bodies import json_of, read, refusal, request_of
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.serving.body import Upload
from physiq_ray.serving.refusals import RequestError

# Photos in JSON

PHOTO = b"\xff\xd8\xff\xe0 a photo \xfb\xff\xbf?>"
PLAIN = "/9j/4CBhIHBob3RvIPv/vz8+"
GZIPPED = gzip.compress(PHOTO, mtime=0)  # without the time, so that all processes give the tests equal names
assert base64.b64encode(PHOTO).decode() == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "_9j_4CBhIHBob3RvIPv_vz8-",  # url-safe
        f"data:image/jpeg;base64,{PLAIN}",
        f"DATA:image/jpeg;charset=utf-8;BASE64,{PLAIN}",
        f"data:;base64,{PLAIN}",
        "\n".join(PLAIN[start : start + 4] for start in range(0, len(PLAIN), 4)),
        "\r\n ".join(PLAIN[start : start + 5] for start in range(0, len(PLAIN), 5)) + "\n",
        f"{PLAIN}====",
    ],
)
def test_a_photo_in_json_is_read_in_each_way_in_which_clients_write_base64(text: str) -> None:
    assert read(json_of({"image": text})) == (Upload(None, PHOTO),)


@pytest.mark.parametrize(("text", "data"), [("QQ==", b"A"), ("QQ", b"A"), ("QUI=", b"AB"), ("QUI", b"AB")])
def test_base64_is_read_with_and_without_padding(text: str, data: bytes) -> None:
    assert read(json_of({"image": text})) == (Upload(None, data),)


def test_base64_with_raw_line_breaks_inside_the_json_is_read() -> None:
    body = b'{"image": "' + base64.encodebytes(PHOTO * 20) + b'"}'

    assert read(request_of(body, content_type="application/json")) == (Upload(None, PHOTO * 20),)


@pytest.mark.parametrize(
    ("value", "status", "code", "message"),
    [
        ({"image": "no base64!"}, 400, "bad_base64",
         "'image' is not a photo in base64: it has other characters, or ends too early"),
        ({"image": "é" * 8}, 400, "bad_base64",
         "'image' is not a photo in base64: it has other characters, or ends too early"),
        ({"image": "QQ==QQ=="}, 400, "bad_base64",
         "'image' is not a photo in base64: it has other characters, or ends too early"),
        ({"images": ["QQ==", "Q"]}, 400, "bad_base64",
         "'images[1]' is not a photo in base64: it has other characters, or ends too early"),
        ({"image": "data:image/jpeg,QQ=="}, 400, "bad_base64",
         "'image' is not a photo in base64: its data: address is not data:image/…;base64,…"),
        ({"image": "data:image/jpeg;base64"}, 400, "bad_base64",
         "'image' is not a photo in base64: its data: address is not data:image/…;base64,…"),
        ({"image": ""}, 400, "empty", "no photo in the request: its body is empty"),
        ({"image": "data:image/jpeg;base64,"}, 400, "empty", "no photo in the request: its body is empty"),
        ({"images": ["QQ=="] * 3}, 413, "too_many", "more than 2 photos in one request"),
    ],
)  # fmt: skip
def test_an_image_that_is_not_base64_is_refused_with_its_place(
    value: object, status: int, code: str, message: str
) -> None:
    error = refusal(json_of(value))

    assert (error.status, error.code, error.message) == (status, code, message)


# Content-Encoding


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " identity , gzip"])
@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000])
def test_a_body_in_gzip_is_read(encoding: str, chunk_bytes: int) -> None:
    body = GZIPPED + GZIPPED  # two files, joined as `cat` does
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]

    assert read(request_of(*chunks, encoding=encoding)) == (Upload(None, PHOTO + PHOTO),)


def test_json_in_gzip_is_read() -> None:
    body = gzip.compress(json.dumps({"image": PLAIN}).encode())

    assert read(request_of(body, content_type="application/json", encoding="gzip")) == (Upload(None, PHOTO),)


@pytest.mark.parametrize("encoding", ["", "identity", "identity, identity"])
def test_a_body_without_an_encoding_is_read_unchanged(encoding: str) -> None:
    assert read(request_of(PHOTO, encoding=encoding)) == (Upload(None, PHOTO),)


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "x" * 200])
def test_another_encoding_is_refused_with_its_name(encoding: str) -> None:
    error = refusal(request_of(PHOTO, encoding=encoding))

    assert (error.status, error.code) == (415, "unsupported_encoding")
    assert error.message == f"Content-Encoding {encoding[:100]!r}: send the body without one, or in gzip"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (PHOTO, "Content-Encoding 'gzip': the body is not gzip"),
        (zlib.compress(PHOTO), "Content-Encoding 'gzip': the body is not gzip"),
        (GZIPPED[:-9], "Content-Encoding 'gzip': the body ends before the end of its gzip data"),
        (GZIPPED + b"rest", "Content-Encoding 'gzip': the body is not gzip"),
    ],
    ids=["a photo", "zlib", "truncated", "bytes after its end"],
)
def test_a_body_that_is_not_gzip_is_refused(body: bytes, message: str) -> None:
    error = refusal(request_of(body, encoding="gzip"))

    assert (error.status, error.code, error.message) == (400, "bad_encoding", message)


def test_an_empty_body_with_the_encoding_gzip_is_refused_as_empty() -> None:
    assert refusal(request_of(b"", encoding="gzip")).code == "empty"
    assert refusal(request_of(gzip.compress(b""), encoding="gzip")).code == "empty"


def test_gzip_is_decoded_up_to_the_limit() -> None:
    exact, bomb = gzip.compress(bytes(5 * 2**20)), gzip.compress(bytes(5 * 2**20 + 1))

    assert read(request_of(exact, encoding="gzip", max_bytes=2**20), max_body_bytes=5 * 2**20) == (
        Upload(None, bytes(5 * 2**20)),
    )
    error = refusal(request_of(bomb, encoding="gzip", max_bytes=2**20), max_body_bytes=5 * 2**20)
    assert (error.status, error.code) == (413, "too_large")


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_data_sent_as_gzip_is_read_or_refused_as_a_client_error(data: bytes, size: int) -> None:
    body = gzip.compress(data, mtime=0)[: -size if size < 20 else None] + data[:size]

    try:
        read(request_of(body, encoding="gzip"))
    except RequestError as error:
        assert error.status in {400, 413}  # noqa: PT017
