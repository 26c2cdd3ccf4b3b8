"""Measure the time and the memory of a report on many validation photos: scores, slices, figures and card.

The answers are made up: 8 poses, groups of 10 photos, 90 % right. The photos of the sheet of mistakes are
read from a folder, and a network of random weights explains them. The time starts when the answers are there.

    python benchmarks/report.py
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from machine import describe_machine
from photos import make_phone_photo

from physiq_ray.checkpoint import ModelState
from physiq_ray.evaluation import Answers, Facts, score, write_report
from physiq_ray.evaluation.card import ScoredPhotos
from physiq_ray.evaluation.slices import slice_report
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA
from physiq_ray.model import build_model

NUM_POSES, GROUP_SIZE = 8, 10
NAMES = {number: f"Pose {number}" for number in range(1, NUM_POSES + 1)}


def make_answers(num_photos: int) -> tuple[Answers, pa.Table, dict[str, float]]:
    """Make up answers, the manifest of their photos, and the brightness of each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, NUM_POSES, num_photos)
    predicted = np.where(rng.random(num_photos) < 0.9, labels, rng.integers(0, NUM_POSES, num_photos))
    logits = rng.normal(0, 1, (num_photos, NUM_POSES)).astype(np.float32)
    logits[np.arange(num_photos), predicted] += 4
    keys = [f"2026-{number % 12 + 1:02d}-03/{number:06d}.jpg" for number in range(num_photos)]
    uris = [f"s3://checkin-{number % 3}/{key}" for number, key in enumerate(keys)]
    groups = [f"athlete-{number // GROUP_SIZE}" for number in range(num_photos)]
    table = pa.table(
        {
            "uri": uris,
            "bucket": [uri.split("/")[2] for uri in uris],
            "key": keys,
            "size": rng.integers(10**5, 5 * 10**6, num_photos),
            "etag": [""] * num_photos,
            "pose_id": labels + 1,
            "class_index": labels,
            "group": groups,
            "split": ["validation"] * num_photos,
        }
    ).cast(MANIFEST_SCHEMA)
    brightness = dict(zip(uris, rng.random(num_photos).tolist(), strict=True))
    return (
        Answers(tuple(uris), torch.from_numpy(labels), torch.from_numpy(logits), tuple(groups)),
        table,
        brightness,
    )


def main() -> None:
    """Write one report and print the time of its parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=20_000)
    args = parser.parse_args()
    print(describe_machine("torch", "matplotlib"))
    answers, table, brightness = make_answers(args.photos)
    mapping = ClassMapping.of_poses(NAMES)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        photo = processes.submit(make_phone_photo, 0).result()  # drawing one takes 300 MiB
    torch.manual_seed(0)
    state = ModelState(build_model(NUM_POSES).state_dict(), mapping, NAMES)
    history = [
        {"epoch": epoch, "train_loss": 1 / epoch, "train_accuracy": 0.9, "validation_loss": 1 / epoch}
        | {"validation_accuracy": 0.9, "learning_rate": 1e-4, "seconds": 1.0}
        for epoch in range(1, 31)
    ]
    facts = Facts("report", 224, {}, {}, 30, 30, None, ScoredPhotos("made-up photos"))
    times = {"start": time.perf_counter()}
    report = score(answers, mapping, NAMES, temperature=1.2)
    times["scores"] = time.perf_counter()
    slices = slice_report(report, answers, table, brightness)
    times["slices"] = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        files = write_report(
            *(report, answers, facts, folder),
            slices=slices,
            history=history,
            state=state,
            read=lambda _: photo,
        )
        times["figures and card"] = time.perf_counter()
        num_bytes = sum(Path(uri).stat().st_size for uri in files)
    marks = list(times.values())
    parts = [f"{name} {b - a:.1f} s" for name, a, b in zip(list(times)[1:], marks, marks[1:], strict=False)]
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{args.photos} photos, {len(slices.slices)} slices: {marks[-1] - marks[0]:.1f} s "
        f"({', '.join(parts)})"
    )
    print(f"{len(files)} files, {num_bytes / 1e6:.1f} MB; peak memory of the process {peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
