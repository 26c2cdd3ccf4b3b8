"""Measure the pipeline's own overhead as the number of nodes and photos grows.

This machine has too few cores to decode on many nodes. So 1, 2 and 4 Ray nodes of 2 logical CPUs each are
started on it, each number of nodes in a process of its own, and read photos that do not exist. They run
ingest's own datasets and its own task (`read_task`); only the fetching is left out, and a sleep of known
length replaces the decoding. The rest is overhead: the threads and the block of a task, Ray's tasks, object
stores and processes, and the transfer of blocks to the driver. The driver reads all batches, so blocks of
other nodes are sent to it; in training, each worker reads its own share. Parts:

streamed        open_photos(kind="none"): an epoch of batches in random order
kept, decode    open_photos(kind="memory"): the photos are decoded into the object stores of the nodes
kept, epoch     batches in random order from the object stores

Columns:

of ideal    photos/s divided by nodes × CPUs × DECODE_THREADS / cost
driver, tasks, Ray
            processor seconds per 1,000 photos: of this process; of Ray's workers, whose sleep needs none; of
            raylets, GCS, agents and Ray Data's own actors
Ray idle    the processor seconds that all processes of Ray would use in the same time if nothing ran
written, sent
            bytes that tasks put into the object stores; copies received from another node's object store
memory      the driver's peak, without the shared pages of the object store

workers     One pipeline for all training workers (`start_stream`) is compared with a pipeline for each of
            them, on clusters with few CPUs: eight nodes of 4 CPUs without a GPU, and the nodes of the
            workers. Up to 9 workers have a node of 2 CPUs and a GPU each; more workers share nodes of 8 CPUs
            and 4 GPUs. A worker holds a CPU and a GPU, and is a thread of the driver here. "of ideal" is the
            rate of an epoch, including its start and its end, divided by free CPUs × DECODE_THREADS / cost.
            The number of photos is such that the ideal epoch takes --seconds.

All nodes share this machine's cores: if "cores busy" is near their number, the machine is the limit, not the
pipeline. The network between nodes is not measured: blocks are sent over loopback.

    python benchmarks/scale.py [--parts nodes workers] [--nodes 1 2 4] [--photos 448 1784] [--cost-ms 32]
        [--repeats 2] [--workers 1 4 6 9 17 32]
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pyarrow as pa
from children import add_child_flags, report_to_parent, run_child
from machine import describe_machine
from photos import SlowPhotos

SIZE_PX, BATCH_SIZE, CPUS_PER_NODE = 224, 32, 2
PHOTO_BYTES = SIZE_PX**2 * 3
IDLE_S = 4.0
# The memory of a node for Ray; by default, each node would have all memory of this machine.
NODE_MEMORY_BYTES = 4 * 2**30
PARTS = ("streamed", "kept, decode", "kept, epoch")
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_")  # Ray's own, including Ray Data's actors


# --- Photos that do not exist -------------------------------------------------------------------------


def make_table(num_photos: int) -> pa.Table:
    """Give the rows of a manifest that ingest reads."""
    return pa.table(
        {
            "uri": [f"s3://bench/athlete-{number // 20}/{number:012d}.jpeg" for number in range(num_photos)],
            "size": pa.array(np.full(num_photos, 2_750_000)),
            "etag": ["v"] * num_photos,
            "class_index": pa.array(np.arange(num_photos) % 8, pa.int32()),
        }
    )


def run_task_without_photos(inputs: pa.Table, *, image_size: int, cost_s: float) -> dict[str, Any]:
    """Run ingest's own task on black photos, each of which takes cost_s of a decoding thread."""
    from physiq_ray.ingest import StoredPhotos, dataset, reading
    from physiq_ray.storage import current_access

    def decode(uri: str, data: bytes, image_size: int) -> np.ndarray:
        time.sleep(cost_s)
        return np.zeros((image_size, image_size, 3), np.uint8)

    with (
        patch.object(reading, "_fetch", lambda *_: b""),
        patch.object(reading, "_decode", decode),
    ):
        return dataset.read_task(inputs, image_size=image_size, reader=StoredPhotos(current_access()))


