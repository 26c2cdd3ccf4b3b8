"""Joining a cluster and starting Ray: problems are reported in one sentence within a minute."""

import contextlib
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import ray_constants
from running import is_this_machine

from physiq_ray import cluster
from physiq_ray.cluster import LOOPBACK_VARIABLE, on_loopback
from physiq_ray.errors import ClusterError
from physiq_ray.sample import LocalS3

Connect = Callable[..., str]

CONNECT = """
import sys
from physiq_ray.cluster import connect
from physiq_ray.errors import PhysiqError
{before}
try:
    connect()
except PhysiqError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
import ray
{after}
"""
SECONDS = 60
IDLE_S = 5.0
PATIENCE_S = 30.0
SESSION = "/ray/session_2026-11-26_23-35-41_653852_1234567/sockets/plasma_store"  # by a process of 7 digits


@pytest.fixture
def connect_in_process(tmp_path: Path) -> Connect:
    """Give a function that connects in a new process, within SECONDS, and returns what it prints."""

    def call(env: Mapping[str, str], *, before: str = "", after: str = "") -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        done = subprocess.run(
            [sys.executable, "-c", CONNECT.format(before=before, after=after)],
            env={**kept, **env},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=tmp_path,
            check=False,
        )
        return (done.stdout + done.stderr).strip()

    return call


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Give a port that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.slow
def test_an_address_at_which_no_process_listens_is_reported_at_once(
    connect_in_process: Connect, closed_port: int
) -> None:
    assert connect_in_process({"RAY_ADDRESS": f"127.0.0.1:{closed_port}"}) == (
        f"ClusterError: RAY_ADDRESS=127.0.0.1:{closed_port}: no Ray cluster answers there: "
        "Connection refused; start it, correct RAY_ADDRESS, or unset RAY_ADDRESS to run on this machine; a "
        f"firewall must allow port {closed_port}"
    )


@pytest.mark.slow
def test_an_address_that_never_answers_is_reported_within_a_minute(
    connect_in_process: Connect, silent_port: int
) -> None:
    said = connect_in_process({"RAY_ADDRESS": f"ray://127.0.0.1:{silent_port}"})
    address = f"RAY_ADDRESS=ray://127.0.0.1:{silent_port}"
    assert said.startswith(f"ClusterError: {address}: no Ray cluster answers there: no answer; start it")


def test_an_address_whose_packets_are_dropped_is_reported_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drop(address: tuple[str, int], timeout: float) -> None:
        assert (address, timeout) == (("10.255.255.1", 6379), 10.0)
        raise TimeoutError("timed out")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.255.255.1:6379")
    monkeypatch.setattr(socket, "create_connection", drop)
    with pytest.raises(
        ClusterError, match=r"^RAY_ADDRESS=10\.255\.255\.1:6379: .*there: no answer; start it"
    ):
        cluster.check_cluster()


@pytest.mark.slow
def test_a_host_without_an_address_is_reported(connect_in_process: Connect) -> None:
    said = connect_in_process({"RAY_ADDRESS": "no-such-host.invalid:6379"})
    assert said.startswith(
        "ClusterError: RAY_ADDRESS=no-such-host.invalid:6379: no Ray cluster answers there: "
    )
    assert len(said.splitlines()) == 1


