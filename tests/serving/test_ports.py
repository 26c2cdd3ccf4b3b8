"""The ports that a service on one machine opens, and what clients without the token can do there."""

import os
import socket
import subprocess
import sys

import grpc
import psutil
import pytest
import requests
from google.protobuf.descriptor import FileDescriptor
from ray.core.generated import core_worker_pb2, gcs_service_pb2, node_manager_pb2, reporter_pb2
from ray.serve.generated import serve_pb2
from running import RunningService, StartService, is_this_machine

from physiq_ray.cluster import LOOPBACK_VARIABLE
from physiq_ray.machine import is_loopback

# Ray's gRPC services. The service of the object store has no Python module.
FILES: list[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (core_worker_pb2, gcs_service_pb2, node_manager_pb2, reporter_pb2, serve_pb2)
]
METHODS = [
    *(
        f"/{service.full_name}/{method.name}"
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    ),
    *(f"/ray.rpc.ObjectManagerService/{name}" for name in ("Pull", "Push", "FreeObjects")),
]
RAYS_HTTP = [
    ("POST", "/api/job_agent/jobs/"),
    ("POST", "/get_or_create_runtime_env"),
    ("POST", "/get_runtime_envs_info"),
]


def own_address() -> str:
    """Give an address at which other machines reach this one."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not is_loopback(address.address):
                return address.address
    pytest.skip("this machine has no network")


def is_open(host: str, port: int) -> bool:
    """Say whether a process listens at a port."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def accepted(host: str, port: int) -> list[str]:
    """Call each of Ray's methods without a token; give those that were not refused."""
    found: list[str] = []
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in METHODS:
            try:
                channel.unary_unary(method)(b"", timeout=10)
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED):
                    continue
                if error.code() == grpc.StatusCode.UNAVAILABLE:  # no gRPC at this port
                    return found
                found.append(f"{port} {method}: {error.code()}")
            else:
                found.append(f"{port} {method}: OK")
    return found


def test_a_service_on_loopback_opens_no_port_to_other_machines(service: RunningService) -> None:
    found = service.listening()
    assert [address for address in found if not is_this_machine(address[0])] == []
    assert not any("haproxy" in process.name() for process in service.processes())
    assert service.get("/healthz").status_code == 200
    host = own_address()
    assert [port for _, port in found if is_open(host, port)] == []


@pytest.mark.long
def test_where_other_machines_reach_rays_ports_nothing_runs_or_is_read_without_the_token(
    start_service: StartService,
) -> None:
    host = own_address()
    service = start_service(**{LOOPBACK_VARIABLE: "1"})
    ports = {port for ip, port in service.listening() if not is_this_machine(ip) and is_open(host, port)}
    assert len(ports) >= 8  # head, raylet, agents, workers, replica
    assert [line for port in ports for line in accepted(host, port)] == []
    for port in ports:
        for verb, path in RAYS_HTTP:
            try:
                status = requests.request(
                    verb, f"http://{host}:{port}{path}", data=b"{}", timeout=10
                ).status_code
            except requests.RequestException:  # no HTTP at this port
                break
            assert status in (401, 403, 404, 405), f"{port} {path}"
    without = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    code = f"import ray; ray.init('{host}:{{port}}'); print(ray.get(ray.remote(lambda: 'ran').remote()))"
    head = next(
        c.laddr.port
        for p in service.processes()
        if p.name() == "gcs_server"
        for c in p.net_connections()
        if c.status == psutil.CONN_LISTEN
    )
    done = subprocess.run(
        [sys.executable, "-c", code.format(port=head)],
        capture_output=True,
        text=True,
        timeout=120,
        env=without,
    )
    assert done.returncode != 0
    assert "ran" not in done.stdout.split()