@contextmanager
def tasks_replaced(cost_s: float) -> Iterator[list[Any]]:
    """Make ingest's datasets run run_task_without_photos; give the list to which they are added."""
    from physiq_ray.ingest import dataset

    described: list[Any] = []
    describe = dataset.describe_tasks

    def describe_without_photos(blocks: list[pa.Table], **options: Any) -> Any:
        described.append(
            describe(blocks, **{**options, "read": partial(run_task_without_photos, cost_s=cost_s)})
        )
        return described[-1]

    with patch.object(dataset, "describe_tasks", describe_without_photos):
        yield described


# --- One number of nodes, in this process -------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """Processor seconds by process, with its kind, and bytes since the start of the object stores."""

    time_s: float
    cpu: dict[psutil.Process, tuple[str, float]]
    created_bytes: int
    spilled_bytes: int

    def since(self, before: "Usage") -> dict[str, float]:
        """Give the usage since an earlier one."""
        seconds = {"driver": 0.0, "tasks": 0.0, "ray": 0.0}
        for process, (kind, total_s) in self.cpu.items():
            seconds[kind] += total_s - before.cpu.get(process, (kind, 0.0))[1]
        return {
            "time_s": self.time_s - before.time_s,
            **{f"{kind}_s": value for kind, value in seconds.items()},
            "created_bytes": self.created_bytes - before.created_bytes,
            "spilled_bytes": self.spilled_bytes - before.spilled_bytes,
        }


_seen: dict[psutil.Process, tuple[str, float]] = {}  # also processes that ended, with their last values


def read_usage() -> Usage:
    """Read the usage of this process, its descendants, and the object stores of all nodes."""
    import ray
    from ray._private.internal_api import node_stats

    now, here = time.perf_counter(), psutil.Process()
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            _seen[process] = (_kind(process, here), times.user + times.system)
    # The counters of the raylets; Ray's Prometheus metrics have the same values seconds later.
    stores = [
        node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
        for node in ray.nodes()
        if node["Alive"]
    ]
    return Usage(
        now,
        dict(_seen),
        created_bytes=sum(store.cumulative_created_bytes for store in stores),
        spilled_bytes=sum(store.spilled_bytes_total for store in stores),
    )


def _kind(process: psutil.Process, here: psutil.Process) -> str:
    if process == here:
        return "driver"
    name = process.name()
    if name.startswith(AGENTS):
        return "ray"
    # A worker has its name only after its start.
    is_worker = name.startswith("ray::") or any("default_worker.py" in part for part in process.cmdline())
    return "tasks" if is_worker else "ray"


class PeakHeap:
    """Sample the memory of this process in MiB, without the shared pages of the object store."""

    def __init__(self) -> None:
        self.mib = heap_mib()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakHeap":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self.mib = max(self.mib, heap_mib())


