"""Claim: the pipeline's own overhead stays flat as nodes and photos grow.

1, 2 and 4 Ray nodes of 2 logical CPUs each are started on this machine, each number of them in a process of
its own, and read photos that do not exist: ingest's own datasets and its own task (`_read_task`), of which
only the fetching is left out and the decoding replaced by a sleep of known length, since the cores for more
are lacking. What is left is overhead: the task's threads and block, Ray's tasks, stores and processes, the
way of the blocks to the driver. The driver reads all batches, so blocks of other nodes are sent to it; in
training each worker reads its own share. Parts:

streamed        open_photos(cached=False): an epoch of batches in random order
cached, decode  open_photos(cached=True): the photos decoded into the nodes' stores
cached, epoch   batches in random order out of the stores

of ideal    photos/s against nodes × CPUs × DECODE_THREADS / cost
driver, tasks, Ray
            processor seconds per 1,000 photos: this process; Ray's workers, whose sleep takes none; raylets,
            GCS, agents and Ray Data's own actors, which take some (its column) even where nothing runs
written, sent
            bytes that tasks put into the stores; and copies received from another node's store
memory      the driver's peak without pages of the store

All nodes share this machine's cores: once "cores busy" comes near their number the machine is the limit, not
the pipeline. Networks between nodes are left out: what is sent here goes over loopback.

    python benchmarks/scale.py [--nodes 1 2 4] [--photos 448 1784] [--cost-ms 32] [--repeats 2]
    python benchmarks/scale.py --paper [--rows 1000000 10000000] [--project 100000000] [--head-gib 64]

--paper measures, by photo or by block, what a larger set needs (listing table, labels, manifest, split,
Ray Data's blocks, checkpoint) and projects it: which part breaks first, and at how many photos.
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import os
import pickle
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import pyarrow as pa
from machine import describe_machine

SIZE_PX, BATCH_SIZE, CPUS_PER_NODE = 224, 32, 2
PHOTO_BYTES = SIZE_PX**2 * 3
IDLE_S = 4.0
# What Ray counts of each node's memory; by default it is all of this machine's, each time.
NODE_MEMORY_BYTES = 4 * 2**30
# What one process may take before it is given up.
LIMIT_S = 600
PARTS = ("streamed", "cached, decode", "cached, epoch")
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_")  # Ray's own, Ray Data's actors included


# --- The photos that do not exist ---------------------------------------------------------------------


def make_table(num_photos: int) -> pa.Table:
    """Give the rows of a manifest that ingest reads."""
    return pa.table(
        {
            "uri": [f"s3://bench/athlete-{number // 20}/{number:012d}.jpeg" for number in range(num_photos)],
            "size": pa.array(np.full(num_photos, 2_750_000)),
            "class_index": pa.array(np.arange(num_photos) % 8, pa.int32()),
        }
    )


def read_nothing(inputs: pa.Table, *, image_size: int, cost_s: float) -> dict[str, Any]:
    """Run ingest's own task, in which a photo costs so many seconds of a decoding thread and is black."""
    from physiq_ray import ingest

    def decode(uri: str, data: bytes, image_size: int) -> np.ndarray:
        time.sleep(cost_s)
        return np.zeros((image_size, image_size, 3), np.uint8)

    with (
        patch.object(ingest, "_fetch", lambda uri, size: b""),
        patch.object(ingest, "_decode", decode),
    ):
        return ingest._read_task(inputs, image_size=image_size)


