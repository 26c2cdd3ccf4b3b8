import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request

from physiq_ray import errors
from physiq_ray.config import ServingSettings
from physiq_ray.errors import PhysiqError
from physiq_ray.serving.body import Upload, is_allowed, limited, read_uploads
from physiq_ray.serving.refusals import RequestError, to_request_error

ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PhysiqError)
]
ALLOWED = ("s3://athletes/open", "s3://whole", "s3://slashed/open/")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://athletes/open/a.jpg",
        "s3://athletes/open/2024/05/a.jpg",
        "s3://athletes/open/with space, ümlaut, 写真 and 💪.jpg",
        "s3://athletes/open/a..jpg",
        "s3://athletes/open/.hidden.jpg",
        "s3://athletes/open/...",
        "s3://athletes/open/50%25?x=1#y.jpg",
        "s3://whole/a.jpg",
        "s3://whole/any/where/a.jpg",
        "s3://slashed/open/a.jpg",
    ],
)
def test_a_photo_below_an_allowed_address_may_be_read(uri: str) -> None:
    assert is_allowed(uri, ALLOWED)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://athletes/opened/x.jpg",
        "s3://athletes/open.jpg",
        "s3://athletes/open",
        "s3://athletes/secret.jpg",
        "s3://athletes/Open/a.jpg",
        "s3://athletes//open/a.jpg",
        "s3://Athletes/open/a.jpg",
        "s3://athletes.evil/open/a.jpg",
        "s3://athletes@evil/open/a.jpg",
        "s3://evil/athletes/open/a.jpg",
        "s3://wholesale/a.jpg",
        "s3://slashed/opened/a.jpg",
        # leads out of the prefix on servers that resolve it
        "s3://athletes/open/../secret.jpg",
        "s3://athletes/open/./a.jpg",
        "s3://athletes/open/x/../../secret.jpg",
        "s3://athletes/open/..",
        "s3://athletes/open/x/.",
        "s3://athletes/../athletes/open/a.jpg",
        "s3://athletes/open/..\\secret.jpg",
        "s3://athletes/open\\a.jpg",
        # no key
        "s3://athletes",
        "s3://athletes/",
        "s3://whole",
        "s3://whole/",
        "s3://",
        "s3:///",
        "s3:///athletes/open/a.jpg",
        "",
        # ends a line, a string or a header
        "s3://athletes/open/a\0.jpg",
        "s3://athletes/open/a\n.jpg",
        "s3://athletes/open/a\r\nHost: evil",
        "s3://athletes/open/a\x7f.jpg",
        "s3://athletes/open/a\u202egpj.exe",
        "s3://athletes/open/a\ud800.jpg",
        # other schemes
        "S3://athletes/open/a.jpg",
        "s3:/athletes/open/a.jpg",
        "athletes/open/a.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "file://athletes/open/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "http://athletes/open/a.jpg",
        "gopher://athletes/open/a.jpg",
        " s3://athletes/open/a.jpg",
        "s3://s3://athletes/open/a.jpg",
    ],
)
def test_what_lies_elsewhere_may_not_be_read(uri: str) -> None:
    assert not is_allowed(uri, ALLOWED)


def test_nothing_may_be_read_where_nothing_is_allowed() -> None:
    assert not is_allowed("s3://athletes/open/a.jpg", ())


PARTS = st.sampled_from(
    [
        "s3://",
        "s3:",
        "/",
        "//",
        "athletes",
        "open",
        "opened",
        "..",
        ".",
        "a.jpg",
        "\\",
        "\0",
        "%2e%2e",
        "é",
        "?",
    ]
)


def leads_below_open(uri: str) -> bool:
    """Tell whether a server that resolves a key as a path would end below open/ in athletes."""
    address = uri.removeprefix("s3://").replace("\\", "/")
    resolved: list[str] = []
    for part in address.split("/"):
        if part == "..":
            resolved = resolved[:-1]
        elif part not in {"", "."}:
            resolved.append(part)
    return resolved[:2] == ["athletes", "open"]


