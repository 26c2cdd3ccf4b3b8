"""What a client of the running service sees."""

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image, ImageOps
from replica import MakePhoto
from running import ALLOWED_BUCKET, POSES, RunningService

from physiq_ray.checkpoint import load_model_state
from physiq_ray.prediction.single import Predictor

Answer = dict[str, Any]
ERROR_KEYS = {"code", "message"}


@pytest.fixture(scope="module")
def athletes(s3_direct: Any, make_photo: MakePhoto) -> str:
    """Fill the bucket of which the service may read the prefix open/; give its address."""
    if ALLOWED_BUCKET not in [bucket["Name"] for bucket in s3_direct.list_buckets()["Buckets"]]:
        s3_direct.create_bucket(Bucket=ALLOWED_BUCKET)
    files = {
        "open/first.jpg": make_photo(1),
        "open/2024/sécond photo+&?#%25.jpg": make_photo(2),
        "open/broken.jpg": make_photo(3)[:-600],
        "open/empty.jpg": b"",
        "open/notes.txt": b"no photo at all",
        "open/huge.jpg": b"\xff\xd8\xff" + bytes(5 * 2**20),
        "secret.jpg": make_photo(4),
    }
    for key, data in files.items():
        s3_direct.put_object(Bucket=ALLOWED_BUCKET, Key=key, Body=data)
    return f"s3://{ALLOWED_BUCKET}"


def shares(answer: Answer) -> dict[int, float]:
    return {item["id"]: item["probability"] for item in answer["probabilities"]}


def answered(response: requests.Response) -> Answer:
    assert response.status_code == 200, response.text
    answer: Answer = response.json()
    return answer


