import base64
import json

import pytest
from bodies import json_of, read, refusal, request_of

from physiq_ray.serving.body import Upload
from physiq_ray.serving.refusals import RequestError


@pytest.mark.parametrize(
    "content_type",
    [None, "", "image/jpeg", "IMAGE/JPEG", "image/png; q=1", "application/octet-stream",
     "application/x-www-form-urlencoded"],
)  # fmt: skip
def test_a_body_is_one_photo_for_every_image_type(content_type: str | None) -> None:
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


def test_a_request_with_one_address_that_is_not_allowed_is_refused() -> None:
    body = b'{"uris": ["s3://athletes/open/b.jpg", "s3://athletes/secret.jpg"]}'

    error = refusal(request_of(body, content_type="application/json"), "s3://athletes/open")

    assert (error.status, error.code) == (422, "uri_not_allowed")
    assert error.message == "'s3://athletes/secret.jpg' may not be read here"


@pytest.mark.parametrize(
    "charset", ["utf-8", "undefined", "unicode_escape", "punycode", "idna", "utf-16", "rot13"]
)
def test_a_form_of_any_charset_is_refused_with_400_or_gives_names_that_can_be_sent(
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


# JSON


def test_several_photos_in_json_become_uploads_in_their_order() -> None:
    assert read(json_of({"images": ["QQ==", "data:image/png;base64,Qg=="]})) == (
        Upload(None, b"A"), Upload(None, b"B"),
    )  # fmt: skip


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


def test_long_json_without_photos_is_refused_before_it_is_parsed() -> None:
    body = b'{"image": [' + b"[]," * 100_000 + b"[]]}"

    error = refusal(request_of(body, content_type="application/json", max_bytes=2**20))

    assert (error.status, error.message) == (413, "JSON of more than 65536 bytes besides its photos")


def test_long_addresses_are_refused() -> None:
    body = json.dumps({"uri": "s3://athletes/open/" + "a" * 70_000}).encode()

    error = refusal(request_of(body, content_type="application/json", max_bytes=2**20), "s3://athletes/open")

    assert (error.status, error.code) == (413, "too_large")
