"""One S3 server and one Ray a run; a bucket and a folder a test."""

import functools
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.loaders
import numpy as np
import pytest
from botocore.retries.standard import ExponentialBackoff
from hypothesis import settings
from PIL import Image
from proxy import Rule, make_proxy

from physiq_ray import storage
from physiq_ray.sample import LocalS3
from physiq_ray.storage import retry
from physiq_ray.storage.s3 import s3_client

# A shell that starts the tests in the background lets them ignore Ctrl-C, and commands under test inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# OpenMP's threads spin while they wait for each other. The tests and what they start have more threads than
# there are CPUs, so that a thread would spin on the CPU which the awaited thread needs: with spinning, the
# steps of tests/training/test_network.py take 184 s of processor time, and without 84 s. OpenMP reads this
# variable when torch is imported, here and in each process that a test starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Each session of botocore parses 3 MB of JSON about S3 for 0.1 s; here they share what is read.
botocore.loaders.create_loader = functools.cache(botocore.loaders.create_loader)

MakeBucket = Callable[..., str]
ReadBucket = Callable[[str], dict[str, bytes]]
OnRequest = Callable[[str, Callable[..., Any]], None]
StartProxy = Callable[[Rule], str]
ReplaceS3 = Callable[[type[BaseHTTPRequestHandler]], str]
Deny = Callable[..., None]
MakePhoto = Callable[..., bytes]
MakeWeights = Callable[..., dict[str, Any]]
MakeHostile = Callable[[Path], object]
MakeDisk = Callable[[int], tuple[Path, Callable[[str], None]]]
RunCli = Callable[..., subprocess.CompletedProcess[str]]

# A developer's own credentials must not reach the tests' server, nor a test a developer's buckets.
OWN_ACCESS = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3")
OWN_SETTINGS = tuple(name for name in os.environ if name.startswith("PHYSIQ_"))

# Fixtures that start Ray, a service or a command, which takes seconds.
PROCESSES = {"ray_local", "run_cli", "service", "closed_service", "start_service", "loaded"}

settings.register_profile("physiq", deadline=None)  # a busy machine is no counter-example
settings.load_profile("physiq")


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark long tests and those that start other processes as slow, and order the tests for two processes.

    Each process starts with a half of the tests, and later takes over tests from the end of the other
    half. So the tests that share a service come first, and one process starts it. Slow tests follow, because
    short ones can be shared evenly.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.get_closest_marker("long") is not None or not PROCESSES.isdisjoint(fixtures):
            item.add_marker("slow")
    items.sort(
        key=lambda item: (
            "service" not in getattr(item, "fixturenames", ()),
            item.get_closest_marker("slow") is None,
        )
    )


@pytest.fixture(scope="session")
def s3() -> Iterator[LocalS3]:
    """Start the run's S3 server; the standard AWS chain leads to it, here and in every process started."""
    with LocalS3() as server, pytest.MonkeyPatch.context() as patch:
        for name in (*OWN_ACCESS, *OWN_SETTINGS):
            patch.delenv(name, raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        storage.forget_clients()
        yield server
    storage.forget_clients()


@pytest.fixture(scope="session")
def s3_direct(s3: LocalS3) -> Any:
    """Give a boto3 client of the tests' own, to fill buckets and to look into them."""
    return s3.client()


@pytest.fixture(scope="session")
def bucket_names() -> Iterator[str]:
    """Give names of buckets that no test has used."""
    return (f"test-{number:04d}" for number in itertools.count(1))


@pytest.fixture
def make_bucket(s3: LocalS3, s3_direct: Any, bucket_names: Iterator[str]) -> MakeBucket:
    """Give a function that makes a bucket with these objects and returns its name."""

    def make(files: Mapping[str, bytes], name: str | None = None) -> str:
        bucket = name or next(bucket_names)
        s3.create_bucket(bucket)

        def put(item: tuple[str, bytes]) -> None:
            s3_direct.put_object(Bucket=bucket, Key=item[0], Body=item[1])

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(put, files.items()))
        return bucket

    return make


