"""Headers, refusals and counts of every response, by an application in this process without a model."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from physiq_ray.config import ServingSettings
from physiq_ray.serving.access import RateLimit
from physiq_ray.serving.api import build_api
from physiq_ray.serving.edge import Edge
from physiq_ray.serving.refusals import RequestError
from physiq_ray.serving.requestlog import RequestLog

APP = "https://app.example"


class Pace:
    """The pace of a service with a given expected wait."""

    def __init__(self, wait_s: float) -> None:
        self.num_inside = 1000
        self.expected_wait_s = wait_s


class Empty:
    """A service without a model."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.settings = ServingSettings(cors_origins=(APP,), requests_per_minute=100)
        self.pace = Pace(wait_s)
        self.corrections = None

    @property
    def models(self) -> None:
        raise RuntimeError("at /home/coach/secret.py")

    async def check(self) -> None:
        return None


class Counts:
    """The requests that the application counts."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, int]] = []

    def count_request(self, path: str, status: int) -> None:
        self.counted.append((path, status))


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physiq_ray.serving.edge.PAUSE_S", 0.01)


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes
    counted: list[tuple[str, int]]


def send_request(
    method: str, path: str, *, root_path: str = "", wait_s: float = 0.0, origin: str | None = APP, **more: str
) -> Response:
    """Send a request to the application as a server does."""
    counts = Counts()
    api = build_api(Empty(wait_s), counts, RequestLog())  # type: ignore[arg-type]
    headers = {"host": "10.0.0.9:8000", "content-type": "image/jpeg", "content-length": "1"}
    headers |= ({"origin": origin} if origin else {}) | {key.replace("_", "-"): more[key] for key in more}
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
        "root_path": root_path, "query_string": b"a=1", "client": ("127.0.0.1", 1), "scheme": "http",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
        "server": ("127.0.0.1", 80),
    }  # fmt: skip
    sent: list[Any] = []
    bodies = [{"type": "http.request", "body": b"x", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if bodies:
            return bodies.pop()
        await asyncio.Event().wait()  # the client stays
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(api(scope, receive, send))
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return Response(
        sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]), counts.counted
    )


@pytest.mark.parametrize(
    ("method", "path", "wait_s", "status"),
    [
        ("GET", "/healthz", 0.0, 200),
        ("GET", "/none", 0.0, 404),
        ("GET", "/v1/predict", 0.0, 405),
        ("GET", "/v1/model", 0.0, 500),
        ("POST", "/v1/predict", 7.2, 503),
    ],
)
def test_a_page_of_an_allowed_origin_can_read_every_response(
    method: str, path: str, wait_s: float, status: int
) -> None:
    response = send_request(method, path, wait_s=wait_s)

    assert response.status == status
    assert response.headers["access-control-allow-origin"] == APP
    assert response.headers["access-control-expose-headers"] == "Retry-After, X-Request-Id"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers.get("retry-after") == ("8" if status == 503 else None)


def test_a_page_of_another_origin_cannot_read_responses() -> None:
    assert (
        "access-control-allow-origin"
        not in send_request("GET", "/healthz", origin="https://evil.example").headers
    )


def test_a_page_of_an_allowed_origin_may_send_what_programs_send() -> None:
    response = send_request(
        "OPTIONS",
        "/v1/predict",
        access_control_request_method="POST",
        access_control_request_headers="authorization,content-type,content-encoding,x-request-id",
    )

    assert response.status == 200
    assert response.headers["access-control-allow-methods"] == "GET, HEAD, POST"


@pytest.mark.parametrize("path", ["/", "/page.js", "/docs", "/openapi.json", "/healthz"])
def test_head_is_answered_for_every_path_of_get(path: str) -> None:
    got, head = send_request("GET", path), send_request("HEAD", path)

    assert (got.status, head.status) == (200, 200)
    assert head.headers["content-length"] == got.headers["content-length"] == str(len(got.body))
    assert head.body == b""
    assert head.counted[0][1] == 200


def test_head_of_v1_model_has_the_status_of_get() -> None:
    got, head = send_request("GET", "/v1/model"), send_request("HEAD", "/v1/model")

    assert got.status == head.status == 500  # this application has no model
    assert head.body == b""


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/healthz", "GET, HEAD"), ("DELETE", "/", "GET, HEAD"), ("HEAD", "/v1/predict", "POST")],
)
def test_the_response_to_a_wrong_method_names_the_allowed_ones(method: str, path: str, allow: str) -> None:
    response = send_request(method, path)

    assert (response.status, response.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/a/poses/v1/predict", "/a/poses/a/poses/v1/predict"])
def test_under_a_path_a_busy_service_answers_503_and_counts_by_route(path: str) -> None:
    response = send_request("POST", path, root_path="/a/poses", wait_s=7.2)

    assert response.status == 503
    assert response.counted == [("/v1/predict", 503)]


def sender(
    statuses: list[int],
    refusals: list[RequestError | None],
    *,
    max_paused: int = 1,
    path: str = "/v1/predict",
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Put Edge around an application that answers 200, or 429 at another path than that of predictions.

    refusals: of each look for room; the last one stays. Give a function that sends one request and appends
    the status of the response to `statuses`.
    """

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        status = 200 if scope["path"] == "/v1/predict" else 429
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    edge = Edge(
        app,
        max_body_bytes=100,
        find_refusal=lambda: refusals.pop(0) if len(refusals) > 1 else refusals[0],
        count=lambda _path, status: statuses.append(status),
        max_paused=max_paused,
    )

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(_message: Message) -> None:
        return None

    async def send_one() -> None:
        await edge({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)

    return send_one


BUSY = RequestError(503, "busy", "no room", retry_after_s=1)


@pytest.mark.parametrize(
    ("path", "refusals", "status"),
    [
        ("/v1/predict", [BUSY], 503),
        ("/v1/predict", [BUSY, None], 200),  # there is room after the pause
        ("/v1/feedback", [None], 429),
    ],
)
def test_a_client_that_may_not_send_now_waits_for_its_response(
    monkeypatch: pytest.MonkeyPatch, path: str, refusals: list[RequestError | None], status: int
) -> None:
    monkeypatch.setattr("physiq_ray.serving.edge.PAUSE_S", 0.1)
    statuses: list[int] = []
    send_one = sender(statuses, refusals, path=path)
    started_s = time.monotonic()

    asyncio.run(send_one())

    assert statuses == [status]
    assert time.monotonic() - started_s >= 0.1


def test_a_request_with_room_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physiq_ray.serving.edge.PAUSE_S", 3600)
    statuses: list[int] = []
    send_one = sender(statuses, [None])

    asyncio.run(send_one())

    assert statuses == [200]


def test_only_max_paused_requests_wait_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physiq_ray.serving.edge.PAUSE_S", 3600)
    statuses: list[int] = []
    send_one = sender(statuses, [BUSY], max_paused=2)

    async def send_five() -> None:
        tasks = [asyncio.create_task(send_one()) for _ in range(5)]
        refused, waiting = await asyncio.wait(tasks, timeout=0.1)
        assert (len(refused), len(waiting)) == (3, 2)
        for task in waiting:
            task.cancel()  # as if the clients had left
        await asyncio.wait(tasks)

        others = [asyncio.create_task(send_one()) for _ in range(3)]
        refused, waiting = await asyncio.wait(others, timeout=0.1)
        assert (len(refused), len(waiting)) == (1, 2)  # they took the places of those that left
        for task in waiting:
            task.cancel()

    asyncio.run(send_five())


@pytest.mark.parametrize("path", ["/poses/docs", "/poses/poses/docs"])
def test_under_a_path_the_docs_have_no_policy_and_link_to_their_document(path: str) -> None:
    response = send_request("GET", path, root_path="/poses")

    assert response.status == 200
    assert "content-security-policy" not in response.headers
    assert b"'/poses/openapi.json'" in response.body


def test_under_a_path_the_document_names_it_as_the_server() -> None:
    document = json.loads(send_request("GET", "/poses/openapi.json", root_path="/poses").body)

    assert document["servers"] == [{"url": "/poses"}]
    assert list(document["paths"]) == ["/v1/predict", "/v1/model", "/healthz"]


@pytest.mark.parametrize(
    ("root_path", "path", "location"),
    [
        ("", "/healthz/", "/healthz?a=1"),
        ("/poses", "/poses/healthz/", "/poses/healthz?a=1"),
        ("/poses", "/poses/poses/healthz/", "/poses/healthz?a=1"),
        ("/poses", "/poses", "/poses/?a=1"),
        ("/poses", "/poses/poses", "/poses/?a=1"),
    ],
)
def test_a_redirect_keeps_the_host_and_path_that_the_client_used(
    root_path: str, path: str, location: str
) -> None:
    response = send_request("GET", path, root_path=root_path)

    assert (response.status, response.headers["location"]) == (307, location)


def test_an_error_of_the_service_is_counted_and_reveals_nothing_to_the_client() -> None:
    response = send_request("GET", "/v1/model")

    assert response.status == 500
    assert json.loads(response.body) == {"error": {"code": "internal", "message": "a fault of the service"}}
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert response.counted == [("/v1/model", 500)]


def test_requests_are_counted_in_the_thread_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    # With two threads in RateLimit, the second would not find its client and would count from zero.
    threads: list[threading.Thread] = []

    def wait_s(*_: object) -> int:
        threads.append(threading.current_thread())
        return 0

    monkeypatch.setattr(RateLimit, "wait_s", wait_s)

    send_request("GET", "/v1/model")

    assert threads == [threading.current_thread()]
