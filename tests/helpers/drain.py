"""Announce, as a cloud does, that nodes of a Ray cluster are about to be taken away."""

import time

import psutil
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # its stub lacks the class
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]  # made at import


def drain(address, node_id, seconds=60):
    """Give a node a deadline, as `ray drain-node` does, which takes seconds to start."""
    deadline_ms = int((time.time() + seconds) * 1000)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    is_accepted, why = GcsClient(address=address).drain_node(node_id, reason, "spot", deadline_ms)
    assert is_accepted, why


def find_own_node(pid):
    """Give the address of the Ray that a process started, and the id of its only node."""
    for child in psutil.Process(pid).children(recursive=True):
        arguments = dict(part.split("=", 1) for part in child.cmdline() if "=" in part)
        if "--gcs-address" in arguments and "--node_id" in arguments:
            return arguments["--gcs-address"], arguments["--node_id"]
    raise AssertionError(f"process {pid} has no raylet")
