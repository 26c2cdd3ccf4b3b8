"""The end of a local service's ingress: first no new connections, then the last answers.

Serve itself first removes the application, and answers 404 until its proxies end; clients would take
that 404 for permanent. So this module makes the proxies close their ports before. Serve has no public
interface for that, so it calls into their actors. If another version of Ray has other names for these parts,
Serve ends in its own order.
"""

import contextlib
import time
from typing import Any

import ray

PROXY_PREFIX, REPLICA_PREFIX = "SERVE_PROXY_ACTOR", "SERVE_REPLICA"
NAMESPACE = "serve"
LOOK_S = 0.1
# HAProxy keeps each idle connection for one more request; they are closed after this time without requests.
IDLE_S = 1.0
CALL_TIMEOUT_S = 10.0


def close_ingress(*, timeout_s: float) -> None:
    """Close the port, and wait until all requests that were received are answered, for timeout_s at most."""
    with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
        close, is_closed, end = proxy_calls()
        proxies = _actors(PROXY_PREFIX)
        _call_all(proxies, close)
        end_s = time.monotonic() + timeout_s
        quiet_s = time.monotonic()
        while time.monotonic() < end_s and not all(_call_all(proxies, is_closed)):
            if any(_num_ongoing(replica) for replica in _actors(REPLICA_PREFIX)):
                quiet_s = time.monotonic()
            elif time.monotonic() - quiet_s > IDLE_S:
                break
            time.sleep(LOOK_S)
        _call_all(proxies, end)


def proxy_calls() -> tuple[Any, Any, Any]:
    """Give the functions that the proxies' actors call on themselves: close, is_closed, end.

    Functions inside a function are sent as code. For a function of a module, the proxy would import the
    module, and PyTorch with it, while requests wait.
    """

    def close(actor: Any) -> None:
        import signal

        haproxy = getattr(actor, "_haproxy", None)
        if haproxy is None:
            _, server = actor._start_http_server_task.result()
            server.should_exit = True
            return

        async def stay() -> None:
            return None

        # A change of its backends would start another HAProxy, which would open the port again.
        actor._reload_haproxy = stay
        for process in (haproxy._proc, *haproxy._old_procs):
            if process.returncode is None:
                process.send_signal(signal.SIGUSR1)

    def is_closed(actor: Any) -> bool:
        haproxy = getattr(actor, "_haproxy", None)
        if haproxy is None:
            return bool(actor._running_http_server_task.done())
        return all(process.returncode is not None for process in (haproxy._proc, *haproxy._old_procs))

    def end(actor: Any) -> None:
        haproxy = getattr(actor, "_haproxy", None)
        for process in (haproxy._proc, *haproxy._old_procs) if haproxy is not None else ():
            if process.returncode is None:
                process.kill()

    return close, is_closed, end


def _actors(prefix: str) -> list[Any]:
    names = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
    found = []
    for name in names:
        if name.startswith(prefix):
            with contextlib.suppress(ValueError):  # it ended meanwhile
                found.append(ray.get_actor(name, namespace=NAMESPACE))
    return found


def _call_all(actors: list[Any], function: Any) -> list[Any]:
    return [ray.get(actor.__ray_call__.remote(function), timeout=CALL_TIMEOUT_S) for actor in actors]


def _num_ongoing(replica: Any) -> int:
    return int(ray.get(replica.get_num_ongoing_requests.remote(), timeout=CALL_TIMEOUT_S))
