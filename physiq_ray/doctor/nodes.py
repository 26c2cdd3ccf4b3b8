"""The Ray cluster of RAY_ADDRESS: whether it answers, its nodes, and whether it has our versions."""

from collections.abc import Iterator, Mapping
from typing import Any

from physiq_ray.doctor.finding import Finding, State
from physiq_ray.doctor.outside import ask_probe
from physiq_ray.errors import ClusterError

CHECK = "Ray"


def check_cluster(address: str, *, timeout_s: float) -> Iterator[Finding]:
    """Ask the cluster for its nodes and versions. Ray lets a node join only with the versions of the head.

    Raises ClusterError: nothing answers, or not as a cluster.
    """
    yield judge_cluster(address, ask_probe("ray", timeout_s=timeout_s), timeout_s)


def judge_cluster(address: str, facts: Mapping[str, Any], timeout_s: float) -> Finding:
    """Judge what the probe found. Raises ClusterError: it could not ask the cluster."""
    if "client" in facts:
        return Finding(CHECK, address, State.OK, "answers as a Ray Client server")
    if "cluster" not in facts:
        broken = facts.get("broken", {}).get("reason", f"no answer within {timeout_s:.0f} s")
        if "InvalidAuthToken" in broken:
            broken = (
                "the cluster refuses this process, because it requires its token; set RAY_AUTH_MODE=token, "
                "and put the token into ~/.ray/auth_token or RAY_AUTH_TOKEN"
            )
        raise ClusterError(broken.removeprefix(f"RAY_ADDRESS={address}: "))
    cluster = facts["cluster"]
    theirs, ours = ("Ray {}, Python {}".format(*cluster[key]) for key in ("theirs", "ours"))
    counts = ", ".join(
        f"{cluster[key]} {noun if cluster[key] == 1 else f'{noun}s'}"
        for key, noun in (("num_nodes", "node"), ("cpus", "CPU"), ("gpus", "GPU"))
    )
    if not cluster["fits"]:
        return Finding(
            *(CHECK, address, State.WRONG, f"its nodes have {theirs}, this machine has {ours}"),
            f"install {theirs} here, or {ours} on all nodes",
        )
    return Finding(CHECK, address, State.OK, f"{counts}; {theirs}")
