import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request

from physiq_ray import errors
from physiq_ray.config import ServingSettings
from physiq_ray.errors import PhysiqError
from physiq_ray.serving.intake import (
    RequestError,
    Upload,
    is_allowed,
    limited,
    read_uploads,
    to_request_error,
)

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
    assert answer.to_dict() == {"error": {"code": answer.code, "message": answer.message}}
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


def request_of(*chunks: bytes, content_type: str | None = None) -> Request:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    waiting = iter(messages)

    async def receive() -> dict[str, object]:
        return next(waiting)

    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    # With "app", as under FastAPI: Starlette then gives its form errors as HTTP errors.
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "app": None}
    return Request(scope, limited(receive, 1000))


def read(request: Request, *allowed: str) -> tuple[Upload, ...]:
    settings = ServingSettings(allowed_sources=allowed, max_photos=2)
    return asyncio.run(read_uploads(request, settings))


def refusal(request: Request, *allowed: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(request, *allowed)
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
