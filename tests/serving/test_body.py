import asyncio
import base64
import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from physiq_ray.config import ServingSettings
from physiq_ray.serving.body import Upload, read_uploads
from physiq_ray.serving.edge import limited
from physiq_ray.serving.refusals import RequestError


def request_of(
    *chunks: bytes, content_type: str | None = None, encoding: str | None = None, max_bytes: int = 1000
) -> Request:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    waiting = iter(messages)

    async def receive() -> dict[str, object]:
        return next(waiting)

    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    if encoding is not None:
        headers.append((b"content-encoding", encoding.encode()))
    # With "app", as under FastAPI: Starlette then gives its form errors as HTTP errors.
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "app": None}
    return Request(scope, limited(receive, max_bytes))


def read(request: Request, *allowed: str, max_body_bytes: int = 2**20) -> tuple[Upload, ...]:
    settings = ServingSettings(allowed_sources=allowed, max_photos=2, max_body_bytes=max_body_bytes)
    return asyncio.run(read_uploads(request, settings))


def refusal(request: Request, *allowed: str, max_body_bytes: int = 2**20) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(request, *allowed, max_body_bytes=max_body_bytes)
    return caught.value


@pytest.mark.parametrize(
    "content_type",
    [None, "", "image/jpeg", "IMAGE/JPEG", "image/png; q=1", "application/octet-stream",
     "application/x-www-form-urlencoded"],
)  # fmt: skip
def test_a_body_is_one_photo_whatever_kind_of_image_it_is_said_to_be(content_type: str | None) -> None:
    assert read(request_of(b"one ", b"photo", content_type=content_type)) == (Upload(None, b"one photo"),)


def test_a_body_of_exactly_the_limit_is_read() -> None:
    assert read(request_of(b"x" * 400, b"x" * 600)) == (Upload(None, b"x" * 1000),)


def test_a_body_is_refused_as_soon_as_it_is_longer_than_allowed() -> None:
    error = refusal(request_of(b"x" * 400, b"x" * 601, b"never reached"))

    assert (error.status, error.code) == (413, "too_large")
    assert error.message == "the request has more than 1000 bytes; send smaller photos"


def test_addresses_become_uploads_in_their_order() -> None:
    body = b'{"uris": ["s3://athletes/open/b.jpg", "s3://athletes/open/a.jpg"]}'

    assert read(request_of(body, content_type="application/json"), "s3://athletes/open") == (
        Upload("s3://athletes/open/b.jpg", uri="s3://athletes/open/b.jpg"),
        Upload("s3://athletes/open/a.jpg", uri="s3://athletes/open/a.jpg"),
    )


def test_one_address_that_may_not_be_read_refuses_the_request() -> None:
    body = b'{"uris": ["s3://athletes/open/b.jpg", "s3://athletes/secret.jpg"]}'

    error = refusal(request_of(body, content_type="application/json"), "s3://athletes/open")

    assert (error.status, error.code) == (422, "uri_not_allowed")
    assert error.message == "'s3://athletes/secret.jpg' may not be read here"


@pytest.mark.parametrize(
    "charset", ["utf-8", "undefined", "unicode_escape", "punycode", "idna", "utf-16", "rot13"]
)
def test_a_forms_charset_leads_to_no_other_error_than_ours_and_to_names_that_can_be_sent(
    charset: str,
) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="a"; filename="\\ud800 -\xff-.jpg"\r\n\r\n'
        b"photo\r\n--b--\r\n"
    )
    request = request_of(body, content_type=f"multipart/form-data; boundary=b; charset={charset}")

    try:
        uploads = read(request)
    except RequestError as error:
        assert error.status == 400  # noqa: PT017
    else:
        assert uploads[0].data == b"photo"
        (uploads[0].name or "").encode()  # raises for what is not Unicode


# Photos in JSON

PHOTO = b"\xff\xd8\xff\xe0 a photo \xfb\xff\xbf?>"
PLAIN = "/9j/4CBhIHBob3RvIPv/vz8+"
GZIPPED = gzip.compress(PHOTO, mtime=0)  # gzip writes the time, but all processes must name the tests alike
assert base64.b64encode(PHOTO).decode() == PLAIN


def json_of(value: object) -> Request:
    return request_of(json.dumps(value).encode(), content_type="application/json")


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
def test_a_photo_in_json_is_read_as_clients_write_base64(text: str) -> None:
    assert read(json_of({"image": text})) == (Upload(None, PHOTO),)


@pytest.mark.parametrize(("text", "data"), [("QQ==", b"A"), ("QQ", b"A"), ("QUI=", b"AB"), ("QUI", b"AB")])
def test_base64_is_read_with_its_padding_or_without(text: str, data: bytes) -> None:
    assert read(json_of({"image": text})) == (Upload(None, data),)


