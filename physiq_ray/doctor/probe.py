"""A process of its own that imports torch or Ray, and prints what it finds there as lines of JSON.

`python -m physiq_ray.doctor.probe torch [MODEL]` or `… probe ray`. The import of torch takes seconds, that of
Ray one; both may end a process or hang. The caller stops this one after a while, and keeps the lines so far.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

ANSWER_S = 4.0  # the longest wait for each answer of a cluster's head


def main(what: str, *addresses: str) -> None:
    """Look, and print what was found."""
    try:
        if what == "torch":
            _look_at_torch(*addresses)
        else:
            _look_at_cluster(os.environ["RAY_ADDRESS"])
    except Exception as error:  # the edge of a process: the import of a broken package can raise anything
        _tell("broken", reason=" ".join(str(error).split()) or type(error).__name__)


def _look_at_torch(model: str | None = None) -> None:
    import torch
    from torchvision.models import ResNet50_Weights

    from physiq_ray.model import choose_precision

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = []
    for index in range(count):
        device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(device)
        precision = str(choose_precision("auto", device)).removeprefix("torch.")
        gpus.append(
            {"name": properties.name, "memory_bytes": properties.total_memory, "precision": precision}
        )
    url = ResNet50_Weights.DEFAULT.url
    _tell(
        "torch",
        version=torch.__version__,
        gpus=gpus,
        why_none=str(said[0].message).split(" (Triggered")[0] if said else "",
        cpu_precision=str(choose_precision("auto", torch.device("cpu"))).removeprefix("torch."),
        weights_url=url,
        has_weights=Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2]).exists(),
    )
    if model is not None:
        _look_at_model(model)


def _look_at_model(address: str) -> None:
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.errors import PhysiqError

    try:
        state = load_model_state(address)
    except PhysiqError as error:
        _tell("model", error=str(error))
    else:
        _tell(
            "model", version=state.version, poses=list(state.pose_names.values()), image_size=state.image_size
        )


def _look_at_cluster(address: str) -> None:
    import ray
    from ray._common.usage.usage_lib import get_cluster_metadata
    from ray._private import services
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )
    from ray._private.utils import check_version_info
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    from physiq_ray.cluster import check_cluster

    check_cluster(timeout_s=ANSWER_S)  # its error has the remedy; Ray's own client would wait for longer
    if address.startswith("ray://"):
        _tell("client")
        return
    if address == "auto":  # as in ray.init: only a cluster that was found may be asked with the token
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    client = GcsClient(address=services.canonicalize_bootstrap_address_or_die(address))
    metadata: dict[str, Any] = get_cluster_metadata(client)
    nodes = [
        node.resources_total
        for node in client.get_all_node_info(timeout=ANSWER_S).values()
        if node.state == node.ALIVE
    ]
    try:
        check_version_info(metadata, "this machine")
        fits = True
    except RuntimeError:
        fits = False
    _tell(
        "cluster",
        cpus=sum(int(node.get("CPU", 0)) for node in nodes),
        gpus=sum(int(node.get("GPU", 0)) for node in nodes),
        num_nodes=len(nodes),
        fits=fits,
        theirs=[metadata["ray_version"], metadata["python_version"]],
        ours=[ray.__version__, ".".join(map(str, sys.version_info[:3]))],
    )


def _tell(kind: str, **facts: Any) -> None:
    sys.stdout.write(f"{json.dumps({'kind': kind, **facts})}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
