"""Claim: the pipeline's own overhead stays flat as nodes and photos grow.

1, 2 and 4 Ray nodes of 2 logical CPUs each are started on this machine, each number of them in a process of
its own, and read photos that do not exist: ingest's own datasets and its own task (`_read_task`), of which
only the fetching is left out and the decoding replaced by a sleep of known length, since the cores for more
are lacking. What is left is overhead: the task's threads and block, Ray's tasks, stores and processes, the
way of the blocks to the driver. The driver reads all batches, so blocks of other nodes are sent to it; in
training each worker reads its own share. Parts:

streamed        open_photos(kind="none"): an epoch of batches in random order
kept, decode    open_photos(kind="memory"): the photos decoded into the nodes' stores
kept, epoch     batches in random order out of the stores

of ideal    photos/s against nodes × CPUs × DECODE_THREADS / cost
driver, tasks, Ray
            processor seconds per 1,000 photos: this process; Ray's workers, whose sleep takes none; raylets,
            GCS, agents and Ray Data's own actors, which take some (its column) even where nothing runs
written, sent
            bytes that tasks put into the stores; and copies received from another node's store
memory      the driver's peak without pages of the store

workers     One pipeline for all training workers (`start_stream`), against a pipeline for each of them, on
            clusters that are short of CPUs: with 1 to 9 workers eight nodes of 4 CPUs and a node of 2 CPUs
            and a GPU for each worker; with more, nodes of 8 CPUs and 4 GPUs. A worker holds a CPU and a GPU,
            and is a thread of the driver here. Of ideal: photos/s of an epoch, its start and end included,
            against free CPUs × DECODE_THREADS / cost, by which an epoch takes --seconds.

All nodes share this machine's cores: once "cores busy" comes near their number the machine is the limit, not
the pipeline. Networks between nodes are left out: what is sent here goes over loopback.

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
# What Ray counts of each node's memory; by default it is all of this machine's, each time.
NODE_MEMORY_BYTES = 4 * 2**30
PARTS = ("streamed", "kept, decode", "kept, epoch")
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_")  # Ray's own, Ray Data's actors included


# --- The photos that do not exist ---------------------------------------------------------------------


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


def read_nothing(inputs: pa.Table, *, image_size: int, cost_s: float) -> dict[str, Any]:
    """Run ingest's own task, in which a photo costs so many seconds of a decoding thread and is black."""
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
def photos_replaced(cost_s: float) -> Iterator[list[Any]]:
    """Let ingest describe its datasets with read_nothing; give the list that they are added to."""
    from physiq_ray.ingest import dataset

    described: list[Any] = []
    describe = dataset.describe_tasks

    def describe_with_nothing(blocks: list[pa.Table], **options: Any) -> Any:
        described.append(describe(blocks, **{**options, "read": partial(read_nothing, cost_s=cost_s)}))
        return described[-1]

    with patch.object(dataset, "describe_tasks", describe_with_nothing):
        yield described


# --- One number of nodes, in this process -------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """Processor seconds by process, with what it is, and bytes since the start of the stores."""

    time_s: float
    cpu: dict[psutil.Process, tuple[str, float]]
    created_bytes: int
    spilled_bytes: int

    def since(self, before: "Usage") -> dict[str, float]:
        """Give what came since."""
        seconds = {"driver": 0.0, "tasks": 0.0, "ray": 0.0}
        for process, (kind, total_s) in self.cpu.items():
            seconds[kind] += total_s - before.cpu.get(process, (kind, 0.0))[1]
        return {
            "time_s": self.time_s - before.time_s,
            **{f"{kind}_s": value for kind, value in seconds.items()},
            "created_bytes": self.created_bytes - before.created_bytes,
            "spilled_bytes": self.spilled_bytes - before.spilled_bytes,
        }


_seen: dict[psutil.Process, tuple[str, float]] = {}  # those that ended, too, as they were last


def read_usage() -> Usage:
    """Look at this process, all that it started, and all nodes' stores."""
    import ray
    from ray._private.internal_api import node_stats

    now, here = time.perf_counter(), psutil.Process()
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            _seen[process] = (_kind(process, here), times.user + times.system)
    # The raylets' own counters: Ray's Prometheus figures say the same, but seconds later.
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
    # A worker has its name only once it has started.
    is_worker = name.startswith("ray::") or any("default_worker.py" in part for part in process.cmdline())
    return "tasks" if is_worker else "ray"