def test_another_server_at_the_address_is_not_taken_for_a_cluster(
    s3: LocalS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = s3.environment["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=rf"^RAY_ADDRESS={address}: the server there is not the head"):
        cluster.check_cluster()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_too_long_for_sockets_is_reported_with_the_longest_possible_length(
    connect_in_process: Connect, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    said = connect_in_process({name: str(folder), "HOME": str(tmp_path)})
    found = re.fullmatch(
        rf"ClusterError: {name}={folder}: too long for the socket paths of Ray's processes; set RAY_TMPDIR "
        r"to a folder whose path has at most (\d+) bytes, such as /tmp",
        said,
    )
    assert found, said
    assert 107 - len(SESSION) <= int(found[1]) <= 107 - len(SESSION) + 6


@pytest.mark.slow
def test_a_folder_of_ray_that_cannot_be_written_is_reported(
    connect_in_process: Connect, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert connect_in_process({"RAY_TMPDIR": f"{tmp_path}/file", "HOME": str(tmp_path)}) == (
        f"ClusterError: RAY_TMPDIR={tmp_path}/file/ray: cannot be written: Not a directory; set "
        "RAY_TMPDIR to a short, writable folder"
    )


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_reported_with_two_remedies(
    connect_in_process: Connect, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert connect_in_process({"HOME": f"{tmp_path}/file"}) == (
        f"ClusterError: HOME={tmp_path}/file: Ray's token cannot be written to "
        f"{tmp_path}/file/.ray/auth_token: Not a directory; set HOME to a writable folder, or "
        "RAY_AUTH_TOKEN to a secret of your own"
    )


@pytest.mark.slow
def test_ray_starts_with_a_token_file_that_only_its_user_can_read(
    connect_in_process: Connect, tmp_path: Path
) -> None:
    # The check before a cluster is joined must accept this head.
    check = "import os; from physiq_ray.cluster import check_cluster; "
    check += "os.environ['RAY_ADDRESS'] = ray.get_runtime_context().gcs_address; "
    check += "ray.is_initialized = lambda: False; check_cluster(); print('a head')"
    said = connect_in_process({"HOME": str(tmp_path)}, before="import os; os.umask(0o022)", after=check)
    assert said == "a head"
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert re.fullmatch("[0-9a-f]{64}", token.read_text())


def test_a_token_file_that_all_can_read_is_closed_and_its_token_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a" * 64)
    token.chmod(0o644)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    cluster.check_cluster(local=True)
    assert (stat.S_IMODE(token.stat().st_mode), token.read_text()) == (0o600, "a" * 64)


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "mine"), ("RAY_AUTH_TOKEN_PATH", "/k")],
)
def test_no_token_file_is_written_if_the_user_gives_a_token_or_wants_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    cluster.check_cluster(local=True)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_times_out_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(**_: object) -> None:
        raise Exception(  # as Ray 2.60 does, ray/_private/node.py
            "The current node timed out during startup. This could happen because some of the raylet failed "
            "to startup or the GCS has become overloaded."
        )

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(ClusterError) as caught:
        cluster.connect(local=True)
    assert str(caught.value) == (
        "Ray does not start on this machine: The current node timed out during startup. This could happen "
        "because some of the raylet failed to startup or the GCS has become overloaded; try again when the "
        "machine is less busy, and look at its free memory and disk; --debug shows more"
    )


def test_ray_gets_as_many_cpus_as_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def note(**options: object) -> None:
        given.append(options["num_cpus"])
        raise ValueError

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", note)
    for cpus in ({0}, {3, 5, 7}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, cpus=cpus: cpus)
        with pytest.raises(ClusterError, match="not start on this machine: ValueError"):
            cluster.connect(local=True)
    assert given == [2, 3]  # at least two: training and decoding need one CPU each


def test_what_is_written_while_ray_starts_is_kept_without_the_line_on_its_log_level(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    levels = []

    def start(**_: object) -> None:
        levels.append(os.environ.get("RAY_BACKEND_LOG_LEVEL"))
        os.write(
            2, b"[2026 I 1] logging.cc:303: Set ray log level from RAY_BACKEND_LOG_LEVEL to 3\na warning\n"
        )
        raise ValueError("no")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.delenv("RAY_BACKEND_LOG_LEVEL", raising=False)
    for debug in (False, True):
        with pytest.raises(ClusterError):
            cluster.connect(local=True, debug=debug)
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "info")
    with pytest.raises(ClusterError):
        cluster.connect(local=True)
    assert levels == ["fatal", None, "info"]
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "Set ray log level" not in line] == ["a warning"] * 3
    assert len(lines) == 5


@pytest.mark.long
def test_a_raylet_that_does_not_start_is_reported_in_one_sentence_within_a_minute(
    connect_in_process: Connect, tmp_path: Path
) -> None:
    stuck = tmp_path / "raylet"
    stuck.write_text("#!/bin/sh\nexec sleep 100\n")
    stuck.chmod(0o755)
    started_s = time.monotonic()
    said = connect_in_process(
        {"HOME": str(tmp_path)},
        before=f"import ray._private.services as services; services.RAYLET_EXECUTABLE = {str(stuck)!r}",
    )
    assert "Traceback" not in said
    assert "ClusterError: Ray does not start on this machine: " in said.splitlines()[-1]
    assert time.monotonic() - started_s < SECONDS


@pytest.mark.usefixtures("ray_local")
def test_ray_on_one_machine_listens_on_loopback_and_the_environment_is_restored() -> None:
    ray.get(ray.remote(num_cpus=1)(lambda: None).remote())  # at least one worker has started
    found = []
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            if process.pid == os.getpid() or "ray" in " ".join(process.cmdline()):
                connections = process.net_connections()
                found += [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]
    assert len(found) >= 8  # head, raylet, agents, workers
    assert [ip for ip, _ in found if not is_this_machine(ip)] == []
    assert LOOPBACK_VARIABLE not in os.environ


def test_on_loopback_applies_inside_the_block_only_and_keeps_the_value_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(LOOPBACK_VARIABLE, raising=False)
    with on_loopback():
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        assert os.environ[LOOPBACK_VARIABLE] == "0"
    assert LOOPBACK_VARIABLE not in os.environ
    assert ray_constants.ENABLE_RAY_CLUSTER
    monkeypatch.setenv(LOOPBACK_VARIABLE, "1")
    with on_loopback():
        assert os.environ[LOOPBACK_VARIABLE] == "1"
        assert ray_constants.ENABLE_RAY_CLUSTER


def commands() -> list[str]:
    """Give the command lines of all processes that this one has started, also indirectly."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:  # it ended meanwhile
            continue
    return found


@pytest.mark.usefixtures("ray_local")
def test_there_is_no_log_monitor_and_idle_workers_end() -> None:
    ray.get(ray.remote(num_cpus=1)(lambda: None).remote())  # one worker has worked and is idle now
    assert any("raylet" in command for command in commands())
    assert not any("log_monitor.py" in command for command in commands())
    deadline_s = time.monotonic() + PATIENCE_S
    while any(command.startswith("ray::IDLE") for command in commands()):
        assert time.monotonic() < deadline_s, "idle workers did not end"
        time.sleep(0.5)
    assert time.monotonic() > deadline_s - PATIENCE_S + IDLE_S / 2, "idle workers ended too early"
