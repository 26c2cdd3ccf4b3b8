"""Measure a model's floor on photos of athletes whom it never saw, and compare what each command refuses.

    physiq-ray demo && python benchmarks/floor.py [--model demo/model] [--athletes 40] [--no-pose 60]

The photos are drawn like the demo's, with another seed. The first table has the AUROC of each score. The
second table has the precision of the answers, the coverage and the refused photos at the model's threshold,
next to what the training measured when it chose the floor. Then predict, batch predict and the service answer
the same photos. The last line is the time that the floor adds to one photo.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from machine import describe_machine

from physiq_ray.checkpoint import ModelState, load_model_state
from physiq_ray.evaluation.choose_floor import auroc
from physiq_ray.evaluation.floor_scores import NULL, score_floor
from physiq_ray.floor import FEATURE_SCORES, SCORES, candidate_score
from physiq_ray.model import NUM_FEATURES
from physiq_ray.prediction.answer import logits_of, make_answer
from physiq_ray.prediction.features import compute_features
from physiq_ray.sample.photos import write_sample_photos

PORT = 8123


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--athletes", type=int, default=40, help="athletes with one photo of each pose")
    parser.add_argument(
        "--no-pose", type=int, default=60, help="photos of no known pose: a share as in the demo"
    )
    parser.add_argument("--same", type=int, default=200, help="photos that all commands answer")
    options = parser.parse_args()
    print(describe_machine("torch", "ray"), end="\n\n")
    state = load_model_state(options.model)
    with tempfile.TemporaryDirectory() as folder:
        sample = write_sample_photos(
            Path(folder),
            num_athletes=options.athletes,
            photos_per_pose=1,
            num_unlabelled=0,
            num_duplicates=0,
            num_poseless=options.no_pose,
            seed=7,
        )
        poses = {
            record["s3Filename"]: record["poseId"]
            for record in json.loads(sample.labels.read_text())
            if isinstance(record.get("s3Filename"), str)
        }
        photos = {
            path: poses[path.name] for path in sorted(Path(folder).rglob("*.jp*g")) if path.name in poses
        }
        read = _print_scores(state, photos)
        print()
        _compare_commands(options.model, read[:: max(1, len(read) // options.same)][: options.same])
    print()
    _print_cost(state)


def _print_scores(state: ModelState, photos: dict[Path, int | None]) -> list[Path]:
    """Print the first two tables; give the photos that could be read: one is truncated."""
    table = pa.table(
        {"uri": [str(path) for path in photos], "size": [path.stat().st_size for path in photos]}
    )
    found = compute_features(table, state)
    pose_ids = [list(photos.values())[row] for row in found.rows.tolist()]
    classes = {pose_id: index for index, pose_id in enumerate(state.class_mapping.pose_ids)}
    labels = np.array([NULL if pose_id is None else classes[pose_id] for pose_id in pose_ids])
    if state.floor is None or state.floor.choice is None:
        raise SystemExit("the model has no floor that a training chose")
    floor, choice = state.floor, state.floor.choice
    with torch.inference_mode():
        outputs = state.build().get_submodule("fc")(found.features)
    logits, column = logits_of(outputs, state), outputs[:, -1]  # the column is there if the score needs it
    is_right = logits.argmax(dim=1).numpy() == labels
    print(
        "| score | AUROC: known pose or none | AUROC: right answer or not | when it was chosen |\n"
        "|---|---|---|---|"
    )
    for name in SCORES:
        areas = "– | –"  # the file has the weights of the chosen score only
        if name not in FEATURE_SCORES or name == floor.score:
            scores = candidate_score(name, logits, state.temperature, column)
            areas = f"{auroc(scores.numpy(), labels != NULL):.3f} | {auroc(scores.numpy(), is_right):.3f}"
        chosen = " (chosen)" if floor.score == name else ""
        print(f"| {name}{chosen} | {areas} | {choice.aurocs.get(name, float('nan')):.3f} |")
    scored = score_floor(outputs, labels, [str(row) for row in range(len(labels))], state)
    print(
        f"\n{scored.num_photos} photos of known poses, {scored.num_null} of none; accuracy "
        f"{is_right[labels != NULL].mean():.1%} without a floor\n\n"
        "| | these photos | when it was chosen |\n|---|---|---|\n"
        f"| precision (wished: {choice.target_precision:.0%}) | {scored.precision:.1%} "
        f"({scored.precision_interval}) | {choice.precision:.1%} |\n"
        f"| coverage | {scored.coverage:.1%} ({scored.coverage_interval}) | {choice.coverage:.1%} |\n"
        f"| refused | {scored.refused or 0:.1%} ({scored.refused_interval}) | {choice.refused or 0:.1%} |"
    )
    return [list(photos)[row] for row in found.rows.tolist()]


def _print_cost(state: ModelState) -> None:
    """Time the last layer and the answer of one photo with and without the floor: the rest is the same."""
    torch.set_num_threads(1)
    features = torch.rand(1, NUM_FEATURES)
    times_us = []
    for model in (replace(state, floor=None), state):
        head = model.build().get_submodule("fc")

        def answer(head: torch.nn.Module = head, model: ModelState = model) -> None:
            make_answer(head(features)[0], model, model.floor)

        with torch.inference_mode():
            times_us.append(statistics.median(timeit.repeat(answer, number=200, repeat=15)) / 200 * 1e6)
    without, with_floor = times_us
    print(f"last layer and answer of a photo: {without:.0f} µs without a floor, {with_floor:.0f} µs with it")


def _compare_commands(model: str, paths: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        addresses = Path(folder, "photos.txt")
        addresses.write_text("".join(f"{path}\n" for path in paths))
        lines = _run("predict", f"@{addresses}", "--model", model, "--format", "jsonl", "--no-figures")
        alone = {
            item["uri"]: item["pose"] and item["pose"]["id"] for item in map(json.loads, lines.splitlines())
        }
        _run("predict", f"@{addresses}", "--model", model, "--output", f"{folder}/answers")
        rows = pq.read_table(f"{folder}/answers").to_pylist()
        batch = {row["uri"]: row["pose_id"] for row in rows}
    with _service(model) as address:
        served = {}
        for path in paths:
            request = urllib.request.Request(f"{address}/v1/predict", path.read_bytes())
            with urllib.request.urlopen(request) as response:
                pose = json.loads(response.read())["pose"]
            served[str(path)] = pose and pose["id"]
    sides = {"predict": alone, "predict --output": batch, "HTTP": served}
    print(
        f"| {len(paths)} photos | refused | other answers than predict | other refusals |\n|---|---|---|---|"
    )
    for name, side in sides.items():
        counts: defaultdict[str, int] = defaultdict(int)
        for path in map(str, paths):
            counts["refused"] += side[path] is None
            counts["answers"] += side[path] != alone[path]
            counts["refusals"] += (side[path] is None) != (alone[path] is None)
        print(f"| {name} | {counts['refused']} | {counts['answers']} | {counts['refusals']} |")


def _run(*words: str) -> str:
    command = [sys.executable, "-m", "physiq_ray.cli", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def _service(model: str) -> Iterator[str]:
    command = [sys.executable, "-m", "physiq_ray.cli", "serve", "--model", model, "--port", str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        address = f"http://127.0.0.1:{PORT}"
        try:
            for _ in range(180):
                try:
                    with urllib.request.urlopen(f"{address}/healthz"):
                        break
                except OSError:
                    time.sleep(1)
            yield address
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