@given(st.one_of(st.lists(PARTS, max_size=12).map("".join), st.text(max_size=40)))
@example("s3://athletes/open/a.jpg")
def test_what_may_be_read_is_below_the_prefix_even_where_a_server_resolves_its_key(uri: str) -> None:
    if is_allowed(uri, ["s3://athletes/open"]):
        assert uri.startswith("s3://athletes/open/")
        assert leads_below_open(uri)


@given(
    prefix=st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), max_size=3),
    key=st.lists(st.from_regex(r"[A-Za-z0-9 _é-]{1,8}", fullmatch=True), min_size=1, max_size=3),
)
def test_every_plain_key_below_a_prefix_may_be_read_and_none_beside_it(
    prefix: Sequence[str], key: Sequence[str]
) -> None:
    allowed = "/".join(["s3://athletes", *prefix])

    assert is_allowed("/".join([allowed, *key]), [allowed])
    assert not is_allowed("/".join([f"{allowed}x", *key]), [allowed])


STATUSES = {
    "PhysiqError": (503, "unavailable"),
    "SettingError": (503, "unavailable"),
    "LabelError": (503, "unavailable"),
    "StorageError": (422, "unreadable_uri"),
    "NotFoundError": (422, "unreadable_uri"),
    "ChangedError": (422, "unreadable_uri"),
    "DeniedError": (422, "unreadable_uri"),
    "UnreachableError": (503, "storage_unreachable"),
    "DataError": (503, "unavailable"),
    "PhotoError": (422, "unreadable"),
    "FormatError": (415, "unsupported_format"),
    "TooLargeError": (413, "too_large"),
    "WeightsError": (503, "unavailable"),
    "CheckpointError": (503, "unavailable"),
    "ClusterError": (503, "unavailable"),
    "TrainingError": (503, "unavailable"),
    "PredictionError": (503, "unavailable"),
    "ServingError": (503, "unavailable"),
    "CleanseError": (503, "unavailable"),
}


def test_every_error_of_the_package_has_its_status_and_code() -> None:
    found = {
        error.__name__: (answer.status, answer.code)
        for error in ERRORS
        for answer in [to_request_error(error("is wrong"))]
    }

    assert found == STATUSES


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_answered_within_400_to_503_and_says_when_to_come_again_where_that_helps(
    error: type[PhysiqError],
) -> None:
    answer = to_request_error(error("is wrong"))

    assert 400 <= answer.status <= 503
    assert answer.status != 500
    assert answer.to_answer().model_dump() == {"error": {"code": answer.code, "message": answer.message}}
    assert answer.message
    assert (answer.retry_after_s is not None) == (answer.status == 503)


@pytest.mark.parametrize(
    "error", [error for error in ERRORS if not issubclass(error, errors.PhotoError)], ids=lambda e: e.__name__
)
def test_what_is_not_of_the_photo_is_not_told_to_the_client(error: type[PhysiqError]) -> None:
    answer = to_request_error(
        error("read s3://athletes/secret as arn:aws:iam::1: AKIA123 at http://10.0.0.3")
    )

    for secret in ("athletes", "arn:", "AKIA", "10.0.0.3"):
        assert secret not in answer.message


# Requests, without a server


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
        'neither photos nor addresses in the JSON; send {"image": "<base64>"}, {"images": ["<base64>", …]}, '
        '{"uri": "s3://bucket/key"} or {"uris": ["s3://…", …]}'
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
    assert error.message == f"Content-Encoding {encoding[:100]!r}: send the body as it is, or by gzip"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (PHOTO, "Content-Encoding 'gzip': the body is not gzip"),
        (zlib.compress(PHOTO), "Content-Encoding 'gzip': the body is not gzip"),
        (GZIPPED[:-9], "Content-Encoding 'gzip': the body ends before its gzip does"),
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
