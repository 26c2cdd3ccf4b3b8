"""Measure what labels are worth that a person gives in `review`, compared with as many at random.

    python benchmarks/loop.py [--seeds 5] [--reviewed 40] [--thin-poses 3]

The demo's photos are drawn, and the photos of some athletes have labels; of some poses, most of these labels
are missing. The commands then do one round for each seed, which also chooses these athletes and poses:

    train     on the labelled photos, from random weights
    predict   --draft-labels for all others
    review    --merge: an oracle that knows the true poses answers the first photos over HTTP
    train     from the first model, on all labels by now; and again with as many labels at random instead

All models are scored on photos of other athletes. The figures are no timings, so a busy machine does not
change them; they depend on the processor, because it decides the precision.
"""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from machine import describe_machine

from physiq_ray.checkpoint import load_model_state
from physiq_ray.demo import GENERATED, GENERATED_FROM_RANDOM
from physiq_ray.ingest import StoredPhotos
from physiq_ray.ingest.reading import read_photos
from physiq_ray.prediction.network import Network
from physiq_ray.sample.photos import write_sample_photos
from physiq_ray.storage import current_access

LABELLED_ATHLETES = 16
KEPT_OF_THIN = 6  # one of so many labels
FIRST_EPOCHS = 20
ATHLETE = r"athlete-\d+"
Poses = dict[Path, int]


def draw_photos(folder: Path, seed: int) -> Poses:
    """Draw photos of known poses; give their true poses."""
    only_poses = {"num_unlabelled": 0, "num_duplicates": 0, "num_poseless": 0, "seed": seed}
    sample = write_sample_photos(folder, **(GENERATED | only_poses))
    poses = {record["s3Filename"]: record["poseId"] for record in json.loads(sample.labels.read_text())}
    return {path: poses[path.name] for path in sorted(folder.rglob("*.jpeg")) if path.name in poses}


def divide(photos: Poses, thin_poses: int, rng: np.random.Generator) -> tuple[Poses, Poses]:
    """Divide the photos into those with a label and those without."""
    athletes = {path: re.search(ATHLETE, str(path))[0] for path in photos}
    names = sorted(set(athletes.values()))
    chosen = set(rng.choice(names, LABELLED_ATHLETES, replace=False))
    thin = set(rng.choice(sorted(set(photos.values())), thin_poses, replace=False))
    labelled: Poses = {}
    seen: dict[int, int] = {}
    for path, pose_id in photos.items():
        if athletes[path] in chosen:
            seen[pose_id] = seen.get(pose_id, 0) + 1
            if pose_id not in thin or seen[pose_id] % KEPT_OF_THIN == 1:
                labelled[path] = pose_id
    return labelled, {path: pose for path, pose in photos.items() if path not in labelled}


def run(*words: object) -> None:
    """Run a command of physiq-ray."""
    command = [sys.executable, "-m", "physiq_ray.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Status 1: a photo of the sample is truncated.
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stderr}")


def write_labels(labelled: Poses, path: Path) -> Path:
    """Write a label file."""
    path.write_text(json.dumps([{"s3Filename": str(p), "poseId": pose} for p, pose in labelled.items()]))
    return path