def heap_mib() -> float:
    """Give the resident memory of this process that is not shared, in MiB."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@contextmanager
def ray_nodes(nodes: list[dict[str, float]], store_bytes: int, folder: str) -> Iterator[None]:
    """Start nodes with these resources as children of this process, connect to them, and stop them."""
    # Otherwise, Ray stores the cluster's address where ray.init() of another process finds it.
    os.environ |= {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import logging

    import ray
    from ray.cluster_utils import Cluster

    common = {"object_store_memory": store_bytes, "memory": NODE_MEMORY_BYTES}
    head, *others = nodes
    cluster = Cluster(initialize_head=True, head_node_args={**common, **head, "include_dashboard": False})
    try:
        for node in others:
            cluster.add_node(**common, **node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def measure_nodes(work: dict[str, Any], folder: str) -> dict[str, Any]:
    """Start the nodes, and run every part with every number of photos in each round."""
    num_nodes, cost_s = work["nodes"], work["cost_ms"] / 1000
    results = []
    nodes = [{"num_cpus": CPUS_PER_NODE}] * num_nodes
    with ray_nodes(nodes, work["store_bytes"], folder), tasks_replaced(cost_s) as described:
        # Warm-up: it starts the workers, which import packages for seconds.
        for _ in read_photos(64 * num_nodes, kind="memory"):
            pass
        described.clear()
        time.sleep(2)
        before = read_usage()
        time.sleep(IDLE_S)
        idle = read_usage().since(before)
        for _ in range(work["repeats"]):
            for per_node in work["photos"]:
                for kind in ("none", "memory") if per_node == max(work["photos"]) else ("none",):
                    for result in read_photos(per_node * num_nodes, kind=kind, described=described):
                        results.append({"per_node": per_node} | result)
                    described.clear()
    return {"idle_cores": (idle["ray_s"] + idle["tasks_s"]) / idle["time_s"], "results": results}


def read_photos(
    num_photos: int, *, kind: str, described: list[Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Read each photo once: streamed, or decoded into the object stores first; give the figures of a part."""
    from physiq_ray.ingest import open_photos

    table = make_table(num_photos)
    rows = np.random.default_rng(0).permutation(num_photos)
    opened: list[Any] = []

    def decode() -> int:
        opened.append(open_photos(table, image_size=SIZE_PX, kind="memory"))
        return int(opened[0].num_rows)

    def epoch() -> int:
        photos = opened[0] if opened else open_photos(table, image_size=SIZE_PX, kind="none")
        num_read = 0
        for batch in photos.batches(rows, BATCH_SIZE):
            assert batch.images.shape[1:] == (SIZE_PX, SIZE_PX, 3), batch.images.shape
            expected = rows[num_read : num_read + len(batch.labels)] % 8
            assert np.array_equal(batch.labels, expected), "the batch has wrong photos"
            num_read += len(batch.labels)
        return num_read

    for part, run in (
        zip(PARTS[1:], (decode, epoch), strict=True) if kind == "memory" else ((PARTS[0], epoch),)
    ):
        num_described = len(described or ())
        before = read_usage()
        with PeakHeap() as heap:
            num_read = run()
        usage = read_usage().since(before)
        assert num_read == num_photos, f"{num_read} photos of {num_photos}"
        # An epoch from the object stores describes no dataset and runs no task.
        stats = [read_stats(dataset.stats()) for dataset in (described or ())[num_described:]]
        written = sum(each["written_bytes"] for each in stats)
        yield {
            "part": part,
            "photos": num_photos,
            "tasks": sum(each["tasks"] for each in stats),
            "written_bytes": written,
            "sent_bytes": max(0, usage["created_bytes"] - written),
            "peak_mib": heap.mib,
            **usage,
        }


def read_stats(text: str) -> dict[str, int]:
    """Parse Dataset.stats(): the number of tasks, and the bytes put into the object stores."""
    tasks = re.search(r"MapBatches.*?: (\d+) tasks executed", text)
    written = re.findall(r"Output size bytes per block: .* (\d+) total", text)
    assert tasks is not None, text
    assert written, text
    return {"tasks": int(tasks[1]), "written_bytes": sum(map(int, written))}


def measure_workers(work: dict[str, Any], folder: str) -> dict[str, Any]:
    """Read an epoch for num_workers training workers: with one pipeline, and with one for each of them."""
    import ray
    from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import (
        ResourceRequestPriority as Priority,
    )
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    num_workers, cost_s = work["workers"], work["worker_cost_ms"] / 1000
    nodes = worker_nodes(num_workers)
    free_cpus = sum(node["num_cpus"] for node in nodes) - num_workers
    photos = int(free_cpus * reading_threads() / cost_s * work["seconds"] / num_workers) * num_workers
    answer: dict[str, Any] = {"nodes": len(nodes), "free_cpus": free_cpus, "photos": photos}
    with ray_nodes(nodes, 500_000_000, folder):
        # As in Ray Train: the workers hold CPUs and GPUs, and Ray Data's executors know it.
        held = [{"CPU": 1.0, "GPU": 1.0}] * num_workers
        group = ray.util.placement_group(held)
        ray.get(group.ready())
        coordinator = get_or_create_autoscaling_coordinator()
        ray.get(
            coordinator.request_resources.remote(
                requester_id="train",
                resources=held,
                expire_after_s=3600,
                priority=Priority.HIGH,
            )
        )
        start_workers(free_cpus)
        for side in work["pipelines"]:
            started_s = time.perf_counter()
            read_as_workers(num_workers, photos, cost_s, is_shared=side == "one")
            answer[side] = time.perf_counter() - started_s
            print(side, answer, file=sys.stderr, flush=True)
    return answer


