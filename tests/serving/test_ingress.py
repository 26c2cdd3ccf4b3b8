"""A real service with each ingress: addresses of clients, slow uploads, the log, and the end."""

import asyncio
import contextlib
import http.client
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from replica import MakePhoto
from running import REQUEST_TIMEOUT_S, RunningService, SlowClient, running_service, send_slowly

from physiq_ray.sample import LocalS3

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
PER_MINUTE = 3
ROOT = "/poses"
APP = "https://app.example"
SLOW_S = 2
NUM_SLOW, MAX_SLOW = 200, 32  # the latter is the setting's default
TRUSTED = "127.0.0.2"


@pytest.fixture(scope="module", params=["proxy", "haproxy"])
def ingress(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fronted(
    s3: LocalS3, tmp_path_factory: pytest.TempPathFactory, model_folder: str, ingress: str
) -> Iterator[RunningService]:
    """Give a service under a path, with a trusted proxy and an allowed origin."""
    with running_service(
        tmp_path_factory.mktemp("fronted"),
        model_folder,
        *("--ingress", ingress, "--requests-per-minute", str(PER_MINUTE), "--trusted-proxies", TRUSTED),
        *("--root-path", ROOT, "--cors-origins", APP),
        environment={},
    ) as running:
        yield running


@pytest.fixture(scope="module")
def loaded(
    s3: LocalS3, tmp_path_factory: pytest.TempPathFactory, model_folder: str, ingress: str
) -> Iterator[RunningService]:
    """Give a service for slow uploads, whose process the last test ends."""
    with running_service(
        tmp_path_factory.mktemp("loaded"),
        model_folder,
        *("--ingress", ingress, "--slow-upload-s", str(SLOW_S)),
        *("--request-timeout-s", str(REQUEST_TIMEOUT_S)),
        environment={},
    ) as running:
        yield running


def send_from(
    service: RunningService, address: str, forwarded: str | None = None, method: str = "GET"
) -> tuple[int, dict[str, str]]:
    """Send GET /v1/model from an address of this machine; give status and headers."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", service.port, source_address=(address, 0), timeout=30
    )
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    with contextlib.closing(connection):
        connection.request(method, f"{ROOT}/v1/model", headers=headers | {"Origin": APP})
        answer = connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}


def test_a_client_cannot_choose_its_address(fronted: RunningService) -> None:
    claims = ["10.0.0.1", "10.0.0.2:99", "[2001:db8::1]:80", "10.0.0.4, 10.0.0.5", "127.0.0.2", "nobody"]

    statuses = [send_from(fronted, "127.0.0.1", claim)[0] for claim in claims]

    assert statuses == [200, 200, 200, 429, 429, 429]


def test_each_address_has_its_own_limit(fronted: RunningService) -> None:
    statuses = [send_from(fronted, "127.0.0.3")[0] for _ in range(4)]
    others = [send_from(fronted, "127.0.0.4")[0] for _ in range(4)]

    assert statuses == others == [200, 200, 200, 429]


def test_the_last_address_that_a_trusted_proxy_wrote_is_the_client(fronted: RunningService) -> None:
    claimed = [send_from(fronted, TRUSTED, f"10.1.0.{number}, 9.9.9.9")[0] for number in range(5)]
    another = send_from(fronted, TRUSTED, "9.9.9.9, 9.9.9.8")[0]

    assert claimed == [200, 200, 200, 429, 429]
    assert another == 200


def test_a_page_of_an_allowed_origin_can_read_every_response_and_retry_after(
    fronted: RunningService, make_photo: MakePhoto
) -> None:
    for _ in range(PER_MINUTE):
        send_from(fronted, "127.0.0.5")
    status, headers = send_from(fronted, "127.0.0.5")
    missing = fronted.get("/none", headers={"Origin": APP})

    assert status == 429
    assert missing.status_code == 404
    for found in (headers, missing.headers):
        assert found["access-control-allow-origin"] == APP
        exposed = {name.strip().lower() for name in found["access-control-expose-headers"].split(",")}
        assert exposed == {"retry-after", "x-request-id"}
    assert headers["retry-after"] == "20"


@pytest.mark.parametrize("path", ["/", "/page.css", "/docs", "/openapi.json", "/healthz"])
def test_head_has_the_headers_of_get_and_no_body(fronted: RunningService, path: str) -> None:
    got = fronted.get(path)
    head = requests.head(f"{fronted.url}{path}", timeout=60)

    assert (got.status_code, head.status_code) == (200, 200)
    assert got.content
    assert head.content == b""
    assert head.headers["content-length"] == str(len(got.content))
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("is_removed", [True, False])
def test_docs_page_and_redirects_use_the_path_of_the_service(
    fronted: RunningService, is_removed: bool
) -> None:
    # Some reverse proxies remove the path, and some leave it.
    base = fronted.url.removesuffix(ROOT) + ("" if is_removed else ROOT)

    assert fronted.url.endswith(ROOT)
    docs = requests.get(f"{base}/docs", timeout=60)
    assert f"'{ROOT}/openapi.json'" in docs.text
    assert "content-security-policy" not in docs.headers
    document = requests.get(f"{base}/openapi.json", timeout=60).json()
    assert [server["url"] for server in document["servers"]] == [ROOT]
    assert set(document["paths"]) == {"/v1/predict", "/v1/model", "/healthz"}
    page = requests.get(f"{base}/", timeout=60)
    assert re.findall(r'(?:href|src)="([^"]*)"', page.text) == ["page.css", "page.js"]  # relative to the page
    redirect = requests.get(f"{base}/healthz/?a=1", timeout=60, allow_redirects=False)
    assert redirect.status_code == 307
    assert redirect.headers["location"] == f"{ROOT}/healthz?a=1"


def test_the_path_without_a_slash_redirects_to_the_page(fronted: RunningService) -> None:
    answer = requests.get(fronted.url, timeout=60)

    assert answer.url == f"{fronted.url}/"
    assert "Which pose is this?" in answer.text


# Slow uploads


async def upload_slowly(port: int, until_s: float) -> tuple[bytes, float]:
    """Send one byte every half second; give the response and the seconds after which it arrived."""
    started_s = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n"
    )
    writer.write(head.encode())
    answer = asyncio.create_task(reader.readuntil(b"}}"))
    try:
        while not answer.done() and time.monotonic() < until_s:
            writer.write(b"\xff")
            await asyncio.wait([answer], timeout=0.5)
        return (answer.result() if answer.done() else b""), time.monotonic() - started_s
    except (OSError, asyncio.IncompleteReadError):
        return b"", time.monotonic() - started_s
    finally:
        answer.cancel()
        writer.close()


def test_slow_uploads_do_not_block_complete_requests_and_end_with_408(
    loaded: RunningService, make_photo: MakePhoto
) -> None:
    photo = make_photo(1)
    statuses: list[int] = []

    async def send_photos_meanwhile() -> list[tuple[bytes, float]]:
        until_s = time.monotonic() + REQUEST_TIMEOUT_S + 10
        slow = [asyncio.create_task(upload_slowly(loaded.port, until_s)) for _ in range(NUM_SLOW)]
        await asyncio.sleep(1)  # all of them are connected, and none is slow yet
        for _ in range(31):
            response = await asyncio.to_thread(loaded.post, photo)
            statuses.append(response.status_code)
            await asyncio.sleep(0.1)
        return await asyncio.gather(*slow)

    answers = asyncio.run(send_photos_meanwhile())

    assert statuses == [200] * 31
    lines = Counter(answer.partition(b"\r\n")[0] for answer, _ in answers)
    assert lines == {b"HTTP/1.1 408 Request Timeout": NUM_SLOW}
    assert all(b'"code":"upload_timeout"' in answer for answer, _ in answers)
    late = sorted(took_s for _, took_s in answers)[-MAX_SLOW:]
    assert late[0] > REQUEST_TIMEOUT_S - 2  # the slow uploads that one client may have get the whole time
    assert sorted(took_s for _, took_s in answers)[NUM_SLOW - MAX_SLOW - 1] < SLOW_S + 4


@pytest.fixture(scope="module")
def slow_client(loaded: RunningService, make_photo: MakePhoto, ingress: str) -> SlowClient:
    return send_slowly(loaded, make_photo(1), with_header=ingress == "haproxy")


def test_a_body_sent_byte_by_byte_is_refused_after_the_request_timeout(slow_client: SlowClient) -> None:
    assert slow_client.body is not None
    status, took_s = slow_client.body

    assert status in {408, None}
    assert REQUEST_TIMEOUT_S - 1 < took_s < REQUEST_TIMEOUT_S + 3


def test_half_a_header_holds_a_connection_for_no_longer_than_a_request_may_take(
    slow_client: SlowClient, ingress: str
) -> None:
    if ingress == "proxy":
        pytest.skip("Serve's own proxy, which is used on loopback only, waits for the rest of a header")
    # HAProxy's default of 3600 s would let 4096 such connections block all other clients for an hour.
    assert slow_client.header is not None, f"still open after {REQUEST_TIMEOUT_S + 8} s"
    status, _ = slow_client.header
    assert status in {408, None}


def test_other_clients_are_answered_while_a_slow_one_sends(slow_client: SlowClient) -> None:
    assert len(slow_client.statuses) >= 10
    assert set(slow_client.statuses) == {200}
    assert max(slow_client.seconds) < 5


# The log


def test_the_log_line_of_a_request_names_the_model(loaded: RunningService, make_photo: MakePhoto) -> None:
    request_id = f"gym-{time.time_ns()}"
    answer = loaded.post(make_photo(1), headers={"X-Request-Id": request_id}).json()

    def lines() -> list[str]:
        # session_latest is a link to one of them.
        files = Path("/tmp/ray").glob("session_2*/logs/serve/replica_*.log")
        texts = [
            file.read_text(errors="replace") for file in files if time.time() - file.stat().st_mtime < 600
        ]
        return [line for text in texts for line in text.splitlines() if request_id in line]

    end_s = time.monotonic() + 30
    while not lines() and time.monotonic() < end_s:  # a replica writes them at its health check
        time.sleep(0.5)
    [line] = lines()
    assert re.search(rf"POST /v1/predict 200 [\d.]+ms model={answer['model']['version']}\b", line)


# The end


def test_a_stopping_service_answers_200_or_503_or_closes_the_connection(
    loaded: RunningService, make_photo: MakePhoto
) -> None:
    photo, url = make_photo(1), f"{loaded.url}/v1/predict"
    signal_s: list[float] = []
    outcomes: list[tuple[float, str]] = []

    def send(keeps_its_connection: bool) -> None:
        session = requests.Session()
        while loaded.process.poll() is None:
            sent_s = time.monotonic()
            try:
                with (
                    contextlib.nullcontext(session) if keeps_its_connection else requests.Session() as client
                ):
                    answer = client.post(url, data=photo, headers={"Content-Type": "image/jpeg"}, timeout=30)
                is_right = answer.status_code != 503 or int(answer.headers["retry-after"]) > 0
                outcomes.append((sent_s, str(answer.status_code) if is_right else "503 without Retry-After"))
            except requests.ConnectionError as error:
                # Refused, or closed before a response; an incomplete response raises another error.
                outcomes.append((sent_s, type(error).__name__))
                time.sleep(0.02)
            except requests.RequestException as error:
                outcomes.append((sent_s, repr(error)))

    threads = [threading.Thread(target=send, args=[number % 2 == 0]) for number in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    loaded.process.send_signal(signal.SIGTERM)
    signal_s.append(time.monotonic())
    stderr = loaded.process.communicate(timeout=90)[1]
    for thread in threads:
        thread.join()

    before = Counter(status for sent_s, status in outcomes if sent_s < signal_s[0])
    after = Counter(status for sent_s, status in outcomes if sent_s >= signal_s[0])
    assert set(before) <= {"200", "503"}, before
    assert before["200"] > 10
    assert set(after) <= {"200", "503", "ConnectionError"}, after
    assert after["ConnectionError"] > 10  # the clients sent until the end
    assert loaded.process.returncode == 0
    assert stderr.splitlines()[-1] == "stopped"


# IPv6


@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_service_listens_on_ipv6(
    s3: LocalS3, tmp_path: Path, model_folder: str, make_photo: MakePhoto, ingress: str, host: str
) -> None:
    if ingress == "haproxy":
        pytest.skip("Ray's HAProxy listens on IPv4 only")
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with running_service(tmp_path, model_folder, "--host", host, environment={}) as service:
        assert re.fullmatch(r"http://\[::1\]:\d+", service.url)
        assert service.post(make_photo(1)).status_code == 200
        assert service.get("/healthz").json() == {"status": "ok"}