def review(flags: list[str], labels: Path, drafts: Path, truth: Poses, num_photos: int, folder: Path) -> None:
    """Answer the first photos of a review with their true poses, and let it merge them."""
    command = [sys.executable, "-m", "physiq_ray.cli", "review", *flags, "--labels", str(labels)]
    command += ["--drafts", str(drafts), "--merge", "--port", "0", "--journals", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().split()[0]

    def ask(path: str, body: Any = None, **headers: str) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"} | headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    by_name = {path.name: pose for path, pose in truth.items()}
    started = ask("session")["review"]
    for item in ask(f"queue?from=0&count={num_photos}")["items"]:
        body = {"row": item["row"], "pose": by_name[Path(item["key"]).name]}
        ask("decide", body, **{"X-Review": started})
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def score(model: Path, photos: Poses) -> float:
    """Give the share of photos whose pose is predicted rightly."""
    state = load_model_state(str(model))
    network, reader = Network(state), StoredPhotos(current_access())
    paths, right, num_read = list(photos), 0, 0
    for start in range(0, len(paths), 64):
        part = paths[start : start + 64]
        sizes = [path.stat().st_size for path in part]
        table = pa.table({"uri": [str(path) for path in part], "size": sizes})
        read = read_photos(table, image_size=state.image_size, reader=reader)
        good = np.flatnonzero(np.array(read.errors) == "")
        outputs = network.outputs(torch.from_numpy(read.images[good]))
        pose_ids = np.array(state.class_mapping.pose_ids)
        predicted = pose_ids[outputs[:, : len(pose_ids)].argmax(dim=1).numpy()]
        right += int((predicted == np.array([photos[part[row]] for row in good])).sum())
        num_read += len(good)
    return right / num_read


def play_round(seed: int, photos: Poses, test: Poses, args: argparse.Namespace, folder: Path) -> list[float]:
    """Give the accuracies of one round: before, with reviewed labels, with labels at random."""
    rng = np.random.default_rng(seed)
    labelled, unlabelled = divide(photos, args.thin_poses, rng)
    sources = sorted({str(path.parents[1]) for path in photos})
    flags = ["--sources", *sources, "--group-pattern", ATHLETE]
    recipe = {
        **GENERATED_FROM_RANDOM,
        **{"validation_share": 0.15, "seed": seed, "epochs": FIRST_EPOCHS, "patience": FIRST_EPOCHS},
    }

    def train(name: str, labels: Path, **more: object) -> Path:
        words = [w for key, value in (recipe | more).items() for w in (f"--{key.replace('_', '-')}", value)]
        place = ["--storage", folder / "runs", "--run-name", name, "--output", folder / name]
        run("train", *flags, "--labels", labels, *words, *place)
        return folder / name

    start = write_labels(labelled, folder / "labels.json")
    first = train("first", start)
    drafts = folder / "drafts.jsonl"
    run("predict", *sources, "--model", first, "--labels", start, "--draft-labels", drafts)
    at_random = rng.choice(len(unlabelled), args.reviewed, replace=False)
    drawn = {path: pose for number, (path, pose) in enumerate(unlabelled.items()) if number in at_random}
    random_labels = write_labels(labelled | drawn, folder / "random.json")
    review(flags, start, drafts, photos, args.reviewed, folder)
    num_labels = [len(json.loads(path.read_text())) for path in (start, random_labels)]
    assert num_labels == [len(labelled) + args.reviewed] * 2, num_labels
    again = {
        **{"weights": first / "pose_classifier_complete.pth", "learning_rate": 1e-3, "warmup_epochs": 0.5},
        **{"epochs": args.epochs, "patience": args.epochs},
    }
    models = [first, train("reviewed", start, **again), train("random", random_labels, **again)]
    return [score(model, test) for model in models]


def main() -> None:
    """Draw the photos, play the rounds, and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument("--reviewed", type=int, default=40, help="photos that get a label (default: 40)")
    parser.add_argument("--thin-poses", type=int, default=3, help="poses with few labels (default: 3)")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the second training (default: 8)")
    args = parser.parse_args()
    print(describe_machine("torch", "ray"))
    gains = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos, test = draw_photos(folder / "photos", 40), draw_photos(folder / "test", 777)
        print(f"{len(photos)} photos to label, {len(test)} of other athletes to score with")
        print("seed  before  reviewed  random  gain", flush=True)
        for seed in range(1, args.seeds + 1):
            place, started_s = folder / f"seed-{seed}", time.monotonic()
            place.mkdir()
            before, reviewed, drawn = play_round(seed, photos, test, args, place)
            gains.append(reviewed - drawn)
            seconds = time.monotonic() - started_s
            print(
                f"{seed:>4}  {before:>6.1%}  {reviewed:>8.1%}  {drawn:>6.1%}  {100 * gains[-1]:>+4.1f} points"
                f"  ({seconds:.0f} s)",
                flush=True,
            )
            shutil.rmtree(place)
    print(
        f"median gain of {args.reviewed} reviewed labels over random ones: {100 * median(gains):+.1f} points"
    )


if __name__ == "__main__":
    main()
