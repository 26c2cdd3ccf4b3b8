"""Measure how many wrong labels `physiq-ray suspects` finds.

The demo's photos are drawn into a folder, and the labels of some of them are swapped, each for another pose
at random. The command ranks the photos twice: by folds, and by one model, which is that of the first fold and
ranks the photos that it was not trained on. The figures are the shares of the swapped labels among the first
10 % of the ranking; random order would give 10 %. The same probabilities in other orders are compared: by
the probability of the label alone (self-confidence), and by the margin alone.

The figures are no timings, so a busy machine does not change them; they depend on the processor, because it
decides the precision.

    python benchmarks/suspects.py
    python benchmarks/suspects.py --swapped 0.1 --folds 5 --epochs 12
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine

from physiq_ray.demo import GENERATED, GENERATED_FROM_RANDOM
from physiq_ray.sample.photos import SOURCES, write_sample_photos

FIRST_SHARE = 0.1
RUN_NAME = "benchmark"
Record = dict[str, Any]


def swap_labels(path: Path, share: float, seed: int) -> set[str]:
    """Give a share of the label records another pose; return the names of their photos.

    A photo that is stored twice is left as it is: with two poses it would be a conflict, and not be used.
    """
    records = json.loads(path.read_text())
    content = {file.name: file.read_bytes() for file in path.parent.rglob("*.jpeg")}
    counts: dict[bytes, int] = {}
    for record in records:
        data = content[record["s3Filename"]]
        counts[data] = counts.get(data, 0) + 1
    single = [record for record in records if counts[content[record["s3Filename"]]] == 1]
    poses = sorted({record["poseId"] for record in records})
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(single), round(share * len(records)), replace=False)
    for number in chosen:
        others = [pose for pose in poses if pose != single[number]["poseId"]]
        single[number]["poseId"] = int(rng.choice(others))
    path.write_text(json.dumps(records))
    return {single[number]["s3Filename"] for number in chosen}


def rank_labels(report: Path, *words: object) -> list[Record]:
    """Run `physiq-ray suspects`; give the records of suspects.jsonl in the order of the ranking."""
    command = [sys.executable, "-m", "physiq_ray.cli", "suspects", *map(str, words), "--report", str(report)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # status 1: a photo is truncated
    if not (file := report / "suspects.jsonl").exists():
        raise SystemExit(f"failed: {' '.join(command)}")
    return [json.loads(line) for line in file.read_text().splitlines()]


def describe_ranking(name: str, records: list[Record], swapped: set[str]) -> str:
    """Say how many of the swapped labels are among the first photos, and among the likely wrong ones."""
    is_swapped = {record["uri"]: Path(record["uri"]).name in swapped for record in records}
    num_swapped, num_first = sum(is_swapped.values()), round(FIRST_SHARE * len(records))
    orders: dict[str, Callable[[Record], float]] = {
        "suspects": lambda record: record["rank"],
        "margin alone": lambda record: record["labelledProbability"] - record["suggestedProbability"],
        "self-confidence": lambda record: record["labelledProbability"],
    }
    shares = []
    for title, key in orders.items():
        found = sum(is_swapped[record["uri"]] for record in sorted(records, key=key)[:num_first])
        shares.append(f"{title} {found} ({found / num_swapped:.0%})")
    flagged = [record for record in records if record["likelyWrong"]]
    hits = sum(is_swapped[record["uri"]] for record in flagged)
    agreement = np.mean([r["labelledProbability"] >= r["suggestedProbability"] for r in records])
    return (
        f"{name}: {len(records)} photos ranked, {num_swapped} labels swapped, {agreement:.1%} agreement\n"
        f"  among the first {num_first}: {', '.join(shares)}, random {FIRST_SHARE:.0%}\n"
        f"  likely wrong: {len(flagged)}, of which {hits} are swapped ({hits / num_swapped:.0%} of those)"
    )


def main() -> None:
    """Draw, swap, rank and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--swapped", type=float, default=0.05, help="share of wrong labels (default: 0.05)")
    parser.add_argument("--folds", type=int, default=3, help="number of folds (default: 3)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each training (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="which labels are swapped (default: 1)")
    parser.add_argument("--folder", type=Path, help="folder that is kept (default: a temporary one)")
    args = parser.parse_args()
    print(describe_machine("torch", "ray"))
    with tempfile.TemporaryDirectory() as temporary:
        folder, started_s = args.folder or Path(temporary), time.monotonic()
        sample = write_sample_photos(folder / "photos", **(GENERATED | {"num_poseless": 0}))
        swapped = swap_labels(sample.labels, args.swapped, args.seed)
        recipe = GENERATED_FROM_RANDOM | {"epochs": args.epochs, "patience": args.epochs}
        trained = [word for name, value in recipe.items() for word in (f"--{name.replace('_', '-')}", value)]
        run = folder / "runs" / RUN_NAME
        by_folds = rank_labels(
            folder / "folds",
            *("--folds", args.folds, "--sources", *sample.buckets.values(), "--labels", sample.labels),
            *("--source-buckets", *(f"{SOURCES[name]}={path}" for name, path in sample.buckets.items())),
            *("--group-pattern", r"athlete-\d+", "--validation-share", 0.15, *trained),
            *("--storage", folder / "runs", "--run-name", RUN_NAME),
        )
        by_one = rank_labels(
            folder / "one",
            *("--model", run / f"fold-1-of-{args.folds}" / "model", "--manifest", run / "manifest.parquet"),
        )
        print(describe_ranking(f"{args.folds} folds", by_folds, swapped))
        print(describe_ranking("one model", by_one, swapped))
        print(f"{time.monotonic() - started_s:.0f} s in all")


if __name__ == "__main__":
    main()