def refused(response: requests.Response) -> tuple[int, str]:
    """Check that the answer is an error and nothing more; give its status and code."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == ERROR_KEYS
    assert body["error"]["message"]
    for trace in ("Traceback", 'File "', "site-packages", ".py", "Error(", "0x"):
        assert trace not in response.text
    return response.status_code, body["error"]["code"]


def post_json(service: RunningService, value: Any) -> requests.Response:
    return requests.post(f"{service.url}/v1/predict", json=value, timeout=60)


# One photo


def test_an_answer_has_the_probabilities_of_a_single_prediction(
    service: RunningService, make_photo: MakePhoto, model_folder: str
) -> None:
    photo = make_photo(1)
    expected = Predictor(load_model_state(model_folder)).predict(photo, uri="a.jpg")

    answer = answered(service.post(photo))

    assert answer.keys() == {"pose", "confidence", "floor", "min_confidence", "probabilities", "model"}
    assert shares(answer) == pytest.approx(
        {p.pose_id: p.probability for p in expected.probabilities}, abs=5e-3
    )
    assert answer["pose"] == {
        "id": answer["probabilities"][0]["id"],
        "name": answer["probabilities"][0]["name"],
    }
    assert answer["confidence"] == max(shares(answer).values())
    assert answer["min_confidence"] == 0
    assert {item["id"]: item["name"] for item in answer["probabilities"]} == POSES
    assert answer["model"] == {"version": expected.model_version, "temperature": 1.3}


@pytest.mark.parametrize(
    "content_type",
    ["image/jpeg", "image/png", "IMAGE/JPEG; q=1", "application/octet-stream",
     "application/x-www-form-urlencoded", None],
)  # fmt: skip
def test_a_photo_as_the_body_is_read_with_any_content_type_for_bytes(
    service: RunningService, make_photo: MakePhoto, content_type: str | None
) -> None:
    photo = make_photo(1)

    # With None, requests sends no header; without this entry, it would be image/jpeg.
    answer = answered(service.post(photo, headers={"Content-Type": content_type}))

    assert shares(answer) == pytest.approx(shares(answered(service.post(photo))), abs=1e-6)


FORMATS: dict[str, tuple[dict[str, Any], float]] = {
    "png": ({"format": "PNG"}, 1e-2),
    "transparent png": ({"format": "PNG", "mode": "RGBA"}, 0.2),
    "webp": ({"format": "WEBP", "quality": 95}, 2e-2),
    "gif": ({"format": "GIF", "mode": "P"}, 2e-2),
    "bmp": ({"format": "BMP"}, 1e-2),
    "tiff": ({"format": "TIFF"}, 1e-2),
    "cmyk jpeg": ({"mode": "CMYK"}, 5e-2),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_photo_in_another_format_has_the_same_answer(
    service: RunningService, make_photo: MakePhoto, kind: str
) -> None:
    options, tolerance = FORMATS[kind]

    answer = answered(service.post(make_photo(1, **options)))

    as_jpeg = answered(service.post(make_photo(1, quality=95)))
    assert shares(answer) == pytest.approx(shares(as_jpeg), abs=tolerance)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_with_an_exif_orientation_has_the_answer_of_the_upright_one(
    service: RunningService, make_photo: MakePhoto, orientation: int
) -> None:
    turned = make_photo(1, size=(200, 120), orientation=orientation, quality=95)
    file = io.BytesIO()
    ImageOps.exif_transpose(Image.open(io.BytesIO(turned))).save(file, "JPEG", quality=95, exif=b"")

    answer = answered(service.post(turned))

    assert shares(answer) == pytest.approx(shares(answered(service.post(file.getvalue()))), abs=1e-2)


def test_a_chunked_body_without_a_length_is_read(service: RunningService, make_photo: MakePhoto) -> None:
    photo = make_photo(1)

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(photo), 1000):
            yield photo[start : start + 1000]

    answer = answered(service.post(chunks()))  # type: ignore[arg-type]

    assert shares(answer) == pytest.approx(shares(answered(service.post(photo))), abs=1e-6)


# Forms


def test_one_photo_in_a_form_has_the_answer_of_one_photo(
    service: RunningService, make_photo: MakePhoto
) -> None:
    response = requests.post(
        f"{service.url}/v1/predict", files={"photo": ("a.jpg", make_photo(1), "image/jpeg")}, timeout=60
    )

    assert answered(response).keys() == {
        "pose",
        "confidence",
        "floor",
        "min_confidence",
        "probabilities",
        "model",
    }


def test_photos_in_a_form_are_answered_in_their_order_and_each_error_is_separate(
    service: RunningService, make_photo: MakePhoto
) -> None:
    photos = [make_photo(1), make_photo(2)]

    response = requests.post(
        f"{service.url}/v1/predict",
        files=[
            ("photo", ("first ü.jpg", photos[0], "image/jpeg")),
            ("photo", ("broken.jpg", photos[0][:-600], "image/jpeg")),
            ("other", ("page.jpg", b"<html>", "image/jpeg")),
            ("photo", ("last.jpg", photos[1], "text/plain")),
        ],
        data={"comment": "a field that is no photo"},
        timeout=60,
    )

    answers = answered(response)["answers"]
    assert [answer["name"] for answer in answers] == ["first ü.jpg", "broken.jpg", "page.jpg", "last.jpg"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [
        None, "unreadable", "unsupported_format", None,
    ]  # fmt: skip
    assert answers[1].keys() == {"name", "error"}
    for answer, photo in zip(answers[::3], photos, strict=True):
        assert shares(answer) == pytest.approx(shares(answered(service.post(photo))), abs=1e-2)


def test_a_photo_of_more_than_a_megabyte_in_a_form_is_read_completely(
    service: RunningService, make_photo: MakePhoto
) -> None:
    photo = make_photo(1, size=(800, 600), format="BMP")
    assert len(photo) > 2**20  # Starlette writes such parts to the disk

    response = requests.post(f"{service.url}/v1/predict", files={"a": ("a.bmp", photo)}, timeout=60)

    assert shares(answered(response)) == pytest.approx(shares(answered(service.post(photo))), abs=1e-6)


@pytest.mark.parametrize("num_photos", [5, 50])
def test_more_photos_than_allowed_are_refused(
    service: RunningService, make_photo: MakePhoto, num_photos: int
) -> None:
    files = [("photo", ("a.jpg", make_photo(1, size=(8, 8)))) for _ in range(num_photos)]

    response = requests.post(f"{service.url}/v1/predict", files=files, timeout=60)

    assert refused(response) == (413, "too_many")


def test_a_form_without_a_file_is_empty(service: RunningService) -> None:
    response = requests.post(f"{service.url}/v1/predict", files={"photo": (None, b"text")}, timeout=60)

    assert refused(response) == (400, "empty")


# Addresses


def test_a_photo_is_read_from_an_allowed_address(
    service: RunningService, make_photo: MakePhoto, athletes: str
) -> None:
    answer = answered(post_json(service, {"uri": f"{athletes}/open/first.jpg"}))

    assert shares(answer) == pytest.approx(shares(answered(service.post(make_photo(1)))), abs=1e-6)


def test_a_key_with_special_characters_is_read_unchanged(
    service: RunningService, make_photo: MakePhoto, athletes: str
) -> None:
    answer = answered(post_json(service, {"uri": f"{athletes}/open/2024/sécond photo+&?#%25.jpg"}))

    assert shares(answer) == pytest.approx(shares(answered(service.post(make_photo(2)))), abs=1e-6)


def test_addresses_are_answered_in_their_order_and_each_error_is_separate(
    service: RunningService, make_photo: MakePhoto, athletes: str
) -> None:
    uris = [f"{athletes}/open/{name}" for name in ("huge.jpg", "first.jpg", "none.jpg", "broken.jpg")]

    answers = answered(post_json(service, {"uris": uris}))["answers"]

    assert [answer["name"] for answer in answers] == uris
    assert [answer.get("error", {}).get("code") for answer in answers] == [
        "too_large", None, "unreadable_uri", "unreadable",
    ]  # fmt: skip
    assert shares(answers[1]) == pytest.approx(shares(answered(service.post(make_photo(1)))), abs=1e-2)


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("open/none.jpg", 422, "unreadable_uri"),
        ("open/broken.jpg", 422, "unreadable"),
        ("open/empty.jpg", 400, "empty"),
        ("open/notes.txt", 415, "unsupported_format"),
        ("open/huge.jpg", 413, "too_large"),
        ("secret.jpg", 422, "uri_not_allowed"),
    ],
)
def test_an_address_without_a_readable_photo_is_refused_with_the_reason(
    service: RunningService, athletes: str, key: str, status: int, code: str
) -> None:
    assert refused(post_json(service, {"uri": f"{athletes}/{key}"})) == (status, code)


def test_the_error_does_not_reveal_whether_a_photo_is_missing_or_denied(
    service: RunningService, athletes: str
) -> None:
    response = post_json(service, {"uri": f"{athletes}/open/none.jpg"})

    assert response.json()["error"]["message"] == "no photo can be read at this uri"


# The other paths


def test_v1_model_describes_the_model_that_answers(
    service: RunningService, make_photo: MakePhoto, model_folder: str
) -> None:
    before = answered(service.get("/v1/model"))
    answered(service.post(make_photo(1)))
    after = answered(service.get("/v1/model"))

    assert after == {
        "version": load_model_state(model_folder).version,
        "image_size": 64,
        "temperature": 1.3,
        "floor": {"score": "probability", "threshold": 0.0},
        "poses": [{"id": 1, "name": POSES[1]}, {"id": 11, "name": POSES[11]}, {"id": 5, "name": POSES[5]}],
        "num_answers": before["num_answers"] + 1,
        "min_confidence": 0.0,
        "canary": None,
        "canary_share": 0.0,
        "refused": None,
        "drift": None,
    }


def test_healthz_says_ok(service: RunningService) -> None:
    assert answered(service.get("/healthz")) == {"status": "ok"}


def test_the_openapi_document_lists_the_paths_and_no_page(service: RunningService) -> None:
    document = answered(service.get("/openapi.json"))

    assert document["paths"].keys() == {"/v1/predict", "/v1/feedback", "/v1/model", "/healthz"}
    assert set(document["paths"]["/v1/predict"]["post"]["responses"]) == {
        "200", "400", "401", "403", "408", "413", "415", "422", "429", "431", "503",
    }  # fmt: skip
    assert service.get("/docs").status_code == 200
    assert "/openapi.json" in service.get("/docs").text


PAGES = {
    "/": "text/html; charset=utf-8",
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/docs": "text/html; charset=utf-8",
    "/openapi.json": "application/json",
    "/healthz": "application/json",
    "/v1/model": "application/json",
    "/none": "application/json",
    "/v1/predict": "application/json",
}


@pytest.mark.parametrize("path", PAGES)
def test_every_response_has_the_headers_that_protect_browsers(service: RunningService, path: str) -> None:
    headers = service.get(path).headers

    assert headers["content-type"] == PAGES[path]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert re.fullmatch(r"[0-9a-f-]{36}", headers["x-request-id"])
    assert "access-control-allow-origin" not in headers
    if path != "/docs":  # a page of FastAPI, whose scripts come from another host
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'; style-src 'self'; "
        )


def test_the_request_id_of_the_client_is_returned(service: RunningService, make_photo: MakePhoto) -> None:
    response = service.post(make_photo(1), headers={"X-Request-Id": "gym-17"})

    assert response.headers["x-request-id"] == "gym-17"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/none", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("GET", "/v1/predict", 405, "method_not_allowed"),
        ("PUT", "/v1/predict", 405, "method_not_allowed"),
        ("DELETE", "/v1/model", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/predict/../../page.html", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
    ],
)
def test_other_paths_and_methods_are_refused_in_the_form_of_all_errors(
    service: RunningService, method: str, path: str, status: int, code: str
) -> None:
    response = requests.request(method, f"{service.url}{path}", timeout=60)

    assert refused(response) == (status, code)
    assert ("allow" in response.headers) == (status == 405)


def test_an_error_has_exactly_a_code_and_a_message(service: RunningService) -> None:
    response = service.post(b"")

    assert response.status_code == 400
    assert response.json() == {
        "error": {"code": "empty", "message": "no photo in the request: its body is empty"}
    }


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("image/jpeg", b"", 400, "empty"),
        ("image/jpeg", b"<html>", 415, "unsupported_format"),
        ("text/html", b"<html>", 415, "unsupported_type"),
        ("application/json", b"{", 400, "bad_json"),
        ("application/json", b"{}", 422, "bad_json"),
        ("multipart/form-data", b"a", 400, "bad_form"),
    ],
)
def test_a_bad_request_is_refused_without_a_traceback(
    service: RunningService, content_type: str, body: bytes, status: int, code: str
) -> None:
    assert refused(service.post(body, headers={"Content-Type": content_type})) == (status, code)
