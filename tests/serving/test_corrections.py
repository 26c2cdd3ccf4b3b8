"""The right pose of a photo, from the coach's app: POST /v1/feedback."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from replica import AnyVersion, Clock, MakePhoto, Reported, load_again
from running import IMAGE_SIZE, POSES, RunningService, wait_for

from physiq_ray.config import ServingSettings
from physiq_ray.errors import UnreachableError
from physiq_ray.serving import access, corrections, models
from physiq_ray.serving.api import build_api
from physiq_ray.serving.requestlog import RequestLog
from physiq_ray.serving.service import Service
from physiq_ray.storage import write_bytes

pytestmark = pytest.mark.slow

MD5 = "0123456789abcdef0123456789abcdef"
PREDICTS, CORRECTS, BOTH = "predicting-0123456789", "correcting-0123456789", "doing-both-0123456789"


class Client(requests.Session):
    """Sends requests to one service."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def request(self, method: str, path: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send one; path: without the address of the service."""
        return super().request(method, self.url + path, timeout=60, **options)


class AnyMetrics(Reported):
    """Accepts the metrics of requests, too."""

    def count_request(self, path: str, status: int) -> None:
        """Accept it."""


@pytest.fixture
def open_service(
    tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Client]]:
    """Give a function that starts the HTTP application of a replica in this process, without Serve."""
    monkeypatch.setattr(models, "load_served", load_again)
    started: list[tuple[Service, uvicorn.Server, threading.Thread]] = []

    def start(**settings: Any) -> Client:
        known = {"model": model_folder, "cpus_per_replica": 1, "feedback": str(tmp_path / "kept")}
        service = Service(ServingSettings(**(known | settings)), AnyMetrics(), AnyVersion())  # type: ignore[arg-type]
        asyncio.run(service.models.start({}))
        api = build_api(service, AnyMetrics(), RequestLog())  # type: ignore[arg-type]
        server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        started.append((service, server, thread))
        wait_for(lambda: server.started, timeout_s=30, what="the server")
        return Client(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")

    yield start
    for service, server, thread in started:
        server.should_exit = True
        thread.join()
        service.close()


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the stored records by name."""
    return {path.name: json.loads(path.read_text()) for path in folder.glob("kept/labels/*")}


def test_the_right_pose_of_a_photo_is_stored_as_a_label_record(
    open_service: Callable[..., Client], tmp_path: Path
) -> None:
    client = open_service()

    known = client.post("/v1/feedback", json={"photo_md5": MD5.upper(), "pose_id": 11})
    none = client.post("/v1/feedback", json={"request_id": "gym-17/ä", "pose_id": None})

    assert (known.status_code, known.json()) == (200, {"photo_md5": MD5, "request_id": None, "pose_id": 11})
    assert (none.status_code, none.json()["request_id"]) == (200, "gym-17/ä")
    stored = records(tmp_path)
    hashed = hashlib.sha256("gym-17/ä".encode()).hexdigest()[:32]
    assert stored.keys() == {f"{MD5}-11.json", f"request-{hashed}-none.json"}
    for record in stored.values():
        assert datetime.now(UTC) - datetime.fromisoformat(record.pop("time")) < timedelta(minutes=5)
    assert stored[f"{MD5}-11.json"] == {"photoMd5": MD5, "poseId": 11, "by": "feedback"}
    assert stored[f"request-{hashed}-none.json"] == {
        "requestId": "gym-17/ä",
        "poseId": None,
        "by": "feedback",
    }


def test_a_thousand_feedbacks_for_one_photo_are_one_record_for_each_pose(
    open_service: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []

    def write(data: bytes, uri: str) -> None:
        writes.append(uri)
        write_bytes(data, uri)

    monkeypatch.setattr(corrections, "write_bytes", write)
    client = open_service(feedback_per_minute=2000)

    statuses = {
        client.post("/v1/feedback", json={"photo_md5": MD5, "pose_id": pose}).status_code
        for pose in (1, 5, 11, None) * 250
    }

    assert statuses == {200}
    assert set(records(tmp_path)) == {f"{MD5}-{pose}.json" for pose in (1, 5, 11, "none")}
    assert len(writes) == 4


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"photo_md5": MD5}, "bad_feedback", "pose_id: Field required"),
        ({"photo_md5": MD5, "pose_id": 2}, "unknown_pose", "pose_id=2: the model knows the poses 1, 11, 5;"),
        ({"photo_md5": MD5, "pose_id": "1"}, "bad_feedback", "pose_id: "),
        ({"photo_md5": MD5, "pose_id": True}, "bad_feedback", "pose_id: "),
        ({"photo_md5": MD5, "pose_id": 1.0}, "bad_feedback", "pose_id: "),
        ({"photo_md5": "../" + MD5[3:], "pose_id": 1}, "bad_feedback", "photo_md5: "),
        ({"photo_md5": MD5 + "\n", "pose_id": 1}, "bad_feedback", "photo_md5: "),
        ({"request_id": "", "pose_id": 1}, "bad_feedback", "request_id: "),
        ({"request_id": "x" * 201, "pose_id": 1}, "bad_feedback", "request_id: "),
        ({"pose_id": 1}, "bad_feedback", "exactly one of photo_md5 and request_id"),
        ({"photo_md5": MD5, "request_id": "a", "pose_id": 1}, "bad_feedback", "exactly one of"),
        ({"photo_md5": MD5, "pose_id": 1, "s3Filename": "a"}, "bad_feedback", "s3Filename: "),
        ([], "bad_feedback", "Input should be an object"),
        (7, "bad_feedback", "Input should be an object"),
    ],
)
def test_what_is_no_feedback_is_refused_with_the_reason(
    open_service: Callable[..., Client], tmp_path: Path, body: Any, code: str, message: str
) -> None:
    response = open_service().post("/v1/feedback", json=body)

    assert (response.status_code, response.json()["error"]["code"]) == (422, code)
    assert message in response.json()["error"]["message"]
    assert records(tmp_path) == {}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b'{"request_id": "\\ud800", "pose_id": 1}', 422),
        (b" " * 5000, 413),
    ],
    ids=["empty", "half", "not text", "lone surrogate", "long"],
)
def test_a_body_that_is_no_json_or_too_long_is_refused(
    open_service: Callable[..., Client], tmp_path: Path, data: bytes, status: int
) -> None:
    response = open_service().post("/v1/feedback", data=data)

    assert response.status_code == status
    assert "photo_md5" in response.json()["error"]["message"]
    assert records(tmp_path) == {}


def test_a_token_is_for_what_its_line_says(
    open_service: Callable[..., Client], tmp_path: Path, make_photo: MakePhoto
) -> None:
    (tmp_path / "tokens.txt").write_text(f"{PREDICTS}\nfeedback {CORRECTS}\npredict+feedback  {BOTH}\n")
    client = open_service(tokens=str(tmp_path / "tokens.txt"))
    photo = make_photo(1, size=(IMAGE_SIZE, IMAGE_SIZE))

    def statuses(token: str) -> tuple[int, int, int]:
        headers = {"Authorization": f"Bearer {token}"}
        return (
            client.post("/v1/predict", data=photo, headers=headers).status_code,
            client.get("/v1/model", headers=headers).status_code,
            client.post("/v1/feedback", json={"photo_md5": MD5, "pose_id": 1}, headers=headers).status_code,
        )

    assert statuses(PREDICTS) == (200, 200, 403)
    assert statuses(CORRECTS) == (403, 403, 200)
    assert statuses(BOTH) == (200, 200, 200)
    assert statuses("feedback " + CORRECTS) == (401, 401, 401)
    assert statuses("a-wrong-one-0123456789") == (401, 401, 401)
    forbidden = client.post("/v1/feedback", json={}, headers={"Authorization": f"Bearer {PREDICTS}"})
    assert forbidden.json()["error"] == {
        "code": "forbidden",
        "message": "this token may not be used for feedback",
    }


def test_feedback_has_a_rate_of_its_own(
    open_service: Callable[..., Client], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access.RateLimit.__init__, "__defaults__", (clock,))
    client = open_service(feedback_per_minute=3)

    def send() -> requests.Response:
        return client.post("/v1/feedback", json={"photo_md5": MD5, "pose_id": 1})

    assert [send().status_code for _ in range(4)] == [200, 200, 200, 429]
    assert send().headers["retry-after"] == "20"
    assert client.get("/v1/model").status_code == 200
    clock.now_s += 20
    assert [send().status_code for _ in range(2)] == [200, 429]


def test_if_the_bucket_does_not_respond_the_client_is_told_to_try_again_and_photos_are_answered(
    open_service: Callable[..., Client],
    tmp_path: Path,
    make_photo: MakePhoto,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_data: bytes, uri: str) -> None:
        raise UnreachableError(f"{uri}: secret details")

    client = open_service()
    with monkeypatch.context() as patch:
        patch.setattr(corrections, "write_bytes", fail)
        failed = client.post("/v1/feedback", json={"photo_md5": MD5, "pose_id": 1})
        answer = client.post("/v1/predict", data=make_photo(1, size=(IMAGE_SIZE, IMAGE_SIZE)))
    again = client.post("/v1/feedback", json={"photo_md5": MD5, "pose_id": 1})

    assert (failed.status_code, failed.headers["retry-after"]) == (503, "10")
    assert "secret" not in failed.text
    assert answer.status_code == again.status_code == 200
    assert set(records(tmp_path)) == {f"{MD5}-1.json"}


def test_without_the_setting_feedback_there_is_no_such_path(open_service: Callable[..., Client]) -> None:
    client = open_service(feedback=None)

    assert client.post("/v1/feedback", json={"photo_md5": MD5, "pose_id": 1}).status_code == 404
    assert "/v1/feedback" not in client.get("/openapi.json").json()["paths"]


def test_the_request_id_of_a_response_names_its_photo_in_the_feedback_folder(
    service: RunningService, make_photo: MakePhoto, feedback_folder: Path
) -> None:
    photo = make_photo(4711)
    response = service.post(photo)
    sent: dict[str, str | int] = {"request_id": response.headers["x-request-id"], "pose_id": min(POSES)}

    corrected = requests.post(f"{service.url}/v1/feedback", json=sent, timeout=60)

    assert corrected.status_code == 200
    md5 = hashlib.md5(photo).hexdigest()
    photo_file = feedback_folder / "waiting-for-label" / f"{md5}.jpg"
    wait_for(photo_file.exists, timeout_s=30, what="the photo")
    kept = json.loads(photo_file.with_suffix(".json").read_text())
    assert kept["request_id"] == sent["request_id"]
    assert sent["request_id"] in [
        json.loads(path.read_text()).get("requestId") for path in feedback_folder.glob("labels/request-*")
    ]