@pytest.fixture
def read_bucket(s3_direct: Any) -> ReadBucket:
    """Give a function that reads a whole bucket, key → content."""

    def read(bucket: str) -> dict[str, bytes]:
        pages = s3_direct.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return {key: s3_direct.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    return read


@pytest.fixture
def on_request(s3: LocalS3) -> Iterator[OnRequest]:
    """Give a function that injects a fault into this process's S3 client: a handler of a botocore event."""
    storage.forget_clients()
    yield lambda event, handler: s3_client().meta.events.register_first(event, handler)
    storage.forget_clients()


@pytest.fixture
def replace_s3(s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplaceS3]:
    """Give a function that starts a server with a handler as the S3 endpoint, and returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def replace(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        storage.forget_clients()
        return address

    yield replace
    for server in servers:
        server.shutdown()
        server.server_close()
    storage.forget_clients()


@pytest.fixture
def start_proxy(s3: LocalS3, replace_s3: ReplaceS3) -> StartProxy:
    """Give a function that starts a proxy with a rule, makes it the S3 endpoint, and returns its address."""
    store = urlsplit(s3.endpoint_url).netloc
    return lambda rule: replace_s3(make_proxy(rule, store))


@pytest.fixture
def deny(s3_direct: Any) -> Deny:
    """Give a function that denies everybody an action on a bucket, or on the keys that match a pattern."""

    def call(bucket: str, action: str, keys: str | None = None) -> None:
        resource = f"arn:aws:s3:::{bucket}" + (f"/{keys}" if keys is not None else "")
        statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": resource}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        s3_direct.put_bucket_policy(Bucket=bucket, Policy=policy)

    return call


@pytest.fixture
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the waits between attempts, in our own retries and in botocore's."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """Give a function that mounts a disk of so many bytes and returns its folder and one that remounts it."""
    mounted: list[Path] = []

    def mount(*args: str | Path) -> None:
        done = subprocess.run(["mount", *map(str, args)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("no disk can be mounted here")

    def make(num_bytes: int) -> tuple[Path, Callable[[str], None]]:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        mount("-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", folder)
        mounted.append(folder)
        return folder, lambda options: mount("-o", f"remount,{options}", folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def ray_local(s3: LocalS3) -> Iterator[None]:
    """Start Ray on this machine, once a run; its processes reach the S3 server."""
    import ray

    from physiq_ray.cluster import connect

    connect(local=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def make_photo() -> MakePhoto:
    """Give a function that draws and encodes one photo: smooth, structured, another for each seed."""

    def make(
        seed: int = 0,
        size: tuple[int, int] = (120, 160),
        format: str = "JPEG",
        mode: str = "RGB",
        orientation: int | None = None,
        **save_options: Any,
    ) -> bytes:
        """Size is (width, height); save_options go to Pillow."""
        if orientation is not None:
            exif = Image.Exif()
            exif[0x0112] = orientation
            save_options["exif"] = exif
        file = io.BytesIO()
        _in_mode(_drawn(seed, size), mode).save(file, format, **save_options)
        return file.getvalue()

    return make


@functools.lru_cache(maxsize=8)
def _drawn(seed: int, size: tuple[int, int]) -> Image.Image:
    """Draw waves of a few periods in each channel and a filled ellipse before them."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    channels = []
    for _ in range(3):
        fx, fy, phase = rng.uniform(-3, 3), rng.uniform(-3, 3), rng.uniform(0, 2 * np.pi)
        channels.append(127 + 90 * np.sin(2 * np.pi * (fx * x + fy * y) + phase))
    pixels = np.stack(channels, axis=-1)
    centre_x, centre_y = rng.uniform(0.3, 0.7, 2)
    is_inside = ((x - centre_x) / 0.2) ** 2 + ((y - centre_y) / 0.3) ** 2 < 1
    pixels[is_inside] = 0.5 * pixels[is_inside] + 0.5 * rng.uniform(0, 255, 3)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "P":
        return image.quantize(256)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode in {"RGBA", "LA"}:  # opaque at the left, clear at the right
        alpha = Image.fromarray(np.tile(np.linspace(255, 0, image.width).astype(np.uint8), (image.height, 1)))
        image = image.convert(mode)
        image.putalpha(alpha)
        return image
    return image.convert(mode)


@pytest.fixture(scope="session")
def make_weights() -> MakeWeights:
    """Give a function that makes a state dict of the right shapes whose file has kilobytes, not 94 MB.

    Each tensor holds one value, its number in the state dict, over and over.
    """
    import torch
    from torchvision.models import get_model

    @functools.cache
    def shapes(num_classes: int, architecture: str) -> dict[str, Any]:
        with torch.device("meta"):
            state: dict[str, Any] = get_model(architecture, num_classes=num_classes).state_dict()
        return state

    def make(num_classes: int, architecture: str = "resnet50") -> dict[str, Any]:
        return {
            key: torch.full((1,) * tensor.ndim, number, dtype=tensor.dtype).expand(tensor.shape)
            for number, (key, tensor) in enumerate(shapes(num_classes, architecture).items())
        }

    return make


class _Hostile:
    """What makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="session")
def make_hostile() -> MakeHostile:
    """Give a function that makes an object which runs code when unpickled: a folder at marker appears."""
    return _Hostile


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """Give a function that runs `physiq-ray` in a process of its own."""

    def run(
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path = tmp_path,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "physiq_ray.cli", *map(str, args)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> RunCli:
    """Give a function that runs `physiq-ray` in this process, which has imported torch already.

    A process of its own imports for up to ten seconds, and starts a Ray of its own for as long. So `run_cli`
    is for what depends on the process: environment, terminal, signals, and the start and the end of Ray. A
    test of a command that uses Ray asks for `ray_local` too; the command uses that Ray and does not end it.
    """
    from physiq_ray.cli import main

    def refuse(**_options: Any) -> None:
        raise AssertionError("this command starts Ray: the test must ask for ray_local, or use run_cli")

    monkeypatch.setattr("ray.init", refuse)

    def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        capfd.readouterr()
        arguments = [str(arg) for arg in args]
        try:
            status: Any = main(arguments)
        except SystemExit as end:  # of argparse, after help and after a wrong flag
            status = end.code
        return subprocess.CompletedProcess(arguments, status, *capfd.readouterr())

    return run
