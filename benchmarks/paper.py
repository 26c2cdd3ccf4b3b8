"""Project which part of a run reaches its limit first on the way to a hundred million photos.

The script measures on this machine what a photo or a block costs each part (table of the listing, labels,
manifest, split, Ray Data's blocks, checkpoint). It projects these costs to a larger number of photos and
compares them with a machine of --head-gib.

    python benchmarks/paper.py [--rows 1000000 10000000] [--project 100000000] [--head-gib 64]
"""

import argparse
import io
import json
import math
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from children import add_child_flags, report_to_parent, run_child
from machine import describe_machine
from scale import BATCH_SIZE, PHOTO_BYTES, SIZE_PX, PeakHeap, heap_mib, make_table, ray_nodes, read_usage


def measure_match(work: dict[str, Any], folder: str) -> dict[str, float]:
    """Match, group and split as benchmarks/manifest.py does, in a process of its own because of the peak."""
    import manifest

    # Another process draws the inputs: its peak of memory does not count.
    draw = ["--draw", folder, "--objects", str(work["rows"]), "--written", "exactly"]
    subprocess.run([sys.executable, manifest.__file__, *draw], check=True)
    idle = psutil.Process().memory_info().rss / 2**20
    return manifest.measure(Path(folder)) | {"idle_mib": idle}


def measure_tables(work: dict[str, Any], folder: str) -> dict[str, Any]:
    """Give the bytes per row of the tables and files that have one row for each photo."""
    from manifest import POSES, make_inputs

    from physiq_ray.ingest.dataset import needed_columns
    from physiq_ray.manifest import TRAIN, match_photos
    from physiq_ray.training.plan import plan_epoch

    listings, labels = make_inputs(work["rows"], "exactly")
    for number, listing in enumerate(listings):  # real ETags are MD5 sums, which Parquet cannot compress
        table = listing.table.set_column(4, "etag", _random_etags(listing.table.num_rows, number))
        listings[number] = type(listing)(listing.source, table)
    listed = sum(listing.table.nbytes for listing in listings)
    manifest = match_photos(listings, labels, POSES, group_pattern=r"^(athlete-\d+)/")
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
        # If photos are streamed, a training worker gets these columns of all rows.
        "job": len(pickle.dumps(needed_columns(train), protocol=5)) / train.num_rows,
        "columns": {
            name: manifest.table[name].nbytes / rows
            for name in manifest.table.column_names
            if pa.types.is_large_string(manifest.table.schema.field(name).type)
        },
        "plan": plan_bytes / rows,
        "plan_s": plan_s / rows,
    }


def _random_etags(num_rows: int, seed: int) -> pa.Array:
    text = np.random.default_rng(seed).bytes(16 * num_rows).hex().encode()
    offsets = np.arange(num_rows + 1) * 32
    return pa.LargeStringArray.from_buffers(num_rows, pa.py_buffer(offsets), pa.py_buffer(text))


def measure_labels(work: dict[str, Any], folder: str) -> dict[str, float]:
    """Read a label file, in a process of its own because of the peak."""
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
        labels = load_labels([path], POSES)
    seconds = time.perf_counter() - started
    assert labels.table.num_rows == work["rows"]
    return {
        "file": path.stat().st_size / work["rows"],
        "peak": (heap.mib - before) * 2**20 / work["rows"],
        "seconds": seconds / work["rows"],
    }


def measure_blocks(work: dict[str, Any], folder: str) -> dict[str, float]:
    """Describe a dataset; give the cost of its blocks on the driver before a photo is read."""
    with ray_nodes([{"num_cpus": 2}], 500_000_000, folder):
        from physiq_ray.ingest.dataset import build_dataset, task_rows

        table = make_table(work["rows"])
        build_dataset(table.slice(0, 64), image_size=SIZE_PX)
        before, heap = read_usage(), heap_mib()
        dataset = build_dataset(table, image_size=SIZE_PX)
        usage, grown = read_usage().since(before), heap_mib() - heap
        del dataset  # it must exist until the memory is measured
        return {
            "rows_per_task": task_rows(work["rows"], SIZE_PX),
            "heap": grown * 2**20 / work["rows"],
            "store": usage["created_bytes"] / work["rows"],
            "seconds": usage["time_s"] / work["rows"],
        }


def measure_checkpoint(work: dict[str, Any], folder: str) -> dict[str, float]:
    """Save the content of a checkpoint: network, Adam's state, and the logits of validation photos."""
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


