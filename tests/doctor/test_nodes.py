"""The cluster of RAY_ADDRESS: dead addresses are wrong within seconds, and so are other versions."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from physiq_ray.cluster import LOOPBACK_VARIABLE
from physiq_ray.doctor import nodes

pytestmark = pytest.mark.slow

OTHER_VERSIONS = {"ray_version": "2.41.0", "python_version": "3.9.1"}
HEAD = """
import sys, ray
ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=80_000_000)
from ray._raylet import GcsClient
address = ray.get_runtime_context().gcs_address
client = GcsClient(address=address)
print(address, flush=True)
for line in sys.stdin:
    client.internal_kv_put(b"CLUSTER_METADATA", line.strip().encode(), True, b"cluster")
    print("changed", flush=True)
"""


@pytest.fixture
def dead_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give an address at which nothing listens, or a server that never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen(8)
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("dead_address", "finding"),
    [
        ("closed", "no Ray cluster answers there: Connection refused"),
        ("silent", "no Ray cluster answers there: no answer"),
    ],
    indirect=["dead_address"],
)
def test_a_dead_address_is_the_only_wrong_line(
    doctor: Any, monkeypatch: pytest.MonkeyPatch, dead_address: str, finding: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", dead_address)
    report = doctor()
    assert (report.status, report.problems) == (1, {("Ray", dead_address): "wrong"})
    record = report.of("Ray", dead_address)
    assert record["finding"] == finding
    assert record["remedy"].startswith("start it, correct RAY_ADDRESS, or unset RAY_ADDRESS")


@pytest.mark.slow
def test_a_cluster_is_described_and_one_with_another_ray_is_wrong(
    doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOOPBACK_VARIABLE, "0")  # the cluster listens on this machine only
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with subprocess.Popen(
        [sys.executable, "-c", HEAD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as head:
        assert head.stdin is not None
        assert head.stdout is not None
        try:
            address = head.stdout.readline().strip()
            monkeypatch.setenv("RAY_ADDRESS", address)
            monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
            report = doctor()
            assert (report.status, report.problems) == (1, {("Ray", address): "wrong"})
            assert report.of("Ray", address)["finding"].startswith("the cluster refuses this process")
            monkeypatch.setenv("RAY_AUTH_MODE", "token")
            report = doctor()
            assert (report.status, report.problems) == (0, {})
            found = report.of("Ray", address)["finding"]
            assert found.startswith("1 node, 1 CPU, 0 GPUs; Ray 2.")
            print(json.dumps(OTHER_VERSIONS), file=head.stdin, flush=True)
            assert head.stdout.readline() == "changed\n"
            report = doctor()
        finally:
            head.stdin.close()
            head.wait(60)
    assert (report.status, report.problems) == (1, {("Ray", address): "wrong"})
    assert report.of("Ray", address)["finding"].startswith("its nodes have Ray 2.41.0, Python 3.9.1, this ")


def test_a_head_that_does_not_answer_in_time_is_wrong(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(nodes, "ask_probe", lambda *_, timeout_s: {})
    report = doctor()
    assert report.problems == {("Ray", "10.0.0.1:6379"): "wrong"}
    assert report.of("Ray", "10.0.0.1:6379")["finding"] == "no answer within 13 s"
