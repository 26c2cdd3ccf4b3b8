"""A `physiq-ray serve` in a process of its own, and what tests of it share."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from physiq_ray.machine import is_loopback

POSES = {1: "Front Lat Spread", 5: "Back Double Biceps", 11: "Abs & Thighs"}
IMAGE_SIZE = 64
START_TIMEOUT_S = 120
ALLOWED_BUCKET = "athletes"

MakeModel = Callable[..., str]
StartService = Callable[..., "RunningService"]


@dataclass
class RunningService:
    """A `physiq-ray serve` in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def post(self, data: bytes = b"", **options: object) -> requests.Response:
        """Ask for the pose in one photo."""
        headers = {"Content-Type": "image/jpeg"} | dict(options.pop("headers", {}))  # type: ignore[call-overload]
        return requests.post(f"{self.url}/v1/predict", data=data, headers=headers, timeout=60, **options)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> requests.Response:
        """Get one of the service's pages."""
        return requests.get(f"{self.url}{path}", timeout=60, **options)  # type: ignore[arg-type]

    def stop(self) -> str:
        """Send SIGTERM, wait for the end, and give what was said on stderr."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=90)[1]


def wait_for(condition: Callable[[], object], *, timeout_s: float, what: str) -> None:
    """Wait until condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.2)


def is_this_machine(ip: str) -> bool:
    """Tell whether only this machine reaches an address, also one of IPv4 written as IPv6."""
    return is_loopback(ip.removeprefix("::ffff:"))


@contextlib.contextmanager
def running_service(
    folder: Path, model: str, *flags: str, environment: dict[str, str]
) -> Iterator[RunningService]:
    """Run `physiq-ray serve` until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
        line = process.stdout.readline()  # the time limit of the test is the time limit here
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