def reading_threads() -> int:
    """Give the number of photos that a task decodes at the same time."""
    from physiq_ray.ingest.reading import DECODE_THREADS

    return DECODE_THREADS


def worker_nodes(num_workers: int) -> list[dict[str, float]]:
    """Give the nodes of a cluster for num_workers training workers, each with a GPU."""
    per_node = 1 if num_workers <= 9 else 4
    gpus = [min(per_node, num_workers - start) for start in range(0, num_workers, per_node)]
    return [*({"num_cpus": 2 * gpu, "num_gpus": gpu} for gpu in gpus), *[{"num_cpus": 4}] * 8]


def start_workers(num_cpus: int) -> None:
    """Start Ray's processes for num_cpus tasks before the measurement: they import packages for seconds."""
    import ray

    @ray.remote(num_cpus=1)
    def hold() -> None:
        import physiq_ray.ingest  # noqa: F401

        time.sleep(2)

    ray.get([hold.remote() for _ in range(num_cpus)])


def read_as_workers(num_workers: int, num_photos: int, cost_s: float, *, is_shared: bool) -> None:
    """Read each photo once, in threads that take the place of training workers."""
    import ray

    from physiq_ray.ingest import Share, open_photos, shared_batches, start_stream

    table = make_table(num_photos)
    # A slow reader, because a patch in this process does not reach the actor.
    photos = open_photos(table, image_size=SIZE_PX, kind="none", reader=SlowPhotos(cost_s, reading_threads()))
    stream = start_stream({"train": photos}, num_workers) if is_shared else None
    rows = np.random.default_rng(0).permutation(num_photos)

    def work(rank: int) -> int:
        own = rows[rank::num_workers]
        if stream is None:
            return sum(len(batch.rows) for batch in photos.batches(own, BATCH_SIZE))
        share = Share(rank, num_workers, BATCH_SIZE, {"train": own})
        ray.get(stream.begin.remote("epoch", share))
        return sum(len(batch.rows) for batch in shared_batches(stream, "epoch", share, "train"))

    with ThreadPoolExecutor(num_workers) as threads:
        assert sum(threads.map(work, range(num_workers))) == num_photos


def compare_workers(args: argparse.Namespace) -> None:
    """Measure each number of training workers in a process of its own and print a table."""
    print(
        f"\n{args.worker_cost_ms:g} ms of sleep a photo in each of {reading_threads()} threads a task, "
        f"{SIZE_PX} px, batches of {BATCH_SIZE}, one epoch\n"
    )
    print("| training workers | nodes | free CPUs | photos | pipelines | seconds | of ideal |")
    print("|---|---|---|---|---|---|---|")
    for workers in args.workers:
        run = run_child(
            __file__,
            "workers",
            {
                **{"workers": workers, "worker_cost_ms": args.worker_cost_ms},
                **{"seconds": args.seconds, "pipelines": args.pipelines},
            },
        )
        for side in args.pipelines:
            print(
                f"| {workers} | {run['nodes']} | {run['free_cpus']} | {run['photos']:,} | {side} "
                f"| {run[side]:.1f} | {args.seconds / run[side]:.2f} |",
                flush=True,
            )


