"""Joining a Ray cluster, or having one on this machine; what its nodes have."""

import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Any

import ray

from physiq_ray.errors import TrainingError

# Ray's environment on a machine of one's own. Its workers need not give way to all else, nor look out for the
# machine's end, and those without work go after a while: each wakes a hundred times a second, and a step
# shared out evenly over all cores waits for the core that was taken.
OWN_MACHINE: Mapping[str, str] = {
    "RAY_worker_niceness": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_num_workers_soft_limit": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "5000",
}


def connect(*, local: bool = False, debug: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine.

    local: on this machine even if RAY_ADDRESS is set. A cluster found by chance is never joined; a process
    that has joined one stays there.
    """
    if ray.is_initialized():
        return
    # Read by Ray's own processes when they start, so the environment is the only way to say it: no usage
    # report leaves the machine, and CPU tasks keep seeing the GPUs as they are (Ray's coming default).
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = (None if local else os.environ.get("RAY_ADDRESS")) or "local"
    level = logging.INFO if debug else logging.ERROR
    # A training worker and a decode task need a CPU each: on one core they share it.
    # The dashboard would take a port and seconds; debugging may want it.
    own: dict[str, Any] = {}
    if address == "local":
        for name, value in OWN_MACHINE.items():
            os.environ.setdefault(name, value)
        own = {"num_cpus": max(2, os.cpu_count() or 1), "include_dashboard": debug}
    try:
        ray.init(address=address, logging_level=level, log_to_driver=debug, **own)
    except (ConnectionError, ValueError) as error:
        raise TrainingError(f"RAY_ADDRESS={address}: no Ray cluster answers there: {error}") from error
    if address == "local" and not debug:
        _stop_log_monitor()
    for name in ("ray.data", "ray.train"):  # these print their plan and every start-up step
        logging.getLogger(name).setLevel(level)


def cluster_nodes() -> list[dict[str, float]]:
    """Give the resources of each node that is alive, by Ray's names for them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def smallest_object_store() -> int:
    """Give the bytes of the smallest object store among the cluster's nodes."""
    return min(int(node.get("object_store_memory", 0)) for node in cluster_nodes())


def _stop_log_monitor() -> None:
    """End the process that looks ten times a second for lines to print, which nobody asked for.

    Ray has no public switch for it (`log_to_driver=False` only drops what it sends).
    """
    with contextlib.suppress(AttributeError):  # another Ray may name it otherwise
        node: Any = ray._private.worker._global_node
        node.kill_log_monitor(check_alive=False)