class PeakHeap:
    """Watch this process's memory without the store's shared pages, in MiB."""

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
    """Give this process's resident memory that is its own."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@contextmanager
def ray_nodes(nodes: list[dict[str, float]], store_bytes: int, folder: str) -> Iterator[None]:
    """Start nodes of these resources as children of this process, connect to them, and end them."""
    # Else the cluster's address is left where a plain ray.init() of somebody else looks for it.
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
    """Start the nodes of work, run every part with every number of photos, over and over."""
    num_nodes, cost_s = work["nodes"], work["cost_ms"] / 1000
    results = []
    nodes = [{"num_cpus": CPUS_PER_NODE}] * num_nodes
    with ray_nodes(nodes, work["store_bytes"], folder), photos_replaced(cost_s) as described:
        for _part in read_photos(
            64 * num_nodes, kind="memory"
        ):  # starts the workers, which import for seconds
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
    """Read each photo once, streamed; or decode them into the stores, then read each once."""
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
            assert np.array_equal(batch.labels, expected), "other photos than asked for"
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
        # An epoch out of the stores describes no dataset and runs no task.
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
    """Read tasks, and bytes put into the stores before and by them, out of what Dataset.stats() says."""
    tasks = re.search(r"MapBatches.*?: (\d+) tasks executed", text)
    written = re.findall(r"Output size bytes per block: .* (\d+) total", text)
    assert tasks is not None, text
    assert written, text
    return {"tasks": int(tasks[1]), "written_bytes": sum(map(int, written))}


def measure_workers(work: dict[str, Any], folder: str) -> dict[str, Any]:
    """Read an epoch for so many training workers: by one pipeline, and by a pipeline for each."""
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
        # As Ray Train does it: its workers hold CPUs and GPUs, and the executors are told.
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
    """Give the photos that a task decodes at once."""
    from physiq_ray.ingest.reading import DECODE_THREADS

    return DECODE_THREADS


def worker_nodes(num_workers: int) -> list[dict[str, float]]:
    """Give the nodes of a cluster for so many training workers, each with a GPU."""
    per_node = 1 if num_workers <= 9 else 4
    gpus = [min(per_node, num_workers - start) for start in range(0, num_workers, per_node)]
    return [*({"num_cpus": 2 * gpu, "num_gpus": gpu} for gpu in gpus), *[{"num_cpus": 4}] * 8]


def start_workers(num_cpus: int) -> None:
    """Start Ray's processes for so many tasks: they import for seconds on these few cores."""
    import ray

    @ray.remote(num_cpus=1)
    def hold() -> None:
        import physiq_ray.ingest  # noqa: F401

        time.sleep(2)

    ray.get([hold.remote() for _ in range(num_cpus)])


def read_as_workers(num_workers: int, num_photos: int, cost_s: float, *, is_shared: bool) -> None:
    """Read each photo once, in threads that stand for training workers."""
    import ray

    from physiq_ray.ingest import Share, open_photos, shared_batches, start_stream

    table = make_table(num_photos)
    # A reader, since what is replaced in this process is not in the actor's.
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
    """Measure each number of training workers in a process of its own and print shares."""
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
    """Measure each number of nodes in a process of its own and print medians."""
    # As choose_cache would have it: all photos of the largest run fit half of any one node's store. The
    # same store everywhere, as Ray Data plans by its size.
    largest = max(args.nodes) * max(args.photos) * PHOTO_BYTES
    store_bytes = max(500_000_000, 2 * largest)
    free = shutil.disk_usage("/dev/shm").free
    if free < 2 * largest:
        raise SystemExit(f"/dev/shm has {free / 1e9:.1f} GB left, {2 * largest / 1e9:.1f} GB may be needed")
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
        "\nwritten, sent and spilled in kB a photo; idle: what all processes of Ray take in "
        + ", ".join(
            f"{runs[nodes]['idle_cores']:.3f} cores ({nodes} {'node' if nodes == 1 else 'nodes'})"
            for nodes in args.nodes
        )
        + " when nothing runs, times the run's seconds."
    )


def describe_run(runs: list[dict[str, Any]], nodes: int, ideal: float | None, idle_cores: float) -> str:
    """Give the line of one part."""

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
    """Measure what is asked for and print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=["nodes", "workers"], default=["nodes", "workers"])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--photos",
        type=int,
        nargs="+",
        default=[448, 1784],
        help="a node; multiples of 8 give eight equal tasks to each",
    )
    parser.add_argument("--cost-ms", type=float, default=32.0, help="of a photo in a decoding thread")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 6, 9, 17, 32])
    parser.add_argument("--pipelines", nargs="+", choices=["one", "each"], default=["one", "each"])
    parser.add_argument("--worker-cost-ms", type=float, default=200.0, help="as --cost-ms, of workers")
    parser.add_argument("--seconds", type=float, default=30.0, help="what an epoch of workers takes at best")
    add_child_flags(parser)
    args = parser.parse_args()
    if args.child:
        report_to_parent(
            measure_workers if args.child == "workers" else measure_nodes, args.work, args.folder
        )
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    print(describe_machine("ray", "pyarrow", "numpy"))
    if "nodes" in args.parts:
        compare_nodes(args)
    if "workers" in args.parts:
        compare_workers(args)


if __name__ == "__main__":
    main()
