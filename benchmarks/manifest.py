"""Measure the time and the peak memory of the manifest: join, groups and split.

The goal is less than 10 s and 1 GB for a million photos, and a linear increase up to ten million. It is
reached if labels give the names of photos exactly. With --written otherwise, no label does: the case of the
extension differs, or the key is percent-encoded in a presigned URL. This takes twice as long.

The inputs are generated: listings of four buckets, and a label for each photo except 5 % of them. 2 % of the
photos are copies, and athletes are the groups. The listing of a bucket is not part of the measurement (see
buckets.py for its speed). One process generates the inputs; another process reads them and builds the
manifest, so its peak memory includes the inputs but not their generation.

    python benchmarks/manifest.py [--objects 1000000 10000000] [--repeats 3] [--written exactly otherwise]
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from machine import describe_machine
from pyarrow import feather

from physiq_ray.labels import LABEL_SCHEMA, Labels
from physiq_ray.manifest import TRAIN, VALIDATION, match_photos
from physiq_ray.manifest.split import number_groups
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Listing

POSES = {1: "a", 2: "b", 5: "c", 6: "d", 7: "e", 11: "f", 14: "g", 16: "h"}
NUM_BUCKETS = 4


def make_inputs(num_objects: int, written: str) -> tuple[list[Listing], Labels]:
    """Generate listings and labels column by column; equal arguments give equal inputs.

    written: with "exactly", each label is the name of its photo; with "otherwise", no label is.
    """
    rng = np.random.default_rng(7)
    number = np.arange(num_objects)
    digits = pc.cast(pa.array(number), pa.string())
    athlete = pc.cast(pa.array(number // 20), pa.string())
    names = pc.binary_join_element_wise("17574718", digits, "-IMG ", digits, ".jpeg", "")
    keys = pc.binary_join_element_wise("athlete-", athlete, "/", names, "")
    content = np.where(rng.random(num_objects) < 0.02, number // 2, number)  # some photos are copies
    etags = pc.binary_join_element_wise(
        "d41d8cd98f00b204e9800998", pc.cast(pa.array(content), pa.string()), ""
    )
    bucket_of = number * NUM_BUCKETS // num_objects
    listings = []
    for bucket in range(NUM_BUCKETS):
        here = pa.array(bucket_of == bucket)
        name, own = f"bucket-{bucket}", keys.filter(here)
        table = pa.table(
            [
                pc.binary_join_element_wise(f"s3://{name}/", own, ""),
                pa.repeat(name, len(own)),
                own,
                pa.array(2_000_000 + content[bucket_of == bucket] % 100_000),
                etags.filter(here),
                pa.repeat(pa.scalar(0, pa.timestamp("ms", tz="UTC")), len(own)),
            ],
            schema=LISTING_SCHEMA,
        )
        listings.append(Listing(Bucket(name), table))
    labelled = pa.array(rng.random(num_objects) < 0.95)
    poses = np.array(list(POSES), np.int32)[content // 20 % len(POSES)]  # copies have the same pose
    if written == "otherwise":
        capital = pc.replace_substring(names, ".jpeg", ".JPEG")
        url = pc.binary_join_element_wise("https://cdn.example/", keys, "?X-Amz-Signature=", digits, "")
        names = pc.if_else(pa.array(number % 2 == 0), capital, pc.replace_substring(url, " ", "%20"))
    none = pa.nulls(num_objects, pa.string())
    table = pa.table([names, none, pa.array(poses), none, none], schema=LABEL_SCHEMA)
    return listings, Labels(table.filter(labelled))


def save_inputs(folder: Path, num_objects: int, written: str) -> None:
    """Generate the inputs and write their tables."""
    listings, labels = make_inputs(num_objects, written)
    tables = {"labels": labels.table} | {listing.source.name: listing.table for listing in listings}
    for name, table in tables.items():  # in one chunk, as a listing has one
        feather.write_feather(table, folder / f"{name}.arrow", "uncompressed", chunksize=table.num_rows)


def load_inputs(folder: Path) -> tuple[list[Listing], Labels]:
    """Read the tables of save_inputs into memory."""

    def read(name: str) -> pa.Table:
        return feather.read_table(folder / f"{name}.arrow", memory_map=False)

    names = [f"bucket-{bucket}" for bucket in range(NUM_BUCKETS)]
    return [Listing(Bucket(name), read(name)) for name in names], Labels(read("labels"))


def measure(folder: Path) -> dict[str, float]:
    """Build one manifest in this process; give its seconds, and the memory before it and at the peak."""
    listings, labels = load_inputs(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, cpu_start = time.perf_counter(), time.process_time()
    manifest = match_photos(listings, labels, POSES, group_pattern=r"^(athlete-\d+)/")
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    table = manifest.table
    group = number_groups(table["group"])
    split = pc.index_in(table["split"], pa.array([TRAIN, VALIDATION])).to_numpy()
    in_group = np.bincount(group, split) / np.bincount(group)
    assert np.isin(in_group, [0, 1]).all(), "a group is in two splits"
    assert pc.count_distinct(table["pose_id"]).as_py() == len(POSES)
    train = pc.sum(pc.equal(table["split"], TRAIN)).as_py() / table.num_rows
    assert abs(train - 0.8) < 0.01, train
    return {
        "rows": table.num_rows,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "inputs_mib": before,
        "peak_mib": peak,
    }


def main() -> None:
    """Measure each size in processes of its own and print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--objects", type=int, nargs="+", default=[1_000_000, 10_000_000], help="photos to generate"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each size")
    parser.add_argument(
        "--written", nargs="+", default=["exactly", "otherwise"], help="how labels spell the names of photos"
    )
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        save_inputs(args.draw, args.objects[0], args.written[0])
        return
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    print(describe_machine("pyarrow", "numpy", "pandas"))
    print(
        f"| objects | names written | rows | join, groups, split (median of {args.repeats}) | range "
        "| processor time | inputs | peak memory |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for num_objects, written in itertools.product(args.objects, args.written):
        with tempfile.TemporaryDirectory() as folder:
            draw = ["--draw", folder, "--objects", str(num_objects), "--written", written]
            subprocess.run([sys.executable, __file__, *draw], check=True)
            command = [sys.executable, __file__, "--one", folder]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                for _ in range(args.repeats)
            ]
        seconds = [run["seconds"] for run in runs]
        print(
            f"| {num_objects:,} | {written} | {runs[0]['rows']:,} | {statistics.median(seconds):.1f} s | "
            f"{min(seconds):.1f} to {max(seconds):.1f} s | "
            f"{statistics.median(run['cpu_seconds'] for run in runs):.1f} s | "
            f"{runs[0]['inputs_mib']:.0f} MiB | "
            f"{statistics.median(run['peak_mib'] for run in runs):.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
