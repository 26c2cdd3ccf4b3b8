"""How many workers a run gets, and what each of them asks of the cluster."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray.autoscaler.sdk import request_resources

from physiq_ray.cluster import cluster_nodes
from physiq_ray.config import Settings
from physiq_ray.errors import TrainingError

GPU_BATCH_SIZE = 64
MOST_WORKERS_PER_CPU = 512  # Ray counts ten-thousandths of a CPU
NODE_POLL_S = 2.0


@dataclass(frozen=True)
class WorkerPlan:
    """What each training worker asks for, and how many computing threads it runs on a CPU node.

    placement: Ray's word for where the workers go.
    """

    use_gpu: bool
    cpus: float
    threads: int
    placement: str


def await_workers(settings: Settings, note: Callable[[str], None]) -> WorkerPlan:
    """Fit the workers into the cluster; wait up to wait_for_nodes_s for the autoscaler if they do not fit.

    Ray itself would wait without end, and without a message, for resources that no node will bring.
    Raises TrainingError: what is missing, by name.
    """
    deadline_s = time.monotonic() + settings.wait_for_nodes_s
    is_asked = False
    try:
        while True:
            try:
                return plan_workers(settings, cluster_nodes())
            except TrainingError as error:
                if time.monotonic() >= deadline_s:
                    raise
                if not is_asked:
                    note(f"{error}; waiting {settings.wait_for_nodes_s:g} s at most for the autoscaler")
                    request_resources(bundles=wanted_bundles(settings))
                    is_asked = True
            time.sleep(NODE_POLL_S)
    finally:
        if is_asked:  # a request stands until the next one: otherwise the nodes would never be removed
            request_resources(bundles=[])


def plan_workers(settings: Settings, nodes: Sequence[dict[str, Any]]) -> WorkerPlan:
    """Fit the workers into the cluster so that decoding keeps at least one CPU.

    nodes: each node's resources, {"CPU": …, "GPU": …}. On CPUs a worker computes on more threads than it
    reserves CPUs. Otherwise Ray would have no CPU left to decode with, for example after all other nodes are
    lost, and would wait without end. Workers without GPUs are spread over the nodes; workers with GPUs are
    packed, because links within a node are faster.
    Raises TrainingError: what is missing, by name.
    """
    num_cpus = sum(node.get("CPU", 0) for node in nodes)
    num_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    workers = max(1, settings.num_workers)  # a training in this process computes like one worker
    use_gpu = settings.use_gpu == "yes" or (settings.use_gpu == "auto" and num_gpus > 0)
    if use_gpu and num_gpus < (settings.min_workers or workers):
        raise TrainingError(
            f"num_workers={workers} with a GPU each, but the cluster has {num_gpus}: "
            f"set num_workers={max(1, num_gpus)} or use_gpu=no"
        )
    if num_cpus < 2:
        raise TrainingError(f"the cluster has {num_cpus:g} CPUs; training and decoding need one each")
    _check_decoders(settings.decode_resource, nodes)
    largest = max(node.get("CPU", 0) for node in nodes)
    cpus = _cpus_on_gpu_nodes(settings, nodes) if use_gpu else _cpus_of_workers(workers, num_cpus, largest)
    per_node = -(-workers // sum(node.get("CPU", 0) > 0 for node in nodes))
    threads = max(1, int(largest) // per_node)
    by_kind = "PACK" if use_gpu else "SPREAD"
    placement = by_kind if settings.placement == "auto" else settings.placement.upper()
    return WorkerPlan(use_gpu, cpus, threads, placement)


def with_gpu_defaults(settings: Settings) -> Settings:
    """Give the batch size and the learning rate for GPUs, where settings leave them open.

    A host launches a step's kernels in 23 ms, in which an H100 trains 64 photos (`benchmarks/README.md`);
    they need 6 GB. Fewer leave it waiting, and more mean few steps on small sets. Adam's rate grows with the
    root of a step's photos (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient
    Algorithms").
    """
    given, usual = settings.model_fields_set, Settings.model_fields["batch_size"].default
    if "batch_size" not in given:
        settings = settings.model_copy(update={"batch_size": GPU_BATCH_SIZE})
    if "learning_rate" not in given:
        photos = settings.batch_size * settings.gradient_accumulation * max(1, settings.num_workers)
        rate = min(1.0, settings.learning_rate * math.sqrt(photos / usual))
        settings = settings.model_copy(update={"learning_rate": rate})
    return settings


def wanted_bundles(settings: Settings) -> list[dict[str, float]]:
    """Give what an autoscaler is asked for: a bundle a worker, and one that decodes."""
    gpu = {} if settings.use_gpu == "no" else {"GPU": 1.0}
    decoder = {settings.decode_resource: 0.001} if settings.decode_resource else {}
    return [{"CPU": 1.0, **gpu}] * max(1, settings.num_workers) + [{"CPU": 1.0, **decoder}]


def _check_decoders(decode_resource: str | None, nodes: Sequence[dict[str, Any]]) -> None:
    if decode_resource and not any(node.get(decode_resource, 0) and node.get("CPU", 0) for node in nodes):
        raise TrainingError(
            f"decode_resource={decode_resource}: no node with CPUs has it; start those that shall decode "
            f"with --resources '{{\"{decode_resource}\": 1000}}', or leave the setting out"
        )


def _cpus_of_workers(workers: int, num_cpus: float, largest: float) -> float:
    spare = (num_cpus if largest < 2 else largest) - 1
    if workers > spare * MOST_WORKERS_PER_CPU:
        raise TrainingError(f"num_workers={workers} is too many for {num_cpus:g} CPUs")
    # A power of two is exact: Ray counts how many workers fit by dividing, and 0.6 // 0.1 is 5.
    return min(1.0, 2.0 ** math.floor(math.log2(spare / workers)))


def _cpus_on_gpu_nodes(settings: Settings, nodes: Sequence[dict[str, Any]]) -> float:
    """Give the share of a CPU that each worker gets on the node of its GPU, with a CPU left to decode."""
    workers = max(1, settings.num_workers)
    num_cpus = sum(node.get("CPU", 0) for node in nodes)
    cpus = 1.0
    while cpus >= 1 / MOST_WORKERS_PER_CPU:
        fitting = sum(min(int(node.get("GPU", 0)), int(node.get("CPU", 0) / cpus)) for node in nodes)
        if fitting >= (settings.min_workers or workers) and num_cpus - workers * cpus >= 1:
            return cpus
        cpus /= 2
    raise TrainingError(
        f"num_workers={workers} with a GPU each: the nodes with GPUs have too few CPUs "
        f"({num_cpus:g} in all, one of which decodes); start them with more --num-cpus"
    )