@contextmanager
def photos_replaced(cost_s: float) -> Iterator[list[Any]]:
    """Let ingest describe its datasets with read_nothing; give the list that they are added to."""
    from physiq_ray import ingest

    described: list[Any] = []
    build = ingest.build_dataset

    def build_with_nothing(table: pa.Table, **options: Any) -> Any:
        described.append(build(table, **{**options, "read": partial(read_nothing, cost_s=cost_s)}))
        return described[-1]

    with patch.object(ingest, "build_dataset", build_with_nothing):
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
def ray_nodes(num_nodes: int, store_bytes: int, folder: str) -> Iterator[None]:
    """Start so many nodes as children of this process, connect to them, and end them."""
    # Else the cluster's address is left where a plain ray.init() of somebody else looks for it.
    os.environ |= {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import logging

    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": CPUS_PER_NODE, "object_store_memory": store_bytes, "memory": NODE_MEMORY_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(num_nodes - 1):
            cluster.add_node(**node)
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
    with ray_nodes(num_nodes, work["store_bytes"], folder), photos_replaced(cost_s) as described:
        for _part in read_photos(64 * num_nodes, cached=True):  # starts the workers, which import for seconds
            pass
        described.clear()
        time.sleep(2)
        before = read_usage()
        time.sleep(IDLE_S)
        idle = read_usage().since(before)
        for _ in range(work["repeats"]):
            for per_node in work["photos"]:
                for cached in (False, True) if per_node == max(work["photos"]) else (False,):
                    for result in read_photos(per_node * num_nodes, cached=cached, described=described):
                        results.append({"per_node": per_node} | result)
                    described.clear()
    return {"idle_cores": (idle["ray_s"] + idle["tasks_s"]) / idle["time_s"], "results": results}


def read_photos(
    num_photos: int, *, cached: bool, described: list[Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Read each photo once, streamed; or decode them into the stores, then read each once."""
    from physiq_ray.ingest import open_photos

    table = make_table(num_photos)
    rows = np.random.default_rng(0).permutation(num_photos)
    opened: list[Any] = []

    def decode() -> int:
        opened.append(open_photos(table, image_size=SIZE_PX, cached=True))
        return int(opened[0].num_rows)

    def epoch() -> int:
        photos = opened[0] if opened else open_photos(table, image_size=SIZE_PX, cached=False)
        num_read = 0
        for batch in photos.batches(rows, BATCH_SIZE):
            assert batch.images.shape[1:] == (SIZE_PX, SIZE_PX, 3), batch.images.shape
            expected = rows[num_read : num_read + len(batch.labels)] % 8
            assert np.array_equal(batch.labels, expected), "other photos than asked for"
            num_read += len(batch.labels)
        return num_read

    for part, run in zip(PARTS[1:], (decode, epoch), strict=True) if cached else ((PARTS[0], epoch),):
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


def compare_nodes(args: argparse.Namespace) -> None:
    """Measure each number of nodes in a process of its own and print medians."""
    # As decide_cache would have it: all photos of the largest run fit half of any one node's store. The
    # same store everywhere, as Ray Data plans by its size.
    largest = max(args.nodes) * max(args.photos) * PHOTO_BYTES
    store_bytes = max(500_000_000, 2 * largest)
    free = shutil.disk_usage("/dev/shm").free
    if free < 2 * largest:
        raise SystemExit(f"/dev/shm has {free / 1e9:.1f} GB left, {2 * largest / 1e9:.1f} GB may be needed")
    from physiq_ray.ingest import DECODE_THREADS

    work = {"photos": args.photos, "cost_ms": args.cost_ms, "repeats": args.repeats}
    runs = {}
    for nodes in args.nodes:
        runs[nodes] = run_child("nodes", work | {"nodes": nodes, "store_bytes": store_bytes})
        print(nodes, json.dumps(runs[nodes]), file=sys.stderr, flush=True)
    print(
        f"\n{CPUS_PER_NODE} logical CPUs a node, {args.cost_ms:g} ms of sleep a photo in each of "
        f"{DECODE_THREADS} threads a task, {SIZE_PX} px, batches of {BATCH_SIZE}, object store of "
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
            ideal = nodes * CPUS_PER_NODE * DECODE_THREADS / args.cost_ms * 1000
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


# --- On paper -----------------------------------------------------------------------------------------


def measure_match(work: dict[str, Any], folder: str) -> dict[str, float]:
    """Match, group and split as benchmarks/manifest.py does, alone here for the sake of the peak."""
    from manifest import measure

    idle = psutil.Process().memory_info().rss / 2**20
    return measure(work["rows"]) | {"idle_mib": idle}


def measure_tables(work: dict[str, Any], folder: str) -> dict[str, Any]:
    """Give bytes per row of the tables and files that hold one row a photo."""
    from manifest import POSES, make_inputs

    from physiq_ray.manifest import TRAIN, build_manifest
    from physiq_ray.training.plan import plan_epoch

    listings, labels = make_inputs(work["rows"])
    for number, listing in enumerate(listings):  # real ETags are MD5 sums, which no Parquet compresses
        table = listing.table.set_column(4, "etag", _random_etags(listing.table.num_rows, number))
        listings[number] = type(listing)(listing.source, table)
    listed = sum(listing.table.nbytes for listing in listings)
    manifest = build_manifest(listings, labels, POSES, group_pattern=r"^(athlete-\d+)/")
    rows = manifest.table.num_rows
    train = manifest.split(TRAIN)
    tracemalloc.start()
    started = time.perf_counter()
    plan_epoch(np.arange(rows), batch_size=BATCH_SIZE, world_size=8, world_rank=0, seed=42, epoch=1)
    plan_s = time.perf_counter() - started
    plan_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "listing": listed / work["rows"],
        "manifest": manifest.table.nbytes / rows,
        "parquet": len(manifest.to_parquet()) / rows,
        # What a training worker is sent where photos are streamed: the rows with all their columns.
        "job": len(pickle.dumps(train, protocol=5)) / train.num_rows,
        "columns": {
            name: manifest.table[name].nbytes / rows
            for name in manifest.table.column_names
            if manifest.table.schema.field(name).type == pa.string()
        },
        "plan": plan_bytes / rows,
        "plan_s": plan_s / rows,
    }


def _random_etags(num_rows: int, seed: int) -> pa.Array:
    text = np.random.default_rng(seed).bytes(16 * num_rows).hex().encode()
    offsets = np.arange(num_rows + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(num_rows, pa.py_buffer(offsets), pa.py_buffer(text))


def measure_labels(work: dict[str, Any], folder: str) -> dict[str, float]:
    """Read a label file of so many records, alone in this process for the sake of its peak."""
    from manifest import POSES

    from physiq_ray.labels import load_labels

    path, poses = Path(folder, "db_labels.json"), list(POSES)
    with path.open("w") as file:
        for number in range(work["rows"]):
            record = {
                "source": "checkins",
                "poseId": poses[number % len(poses)],
                "s3Filename": f"1757471{number:09d}-IMG{number % 9999:04d}.jpeg",
            }
            file.write(("[" if number == 0 else ",\n") + json.dumps(record))
        file.write("]")
    before = heap_mib()
    started = time.perf_counter()
    with PeakHeap() as heap:
        labels = load_labels(path, POSES)
    seconds = time.perf_counter() - started
    assert labels.table.num_rows == work["rows"]
    return {
        "file": path.stat().st_size / work["rows"],
        "peak": (heap.mib - before) * 2**20 / work["rows"],
        "seconds": seconds / work["rows"],
    }


def measure_blocks(work: dict[str, Any], folder: str) -> dict[str, float]:
    """Describe a dataset of so many rows; what its blocks take on the driver before anything is read."""
    with ray_nodes(1, 500_000_000, folder):
        from physiq_ray import ingest

        table = make_table(work["rows"])
        ingest.build_dataset(table.slice(0, 64), image_size=SIZE_PX)
        before, heap = read_usage(), heap_mib()
        dataset = ingest.build_dataset(table, image_size=SIZE_PX)
        usage, grown = read_usage().since(before), heap_mib() - heap
        del dataset  # held until here
        task_rows = int(ingest._task_rows(work["rows"], SIZE_PX))
        return {
            "rows_per_task": task_rows,
            "heap": grown * 2**20 / work["rows"],
            "store": usage["created_bytes"] / work["rows"],
            "seconds": usage["time_s"] / work["rows"],
        }


def measure_checkpoint(work: dict[str, Any], folder: str) -> dict[str, float]:
    """Save what an epoch's checkpoint holds: network, Adam's state, and the answers to validation photos."""
    import torch

    from physiq_ray.model import build_model

    model = build_model(8)
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def saved(value: Any) -> int:
        file = io.BytesIO()
        torch.save(value, file)
        return file.tell()

    rows, state = 100_000, {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    answers = {
        "rows": torch.zeros(rows, dtype=torch.int64),
        "labels": torch.zeros(rows, dtype=torch.int64),
        "logits": torch.zeros(rows, 8),
    }
    return {"fixed": saved(state), "answer": saved(answers) / rows}


def strings_end_at_2_gib() -> bool:
    """Try whether Arrow still refuses to take, sort or join a string column of more than 2 GiB.

    Its offsets are 32-bit. The column here is two times one buffer of zeros, of which no page is touched.
    """
    length, rows = 1_000_000, 1100
    data = pa.py_buffer(np.zeros(length * rows, np.uint8))
    offsets = pa.py_buffer((np.arange(rows + 1) * length).astype(np.int32))
    part = pa.StringArray.from_buffers(rows, offsets, data)
    try:
        pa.table({"uri": pa.chunked_array([part, part])}).take(pa.array([0]))
    except pa.ArrowInvalid as error:
        if "overflow" not in str(error):
            raise
        return True
    return False


@dataclass(frozen=True)
class Need:
    """What one part needs for so many photos: fixed + each · photos ** power, at most limit.

    limit is math.inf where more of it only costs more.
    """

    part: str
    measured: str
    each: float
    limit: float
    show: Callable[[float], str]
    fixed: float = 0.0
    power: float = 1.0

    def of(self, photos: float) -> float:
        """Give the need of so many photos."""
        return self.fixed + self.each * photos**self.power

    @property
    def breaks_at(self) -> float:
        """Give the number of photos at which the limit is reached."""
        if math.isinf(self.limit) or self.limit <= self.fixed:
            return math.inf
        return float(((self.limit - self.fixed) / self.each) ** (1 / self.power))


def show_bytes(value: float) -> str:
    """Give bytes as people say them."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def show_time(seconds: float) -> str:
    """Give seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_count(value: float) -> str:
    """Give a number with its thousands apart."""
    return f"{value:,.0f}"


def show_photos(number: float) -> str:
    """Give a number of photos to three digits."""
    if math.isinf(number):
        return "–"
    rounded = float(f"{number:.2e}")
    return f"{rounded / 1e6:,.3g} million" if rounded < 1e9 else f"{rounded / 1e9:,.3g} billion"


def project(args: argparse.Namespace) -> None:
    """Measure on this machine, then print what each part needs, the one that breaks first on top."""
    small, large = sorted(args.rows)
    work = {"rows": small}
    tables, labels = run_child("tables", work), run_child("labels", work)
    blocks, checkpoint = run_child("blocks", work), run_child("checkpoint", {})
    matched = {rows: run_child("match", {"rows": rows}) for rows in (small, large)}
    power = max(
        1.0,
        math.log(matched[large]["seconds"] / matched[small]["seconds"])
        / math.log(matched[large]["rows"] / matched[small]["rows"]),
    )
    match_bytes = (matched[large]["peak_mib"] - matched[large]["idle_mib"]) * 2**20 / large
    match_s = matched[large]["seconds"] / large**power
    column, column_bytes = max(tables["columns"].items(), key=lambda item: item[1])
    refused = strings_end_at_2_gib()
    head, hour, node_store = args.head_gib * 2**30, 3600.0, args.head_gib * 2**30 * 0.3
    task_rows = blocks["rows_per_task"]
    needs = [
        Need(
            f"one Arrow column (`{column}`), 32-bit offsets"
            + ("" if refused else ": no longer refused by this pyarrow"),
            f"{column_bytes:.0f} B a row",
            column_bytes,
            2.0**31 if refused else math.inf,
            show_bytes,
        ),
        Need(
            "label file read, peak memory",
            f"{labels['peak']:.0f} B a record",
            labels["peak"],
            head,
            show_bytes,
        ),
        Need("label file", f"{labels['file']:.0f} B a record", labels["file"], math.inf, show_bytes),
        Need(
            "label file read, time",
            f"{labels['seconds'] * 1e6:.1f} s a million",
            labels["seconds"],
            hour,
            show_time,
        ),
        Need(
            "listing, time",
            f"{args.keys_per_s:,.0f} keys/s",
            1 / args.keys_per_s,
            hour,
            show_time,
        ),
        Need("listing, table", f"{tables['listing']:.0f} B a row", tables["listing"], head, show_bytes),
        Need(
            "match, groups, split: peak memory with listing and labels",
            f"{match_bytes:.0f} B a row",
            match_bytes,
            head,
            show_bytes,
        ),
        Need(
            "match, groups, split: time",
            f"{matched[small]['seconds']:.1f} s for {small:,}, {matched[large]['seconds']:.1f} s for "
            f"{large:,}: power {power:.2f}",
            match_s,
            hour,
            show_time,
            power=power,
        ),
        Need(
            "manifest and its two splits, driver's memory",
            f"{tables['manifest']:.0f} B a row, twice",
            2 * tables["manifest"],
            head,
            show_bytes,
        ),
        Need("manifest.parquet", f"{tables['parquet']:.0f} B a row", tables["parquet"], math.inf, show_bytes),
        Need(
            "streamed: rows of both splits sent to the training workers, a node's object store",
            f"{tables['job']:.0f} B a row",
            tables["job"],
            node_store,
            show_bytes,
        ),
        Need(
            "plan of an epoch on each of 8 workers, peak memory",
            f"{tables['plan']:.0f} B a row",
            tables["plan"] * 0.8,
            head,
            show_bytes,
        ),
        Need(
            "tasks an epoch",
            f"{task_rows} photos a task",
            1 / task_rows,
            math.inf,
            show_count,
        ),
        Need(
            "dataset described, time before its first task",
            f"{blocks['seconds'] * 1e6:.1f} s a million",
            blocks["seconds"],
            hour,
            show_time,
        ),
        Need(
            "dataset described, driver's memory",
            f"{blocks['heap'] * task_rows / 1000:.1f} kB a block",
            blocks["heap"],
            head,
            show_bytes,
        ),
        Need(
            "dataset described, rows in the object store",
            f"{blocks['store']:.0f} B a row",
            blocks["store"],
            node_store,
            show_bytes,
        ),
        Need(
            f"cache at {SIZE_PX} px, half of each node's object store",
            f"{PHOTO_BYTES:,} B a photo",
            PHOTO_BYTES,
            node_store / 2,
            show_bytes,
        ),
        Need(
            "checkpoint of an epoch",
            f"{checkpoint['fixed'] / 1e6:.0f} MB and {checkpoint['answer']:.0f} B a validation photo",
            checkpoint["answer"] * 0.2,
            math.inf,
            show_bytes,
            fixed=checkpoint["fixed"],
        ),
    ]
    print(
        f"\nMeasured on {small:,} generated rows; the machine that limits: {args.head_gib:g} GiB, 30 % of it "
        f"object store; an hour for what is waited for; 20 % of the photos to validate with\n"
    )
    print(f"| part | measured here | {args.project:,} photos | limit | reached at |")
    print("|---|---|---|---|---|")
    for need in sorted(needs, key=lambda need: need.breaks_at):
        limit = "–" if math.isinf(need.limit) else need.show(need.limit)
        at = show_photos(need.breaks_at)
        print(f"| {need.part} | {need.measured} | {need.show(need.of(args.project))} | {limit} | {at} |")
    first = [need for need in sorted(needs, key=lambda need: need.breaks_at) if need.breaks_at < args.project]
    print(
        f"\nBefore {args.project:,} photos, in this order: "
        + ("; ".join(f"{need.part} ({show_photos(need.breaks_at)})" for need in first) or "nothing")
        + "."
    )


# --- Processes of their own ---------------------------------------------------------------------------

CHILDREN: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "nodes": measure_nodes,
    "match": measure_match,
    "tables": measure_tables,
    "labels": measure_labels,
    "blocks": measure_blocks,
    "checkpoint": measure_checkpoint,
}


def run_child(name: str, work: dict[str, Any]) -> Any:
    """Run one measurement in a fresh process with a folder of its own, and leave nothing of it behind."""
    folder = tempfile.mkdtemp(prefix="physiq-scale-")  # short: sockets' paths are at most 107 bytes
    command = [sys.executable, __file__, "--child", name, "--work", json.dumps(work), "--folder", folder]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        family = _Family(process.pid)
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        finally:
            family.end()
            shutil.rmtree(folder, ignore_errors=True)
        lines = [line for line in output.splitlines() if line.startswith("{")]
        if process.returncode or not lines:
            errors.seek(0)
            raise SystemExit(f"{name} {work}: exit {process.returncode}\n{errors.read()[-3000:]}")
    return json.loads(lines[-1])


def end_with_parent(folder: str) -> None:
    """Watch from this process for the end of the one that started it, and end all of this one."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Family:
    """Know a process and all that it started, and end what is left of them, whoever their parent is then."""

    def __init__(self, pid: int) -> None:
        self._members = {psutil.Process(pid)}
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End them, the first one first: it takes its nodes with it."""
        self._done.set()
        self._thread.join()
        with contextlib.suppress(psutil.Error):
            self._members.update(self._root.children(recursive=True))
            self._root.terminate()
        psutil.wait_procs([self._root], timeout=20)
        for member in self._members:
            with contextlib.suppress(psutil.Error):
                member.kill()  # psutil compares the start time: never another process of the same id
        psutil.wait_procs(list(self._members), timeout=20)

    def _watch(self) -> None:
        while not self._done.wait(2.0):
            with contextlib.suppress(psutil.Error):
                self._members.update(self._root.children(recursive=True))


def main() -> None:
    """Measure what is asked for and print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    parser.add_argument("--paper", action="store_true", help="project instead")
    parser.add_argument("--rows", type=int, nargs=2, default=[1_000_000, 10_000_000])
    parser.add_argument("--project", type=int, default=100_000_000, help="photos to project to")
    parser.add_argument("--head-gib", type=float, default=64.0, help="memory of the machine that limits")
    parser.add_argument("--keys-per-s", type=float, default=70_000.0, help="as buckets.py measures them")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        end_with_parent(args.folder)
        print(json.dumps(CHILDREN[args.child](json.loads(args.work), args.folder)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    print(describe_machine("ray", "torch", "pyarrow", "numpy", "pandas"))
    if args.paper:
        project(args)
    else:
        compare_nodes(args)


if __name__ == "__main__":
    main()
