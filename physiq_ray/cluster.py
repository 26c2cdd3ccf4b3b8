"""Joining a Ray cluster, or having one on this machine; what its nodes have."""

import contextlib
import logging
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray

from physiq_ray.errors import ClusterError, StorageError
from physiq_ray.machine import check_writable, usable_cpus

# A cluster's head that answers later than this is of no use either; Ray itself would wait for minutes.
PROBE_TIMEOUT_S = 10.0
# An HTTP/2 client's first words, with empty settings: a head answers with a settings frame, type 4.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))

# Ray's environment on a machine of one's own. Its workers need not give way to all else, nor look out for the
# machine's end, and those without work go after a while: each wakes a hundred times a second, and a step
# shared out evenly over all cores waits for the core that was taken.
OWN_MACHINE: Mapping[str, str] = {
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_num_workers_soft_limit": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "5000",
}

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def connect(*, local: bool = False, debug: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine.

    local: on this machine even if RAY_ADDRESS is set. A cluster found by chance is never joined; a process
    that has joined one stays there.
    Raises ClusterError: no cluster answers there, or Ray does not start here, and what to do.
    """
    if ray.is_initialized():
        return
    check_cluster(local=local)
    # Read by Ray's own processes when they start, so the environment is the only way to say it: no usage
    # report leaves the machine, and CPU tasks keep seeing the GPUs as they are (Ray's coming default).
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = _address(local=local)
    level = logging.INFO if debug else logging.ERROR
    # A training worker and a decode task need a CPU each: on one core they share it.
    # The dashboard would take a port and seconds; debugging may want it.
    own: dict[str, Any] = {}
    if address == "local":
        for name, value in OWN_MACHINE.items():
            os.environ.setdefault(name, value)
        own = {"num_cpus": max(2, usable_cpus()), "include_dashboard": debug}
    try:
        with on_loopback() if address == "local" else contextlib.nullcontext():
            ray.init(address=address, logging_level=level, log_to_driver=debug, **own)
    except Exception as error:  # Ray raises whatever a step of its start came to, a bare Exception too
        raise _not_connected(address, error) from error
    if address == "local" and not debug:
        _stop_log_monitor()
    for name in ("ray.data", "ray.train"):  # these print their plan and every start-up step
        logging.getLogger(name).setLevel(level)


def check_cluster(*, local: bool = False) -> None:
    """Find out within seconds, before long work, what would keep `connect` from its end.

    Raises ClusterError: nothing answers at RAY_ADDRESS, or Ray's folder or the home cannot be written.
    """
    if ray.is_initialized():
        return
    address = _address(local=local)
    if address == "local":
        name, folder = _temporary_folder()
        try:
            check_writable(name, str(Path(folder, "ray")), "set RAY_TMPDIR to a short folder that can be")
        except StorageError as error:
            raise ClusterError(str(error)) from error
        _make_private_token()
    elif address != "auto":
        _check_answers(address)


def cluster_nodes() -> list[dict[str, float]]:
    """Give the resources of each node that is alive, by Ray's names for them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def smallest_object_store(*, with_gpu: bool = False) -> int:
    """Give the bytes of the smallest object store among the nodes that compute: with CPUs, or with GPUs."""
    stores = [
        int(node.get("object_store_memory", 0))
        for node in cluster_nodes()
        if node.get("GPU" if with_gpu else "CPU", 0)
    ]
    return min(stores, default=0)


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray's processes that start in this block listen on 127.0.0.1 alone, not on every network.

    Ray listens there if that is the node's address, and does not take it from `_node_ip_address`: it looks
    for one that other nodes reach, except on Windows and macOS (ray issue 18730). LOOPBACK_VARIABLE lets it
    do the same here; a value that the user has set stays. It is for this Ray only: the environment is as it
    was afterwards, because `ray start` in a child process would refuse to join a cluster.
    """
    if LOOPBACK_VARIABLE in os.environ:
        yield
        return
    constants: Any = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER  # read from the variable when Ray was imported
    os.environ[LOOPBACK_VARIABLE], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        del os.environ[LOOPBACK_VARIABLE]
        constants.ENABLE_RAY_CLUSTER = before


def _stop_log_monitor() -> None:
    """End the process that looks ten times a second for lines to print, which nobody asked for.

    Ray has no public switch for it (`log_to_driver=False` only drops what it sends).
    """
    with contextlib.suppress(AttributeError):  # another Ray may name it otherwise
        node: Any = ray._private.worker._global_node
        node.kill_log_monitor(check_alive=False)


def _address(*, local: bool) -> str:
    return (None if local else os.environ.get("RAY_ADDRESS")) or "local"


def _temporary_folder() -> tuple[str, str]:
    """Give the folder that Ray makes its own in, after the variable that names it."""
    for name in ("RAY_TMPDIR", *(("TMPDIR",) if sys.platform.startswith("linux") else ())):
        if folder := os.environ.get(name):
            return name, folder
    return "RAY_TMPDIR", "/tmp"


def _not_connected(address: str, error: Exception) -> ClusterError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if address != "local":
        return ClusterError(f"RAY_ADDRESS={address}: no Ray cluster answers there: {reason}")
    too_long = re.search(r"path length cannot exceed (\d+) bytes: (.*)", reason)
    if too_long:
        name, folder = _temporary_folder()
        most = int(too_long[1]) - len(too_long[2].encode()) + len(folder.encode())
        return ClusterError(
            f"{name}={folder}: too long for the paths of Ray's sockets, by which its processes talk; set "
            f"RAY_TMPDIR to a folder of {most} bytes at most, such as /tmp"
        )
    return ClusterError(
        f"Ray does not start on this machine: {reason.rstrip('.')}; try again when the machine is less busy, "
        "and look at its free memory and disk; --debug shows more"
    )


def _check_answers(address: str) -> None:
    """Ask for a cluster's head where an address names a host and port, before Ray waits for it.

    Raises ClusterError: nothing is there, or what does not speak HTTP/2 as every head of Ray does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # Ray has words for what is no address
    remedy = (
        "start it, correct RAY_ADDRESS, or leave it out to run on this machine; a firewall must let "
        f"port {port} pass"
    )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):  # it waits for another first word
                return
            connection.settimeout(PROBE_TIMEOUT_S)
            connection.sendall(HTTP2_PREFACE)
            is_head = connection.recv(9)[3:4] == b"\x04"
    except (OSError, OverflowError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or error
        raise ClusterError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there: {reason}; {remedy}"
        ) from error
    if not is_head:
        raise ClusterError(
            f"RAY_ADDRESS={address}: what answers there is no Ray cluster's head; give the address that "
            "`ray start --head` shows, with port 6379 as a rule"
        )


def _make_private_token() -> None:
    """Make the token of this user's Ray clusters readable by this user only, before Ray starts.

    With it anyone who reaches a port of Ray's runs code as this user; Ray 2.60 writes the file by the umask,
    0644 as a rule (ray/_private/authentication/authentication_token_setup.py). A token that the user gives
    otherwise, RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, stays as it is.
    Raises ClusterError: there is none, and the home cannot be written.
    """
    is_off = os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
    if is_off or os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    try:
        path = Path.home() / ".ray" / "auth_token"
    except RuntimeError as error:  # a user that the machine does not know, as in some containers
        raise ClusterError("HOME: not set, and Ray keeps its token there; set it to a folder") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
            return
    except OSError as error:
        raise ClusterError(
            f"HOME={path.parent.parent}: Ray's token cannot be written there, to {path}: {error.strerror}; "
            "set HOME to a folder that can be written, or RAY_AUTH_TOKEN to a secret of your own"
        ) from error
    if path.stat().st_mode & 0o077 and hasattr(os, "getuid") and path.stat().st_uid == os.getuid():
        with contextlib.suppress(OSError):  # a file system that takes no writes keeps what it has
            path.chmod(0o600)
