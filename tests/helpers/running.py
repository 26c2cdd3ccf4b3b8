"""A `physiq-ray serve` in its own process, and what its tests share."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import requests

from physiq_ray.machine import is_loopback

POSES = {1: "Front Lat Spread", 5: "Back Double Biceps", 11: "Abs & Thighs"}
IMAGE_SIZE = 64
ALLOWED_BUCKET = "athletes"
TOKENS = ("first-token-0123456789", "second-token-0123456789", "third-token-0123456789")
PAGE_TOKEN = "of-the-coaches-only"  # the test of the page uses no other one
REQUESTS_PER_MINUTE = 30
REQUEST_TIMEOUT_S = 10  # --request-timeout-s of the services that slow clients use
PREDICT = "POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"

Address = tuple[str, int]
MakeModel = Callable[..., str]
StartService = Callable[..., "RunningService"]


@dataclass
class RunningService:
    """A `physiq-ray serve` in its own process."""

    url: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        """The port at which the service receives HTTP requests."""
        port = urlsplit(self.url).port
        assert port
        return port

    def post(self, data: bytes = b"", **options: object) -> requests.Response:
        """Send one photo to /v1/predict."""
        headers = {"Content-Type": "image/jpeg"} | dict(options.pop("headers", {}))  # type: ignore[call-overload]
        return requests.post(f"{self.url}/v1/predict", data=data, headers=headers, timeout=60, **options)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> requests.Response:
        """Get one of the service's paths."""
        return requests.get(f"{self.url}{path}", timeout=60, **options)  # type: ignore[arg-type]

    def connect(self) -> socket.socket:
        """Open a connection, through which a test can send any bytes."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def processes(self) -> list[psutil.Process]:
        """Find the process of the command and all processes that it has started."""
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def listening(self) -> set[Address]:
        """Find the addresses at which these processes listen."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                found |= {
                    (connection.laddr.ip, connection.laddr.port)
                    for connection in process.net_connections()
                    if connection.status == psutil.CONN_LISTEN
                }
        return found


@dataclass
class ClosedService:
    """A service that requires one of TOKENS or PAGE_TOKEN and allows REQUESTS_PER_MINUTE for each.

    No photo reaches its min_confidence.
    """

    running: RunningService
    tokens: Path  # the file that it reads again after a change


def wait_for(condition: Callable[[], object], *, timeout_s: float, what: str) -> None:
    """Wait until condition holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Find ports at which no process listens."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def responds(url: str) -> bool:
    """Say whether a server gives a good response at a URL."""
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def is_this_machine(ip: str) -> bool:
    """Say whether only this machine can reach an address; it may be an IPv4 address written as IPv6."""
    return is_loopback(ip.removeprefix("::ffff:"))


def status_of(response: bytes) -> int | None:
    """Give the status of a raw response; None: the connection was closed without one."""
    return int(response.split(b" ", 2)[1]) if response.startswith(b"HTTP/1.1 ") else None


@contextlib.contextmanager
def running_service(
    folder: Path, model: str, *flags: str, environment: dict[str, str]
) -> Iterator[RunningService]:
    """Run `physiq-ray serve` until the block ends."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "physiq_ray.cli", "serve", "--model", model, "--port", str(port)),
            *("--min-confidence", "0", *flags),
        ],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # the time limit of the test ends this wait
        found = re.match(r"(http://\S+)", line)
        assert found, process.communicate(timeout=60)[1]
        yield RunningService(found[1], process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@dataclass
class SlowClient:
    """What happened to a slow client, and to another one that sent photos at the same time."""

    body: tuple[int | None, float] | None = None  # the status, and after how many seconds it arrived
    header: tuple[int | None, float] | None = None  # None: the connection was open until the end
    statuses: list[int] = field(default_factory=list)  # of the other client
    seconds: list[float] = field(default_factory=list)


def send_slowly(service: RunningService, photo: bytes, *, with_header: bool) -> SlowClient:
    """Send a body byte by byte, and half a header if wanted, while another client sends whole photos.

    The service has --request-timeout-s REQUEST_TIMEOUT_S.
    """
    client = SlowClient()
    started_s = time.monotonic()

    def send_body() -> None:
        with service.connect() as connection:
            connection.sendall(f"{PREDICT}Content-Length: 1000\r\n\r\n".encode())
            connection.settimeout(1)
            while time.monotonic() - started_s < REQUEST_TIMEOUT_S + 10:
                try:
                    connection.sendall(b"\xff")
                    response = connection.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    response = b""
                client.body = status_of(response), time.monotonic() - started_s
                return

    def send_header() -> None:
        with service.connect() as connection:
            connection.sendall(PREDICT.encode())
            connection.settimeout(REQUEST_TIMEOUT_S + 8)
            try:
                response = connection.recv(65536)
            except TimeoutError:
                return
            except OSError:
                response = b""
            client.header = status_of(response), time.monotonic() - started_s

    threads = [threading.Thread(target=send_body)]
    if with_header:
        threads.append(threading.Thread(target=send_header))
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        sent_s = time.monotonic()
        client.statuses.append(service.post(photo).status_code)
        client.seconds.append(time.monotonic() - sent_s)
        time.sleep(0.2)
    return client
