"""Join a Ray cluster or start Ray on this machine; give the resources of its nodes."""

import contextlib
import logging
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray

from physiq_ray.errors import ClusterError, StorageError
from physiq_ray.machine import check_writable, ray_parent_folder, usable_cpus

# A head that needs longer to answer is not usable. Ray itself would wait for minutes.
PROBE_TIMEOUT_S = 10.0
# The first bytes of an HTTP/2 client, with empty settings. A head answers with a settings frame, type 4.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))

# Ray's environment when it runs on this machine alone. Its workers need no lower priority, and need not
# watch for the preemption of the node. Idle workers end after a while: each wakes up a hundred times a
# second, and a step that is divided evenly among all cores waits for the core that was interrupted.
OWN_MACHINE: Mapping[str, str] = {
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_num_workers_soft_limit": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "5000",
}

LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LOG_LEVEL_VARIABLE = "RAY_BACKEND_LOG_LEVEL"


def connect(*, local: bool = False, debug: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine.

    local: start on this machine even if RAY_ADDRESS is set. Without RAY_ADDRESS, no existing cluster is
    joined. A process that has joined a cluster stays in it.
    Raises ClusterError: no cluster answers there, or Ray does not start here; with a remedy.
    """
    if ray.is_initialized():
        return
    check_cluster(local=local)
    # Ray's own processes read these variables when they start, so there is no other way to set them: no usage
    # report leaves the machine, and CPU tasks still see the GPUs (Ray's future default).
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = _address(local=local)
    level = logging.INFO if debug else logging.ERROR
    # A training worker and a decode task need one CPU each; on a machine with one core they share it.
    # The dashboard would take a port and several seconds; it is useful only for debugging.
    own: dict[str, Any] = {}
    if address == "local":
        for name, value in OWN_MACHINE.items():
            os.environ.setdefault(name, value)
        own = {"num_cpus": max(2, usable_cpus()), "include_dashboard": debug}
    try:
        with (
            on_loopback() if address == "local" else contextlib.nullcontext(),
            contextlib.nullcontext() if debug else _native_messages_hidden(),
        ):
            ray.init(address=address, logging_level=level, log_to_driver=debug, **own)
    except Exception as error:  # Ray's start can raise any error, even a bare Exception
        raise _not_connected(address, error) from error
    if address == "local" and not debug:
        _stop_log_monitor()
    for name in ("ray.data", "ray.train"):  # these print their plan and every start-up step
        logging.getLogger(name).setLevel(level)


def check_cluster(*, local: bool = False, timeout_s: float = PROBE_TIMEOUT_S) -> None:
    """Find the problems that would make `connect` fail, within seconds and before long work.

    timeout_s: the longest wait for each answer of a cluster's head.
    Raises ClusterError: nothing answers at RAY_ADDRESS, or Ray's folder or the home cannot be written.
    """
    if ray.is_initialized():
        return
    address = _address(local=local)
    if address == "local":
        name, folder = ray_parent_folder()
        try:
            check_writable(name, str(Path(folder, "ray")), "set RAY_TMPDIR to a short, writable folder")
        except StorageError as error:
            raise ClusterError(str(error)) from error
        _make_private_token()
    elif address != "auto":
        _check_answers(address, timeout_s)


def cluster_nodes() -> list[dict[str, float]]:
    """Give the resources of each node that is alive, by Ray's names for them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def smallest_object_store(*, with_gpu: bool = False) -> int:
    """Give the bytes of the smallest object store among the nodes with CPUs, or among those with GPUs."""
    stores = [
        int(node.get("object_store_memory", 0))
        for node in cluster_nodes()
        if node.get("GPU" if with_gpu else "CPU", 0)
    ]
    return min(stores, default=0)


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Make Ray's processes that start in this block listen on 127.0.0.1 only, not on every network.

    Ray listens on 127.0.0.1 if that is the node's address, but does not take the address from
    `_node_ip_address`: it chooses one that other nodes can reach, except on Windows and macOS (ray issue
    18730). LOOPBACK_VARIABLE makes it choose 127.0.0.1 here too; a value that the user has set stays. The
    environment is restored afterwards, because otherwise `ray start` in a child process would refuse to join
    a cluster.
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


@contextlib.contextmanager
def _native_messages_hidden() -> Iterator[None]:
    """Start Ray in this block, so that its native code writes no messages to the terminal later.

    They are about Ray's own work, such as restarts of its actors, and Ray has no option for them but this
    variable. A level that the user has set stays. Ray announces the level on the terminal when it starts, so
    this line is left out of what is written to stderr meanwhile.
    """
    if LOG_LEVEL_VARIABLE in os.environ:
        yield
        return
    os.environ[LOG_LEVEL_VARIABLE] = "fatal"
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            del os.environ[LOG_LEVEL_VARIABLE]
            os.dup2(terminal, 2)
            os.close(terminal)
            written.seek(0)
            for line in written:
                if LOG_LEVEL_VARIABLE.encode() not in line:
                    os.write(2, line)


def _stop_log_monitor() -> None:
    """End Ray's process that looks ten times a second for log lines to print; they are not printed here.

    Ray has no public option for this (`log_to_driver=False` only drops the lines that it sends).
    """
    with contextlib.suppress(AttributeError):  # another version of Ray may use other names
        node: Any = ray._private.worker._global_node
        node.kill_log_monitor(check_alive=False)


def _address(*, local: bool) -> str:
    return (None if local else os.environ.get("RAY_ADDRESS")) or "local"


def _not_connected(address: str, error: Exception) -> ClusterError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if address != "local":
        return ClusterError(f"RAY_ADDRESS={address}: no Ray cluster answers there: {reason}")
    too_long = re.search(r"path length cannot exceed (\d+) bytes: (.*)", reason)
    if too_long:
        name, folder = ray_parent_folder()
        most = int(too_long[1]) - len(too_long[2].encode()) + len(folder.encode())
        return ClusterError(
            f"{name}={folder}: too long for the socket paths of Ray's processes; set RAY_TMPDIR to a folder "
            f"whose path has at most {most} bytes, such as /tmp"
        )
    return ClusterError(
        f"Ray does not start on this machine: {reason.rstrip('.')}; try again when the machine is less busy, "
        "and look at its free memory and disk; --debug shows more"
    )


def _check_answers(address: str, timeout_s: float) -> None:
    """If an address names a host and port, check that a cluster's head answers, before Ray waits for it.

    Raises ClusterError: nothing answers, or a server that does not speak HTTP/2, as every head of Ray does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # Ray itself reports a wrong address
    remedy = (
        "start it, correct RAY_ADDRESS, or unset RAY_ADDRESS to run on this machine; a firewall must allow "
        f"port {port}"
    )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout_s) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):  # with TLS, it expects other first bytes
                return
            connection.settimeout(timeout_s)
            connection.sendall(HTTP2_PREFACE)
            is_head = connection.recv(9)[3:4] == b"\x04"
    except (OSError, OverflowError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or error
        raise ClusterError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there: {reason}; {remedy}"
        ) from error
    if not is_head:
        raise ClusterError(
            f"RAY_ADDRESS={address}: the server there is not the head of a Ray cluster; give the address "
            "that `ray start --head` shows, usually with port 6379"
        )


def _make_private_token() -> None:
    """Make the token of this user's Ray clusters readable by this user only, before Ray starts.

    With the token, anyone who can reach a port of Ray can run code as this user. Ray 2.60 writes the file
    with the umask, usually 0644 (ray/_private/authentication/authentication_token_setup.py). A token that the
    user gives in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is not changed.
    Raises ClusterError: there is no token, and the home folder cannot be written.
    """
    is_off = os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
    if is_off or os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    try:
        path = Path.home() / ".ray" / "auth_token"
    except RuntimeError as error:  # the machine does not know the user, as in some containers
        raise ClusterError("HOME is not set, but Ray keeps its token there; set it to a folder") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
            return
    except OSError as error:
        raise ClusterError(
            f"HOME={path.parent.parent}: Ray's token cannot be written to {path}: {error.strerror}; "
            "set HOME to a writable folder, or RAY_AUTH_TOKEN to a secret of your own"
        ) from error
    if path.stat().st_mode & 0o077 and hasattr(os, "getuid") and path.stat().st_uid == os.getuid():
        with contextlib.suppress(OSError):  # on a read-only file system, the mode stays
            path.chmod(0o600)