def compare_nodes(args: argparse.Namespace) -> None:
    """Measure each number of nodes in a process of its own and print a table of medians."""
    # As in choose_cache, all photos of the largest run fit into half of one node's object store. All runs
    # have the same size of store, because Ray Data plans with it.
    largest = max(args.nodes) * max(args.photos) * PHOTO_BYTES
    store_bytes = max(500_000_000, 2 * largest)
    free = shutil.disk_usage("/dev/shm").free
    if free < 2 * largest:
        raise SystemExit(
            f"/dev/shm has {free / 1e9:.1f} GB free, but the run may need {2 * largest / 1e9:.1f} GB"
        )
    work = {"photos": args.photos, "cost_ms": args.cost_ms, "repeats": args.repeats}
    runs = {}
    for nodes in args.nodes:
        runs[nodes] = run_child(__file__, "nodes", work | {"nodes": nodes, "store_bytes": store_bytes})
        print(nodes, json.dumps(runs[nodes]), file=sys.stderr, flush=True)
    print(
        f"\n{CPUS_PER_NODE} logical CPUs a node, {args.cost_ms:g} ms of sleep a photo in each of "
        f"{reading_threads()} threads a task, {SIZE_PX} px, batches of {BATCH_SIZE}, object store of "
        f"{store_bytes / 1e9:.1f} GB a node, median of {args.repeats}\n"
    )
    print(
        "| part | nodes | photos | photos/s | range | of ideal | tasks per 1,000 | CPU s per 1,000: driver "
        "| tasks | Ray | Ray idle | cores busy | written | sent | spilled | memory |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for part, per_node, nodes in itertools.product(PARTS, args.photos, args.nodes):
        here = [
            run
            for run in runs[nodes]["results"]
            if run["part"] == part and run["photos"] == per_node * nodes and run["per_node"] == per_node
        ]
        if here:
            ideal = nodes * CPUS_PER_NODE * reading_threads() / args.cost_ms * 1000
            print(describe_run(here, nodes, None if part == PARTS[2] else ideal, runs[nodes]["idle_cores"]))
    print(
        "\nwritten, sent and spilled are in kB a photo. Ray idle is what all processes of Ray use, "
        + ", ".join(
            f"{runs[nodes]['idle_cores']:.3f} cores ({nodes} {'node' if nodes == 1 else 'nodes'})"
            for nodes in args.nodes
        )
        + " when nothing runs, multiplied by the seconds of the run."
    )


def describe_run(runs: list[dict[str, Any]], nodes: int, ideal: float | None, idle_cores: float) -> str:
    """Give the row of one part."""

    def median(value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(map(value, runs))

    def per_photo(key: str, unit: float) -> float:
        return median(lambda run: run[key] / run["photos"] / unit)

    rates = [run["photos"] / run["time_s"] for run in runs]
    rate = statistics.median(rates)
    busy = median(lambda run: (run["driver_s"] + run["tasks_s"] + run["ray_s"]) / run["time_s"])
    return (
        f"| {runs[0]['part']} | {nodes} | {runs[0]['photos']:,} | {rate:.0f} "
        f"| {min(rates):.0f} to {max(rates):.0f} | {f'{rate / ideal:.2f}' if ideal else '–'} "
        f"| {per_photo('tasks', 1e-3):.1f} | {per_photo('driver_s', 1e-3):.2f} "
        f"| {per_photo('tasks_s', 1e-3):.2f} | {per_photo('ray_s', 1e-3):.2f} "
        f"| {idle_cores * 1000 / rate:.2f} | {busy:.2f} | {per_photo('written_bytes', 1e3):.0f} "
        f"| {per_photo('sent_bytes', 1e3):.0f} | {per_photo('spilled_bytes', 1e3):.0f} "
        f"| {median(lambda run: run['peak_mib']):.0f} MiB |"
    )


def main() -> None:
    """Measure the chosen parts and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=["nodes", "workers"], default=["nodes", "workers"])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4], help="numbers of nodes")
    parser.add_argument(
        "--photos",
        type=int,
        nargs="+",
        default=[448, 1784],
        help="photos per node; multiples of 8 give each node eight equal tasks",
    )
    parser.add_argument("--cost-ms", type=float, default=32.0, help="sleep of a photo in a decoding thread")
    parser.add_argument("--repeats", type=int, default=2, help="rounds of nodes")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 4, 6, 9, 17, 32], help="numbers of training workers"
    )
    parser.add_argument(
        "--pipelines",
        nargs="+",
        choices=["one", "each"],
        default=["one", "each"],
        help="one for all workers, or one for each",
    )
    parser.add_argument("--worker-cost-ms", type=float, default=200.0, help="as --cost-ms, for workers")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the ideal epoch of workers")
    add_child_flags(parser)
    args = parser.parse_args()
    if args.child:
        report_to_parent(
            measure_workers if args.child == "workers" else measure_nodes, args.work, args.folder
        )
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that children are stopped
    print(describe_machine("ray", "pyarrow", "numpy"))
    if "nodes" in args.parts:
        compare_nodes(args)
    if "workers" in args.parts:
        compare_workers(args)


if __name__ == "__main__":
    main()