def test_base64_with_line_breaks_as_a_shell_puts_them_into_json_is_read() -> None:
    body = b'{"image": "' + base64.encodebytes(PHOTO * 20) + b'"}'

    assert read(request_of(body, content_type="application/json")) == (Upload(None, PHOTO * 20),)


def test_several_photos_in_json_become_uploads_in_their_order() -> None:
    assert read(json_of({"images": ["QQ==", "data:image/png;base64,Qg=="]})) == (
        Upload(None, b"A"), Upload(None, b"B"),
    )  # fmt: skip


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
def test_what_is_no_base64_is_refused_with_its_place(
    value: object, status: int, code: str, message: str
) -> None:
    error = refusal(json_of(value))

    assert (error.status, error.code, error.message) == (status, code, message)


@pytest.mark.parametrize(
    "value",
    [
        "QQ==", ["QQ=="], None, 7, {}, {"image": None}, {"image": ["QQ=="]}, {"images": "QQ=="},
        {"images": []}, {"images": [7]}, {"images": [["QQ=="]]}, {"image": "QQ==", "uri": "s3://a/b"},
        {"photo": "QQ=="},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_json_without_a_photo_says_what_to_send(value: object) -> None:
    error = refusal(json_of(value))

    assert (error.status, error.code) == (422, "bad_json")
    assert error.message == (
        'the JSON contains neither photos nor addresses; send {"image": "<base64>"}, '
        '{"images": ["<base64>", …]}, {"uri": "s3://bucket/key"} or {"uris": ["s3://…", …]}'
    )


def test_a_photo_in_json_may_be_as_long_as_a_body() -> None:
    photo = bytes(700_000)
    body = json.dumps({"image": base64.b64encode(photo).decode()}).encode()

    assert read(request_of(body, content_type="application/json", max_bytes=2**20)) == (Upload(None, photo),)


def test_long_json_of_something_else_is_refused_before_it_is_parsed() -> None:
    body = b'{"image": [' + b"[]," * 100_000 + b"[]]}"

    error = refusal(request_of(body, content_type="application/json", max_bytes=2**20))

    assert (error.status, error.message) == (413, "JSON of more than 65536 bytes besides its photos")


def test_long_addresses_are_refused() -> None:
    body = json.dumps({"uri": "s3://athletes/open/" + "a" * 70_000}).encode()

    error = refusal(request_of(body, content_type="application/json", max_bytes=2**20), "s3://athletes/open")

    assert (error.status, error.code) == (413, "too_large")


# Content-Encoding


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " identity , gzip"])
@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000])
def test_a_body_in_gzip_is_read(encoding: str, chunk_bytes: int) -> None:
    body = GZIPPED + GZIPPED  # as `cat` puts two together
    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)]

    assert read(request_of(*chunks, encoding=encoding)) == (Upload(None, PHOTO + PHOTO),)


def test_json_in_gzip_is_read() -> None:
    body = gzip.compress(json.dumps({"image": PLAIN}).encode())

    assert read(request_of(body, content_type="application/json", encoding="gzip")) == (Upload(None, PHOTO),)


@pytest.mark.parametrize("encoding", ["", "identity", "identity, identity"])
def test_a_body_in_no_encoding_is_read_as_it_is(encoding: str) -> None:
    assert read(request_of(PHOTO, encoding=encoding)) == (Upload(None, PHOTO),)


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "x" * 200])
def test_another_encoding_is_refused_by_its_name(encoding: str) -> None:
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
    ids=["a photo", "zlib", "cut", "more after its end"],
)
def test_what_is_no_gzip_is_refused(body: bytes, message: str) -> None:
    error = refusal(request_of(body, encoding="gzip"))

    assert (error.status, error.code, error.message) == (400, "bad_encoding", message)


def test_an_empty_body_in_gzip_is_empty() -> None:
    assert refusal(request_of(b"", encoding="gzip")).code == "empty"
    assert refusal(request_of(gzip.compress(b""), encoding="gzip")).code == "empty"


def test_gzip_is_decoded_to_the_limit_and_no_further() -> None:
    exact, bomb = gzip.compress(bytes(5 * 2**20)), gzip.compress(bytes(5 * 2**20 + 1))

    assert read(request_of(exact, encoding="gzip", max_bytes=2**20), max_body_bytes=5 * 2**20) == (
        Upload(None, bytes(5 * 2**20)),
    )
    error = refusal(request_of(bomb, encoding="gzip", max_bytes=2**20), max_body_bytes=5 * 2**20)
    assert (error.status, error.code) == (413, "too_large")


@given(st.binary(max_size=300), st.integers(1, 50))
def test_whatever_is_called_gzip_is_read_or_refused_as_the_clients_fault(data: bytes, size: int) -> None:
    body = gzip.compress(data, mtime=0)[: -size if size < 20 else None] + data[:size]

    try:
        read(request_of(body, encoding="gzip"))
    except RequestError as error:
        assert error.status in {400, 413}  # noqa: PT017