def column_ends_at_2_gib() -> bool:
    """Check whether Arrow refuses to take rows of a column of the manifest's type with more than 2 GiB.

    It refuses if offsets have 32 bits, as those of string. The column is one buffer of zeros, twice.
    """
    from physiq_ray.manifest import MANIFEST_SCHEMA

    length, rows = 1_000_000, 1100
    data = pa.py_buffer(np.zeros(length * rows, np.uint8))
    offsets = pa.py_buffer((np.arange(rows + 1) * length).astype(np.int32))
    part = pa.StringArray.from_buffers(rows, offsets, data).cast(MANIFEST_SCHEMA.field("uri").type)
    try:
        pa.table({"uri": pa.chunked_array([part, part])}).take(pa.array([0]))
    except pa.ArrowInvalid as error:
        if "overflow" not in str(error):
            raise
        return True
    return False


@dataclass(frozen=True)
class Need:
    """What one part needs for a number of photos: fixed + each · photos ** power.

    limit: the largest need that the machine can satisfy; math.inf if the part only becomes more expensive.
    """

    part: str
    measured: str
    each: float
    limit: float
    show: Callable[[float], str]
    fixed: float = 0.0
    power: float = 1.0

    def of(self, photos: float) -> float:
        """Give the need for a number of photos."""
        return self.fixed + self.each * photos**self.power

    @property
    def reached_at(self) -> float:
        """Give the number of photos at which the limit is reached."""
        if math.isinf(self.limit) or self.limit <= self.fixed:
            return math.inf
        return float(((self.limit - self.fixed) / self.each) ** (1 / self.power))


def show_bytes(value: float) -> str:
    """Format bytes with a unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def show_time(seconds: float) -> str:
    """Format seconds with a unit."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_count(value: float) -> str:
    """Format a number with separators of thousands."""
    return f"{value:,.0f}"


def show_photos(number: float) -> str:
    """Format a number of photos with three digits."""
    if math.isinf(number):
        return "–"
    rounded = float(f"{number:.2e}")
    return f"{rounded / 1e6:,.3g} million" if rounded < 1e9 else f"{rounded / 1e9:,.3g} billion"


def project(args: argparse.Namespace) -> None:
    """Measure, and print what each part needs, in the order in which the parts reach their limits."""
    small, large = sorted(args.rows)
    work = {"rows": small}
    tables, labels = run_child(__file__, "tables", work), run_child(__file__, "labels", work)
    blocks, checkpoint = run_child(__file__, "blocks", work), run_child(__file__, "checkpoint", {})
    matched = {rows: run_child(__file__, "match", {"rows": rows}) for rows in (small, large)}
    power = max(
        1.0,
        math.log(matched[large]["seconds"] / matched[small]["seconds"])
        / math.log(matched[large]["rows"] / matched[small]["rows"]),
    )
    match_bytes = (matched[large]["peak_mib"] - matched[large]["idle_mib"]) * 2**20 / large
    match_s = matched[large]["seconds"] / large**power
    column, column_bytes = max(tables["columns"].items(), key=lambda item: item[1])
    refused = column_ends_at_2_gib()
    head, hour, node_store = args.head_gib * 2**30, 3600.0, args.head_gib * 2**30 * 0.3
    task_rows = blocks["rows_per_task"]
    needs = [
        Need(
            f"one Arrow column (`{column}`), " + ("32-bit offsets" if refused else "64-bit offsets"),
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
        f"\nMeasured on {small:,} generated rows; match, groups and split also on {large:,}. The limits: "
        f"{args.head_gib:g} GiB of memory, 30 % of it object store, and one hour for a step that a person "
        "waits for. 20 % of the photos are for validation.\n"
    )
    print(f"| part | measured here | {args.project:,} photos | limit | reached at |")
    print("|---|---|---|---|---|")
    for need in sorted(needs, key=lambda need: need.reached_at):
        limit = "–" if math.isinf(need.limit) else need.show(need.limit)
        at = show_photos(need.reached_at)
        print(f"| {need.part} | {need.measured} | {need.show(need.of(args.project))} | {limit} | {at} |")
    first = [
        need for need in sorted(needs, key=lambda need: need.reached_at) if need.reached_at < args.project
    ]
    print(
        f"\nLimits below {args.project:,} photos, in this order: "
        + ("; ".join(f"{need.part} ({show_photos(need.reached_at)})" for need in first) or "none")
        + "."
    )


CHILDREN: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "match": measure_match,
    "tables": measure_tables,
    "labels": measure_labels,
    "blocks": measure_blocks,
    "checkpoint": measure_checkpoint,
}


def main() -> None:
    """Measure, project, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, nargs=2, default=[1_000_000, 10_000_000], help="generated rows to measure"
    )
    parser.add_argument("--project", type=int, default=100_000_000, help="number of photos of the projection")
    parser.add_argument("--head-gib", type=float, default=64.0, help="memory of a node")
    parser.add_argument("--keys-per-s", type=float, default=70_000.0, help="rate of the listing")
    add_child_flags(parser)
    args = parser.parse_args()
    if args.child:
        report_to_parent(CHILDREN[args.child], args.work, args.folder)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that children are stopped
    print(describe_machine("torch", "pyarrow", "numpy", "pandas"))
    project(args)


if __name__ == "__main__":
    main()
