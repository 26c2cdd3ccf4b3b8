"""The demo: photos in a local S3 server, a training and one prediction, all on one machine.

All files are written into one folder:

    photos/          the generated photos, one sub-folder per bucket (not with the user's own photos)
    runs/            Ray's checkpoints
    model/           the two model files, class mapping, history, quarantine list
    prediction.png   a photo that was not used for training, with its probability bars
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physiq_ray.checkpoint import load_model_state
from physiq_ray.config import load_settings
from physiq_ray.errors import DataError, WeightsError
from physiq_ray.labels import load_configured_labels, load_configured_poses
from physiq_ray.model import load_starting_weights
from physiq_ray.prediction import Prediction, Predictor, write_figure
from physiq_ray.progress import Display
from physiq_ray.sample.photos import SOURCES, write_sample_photos
from physiq_ray.sample.server import LocalS3
from physiq_ray.sample.weed import find_binary
from physiq_ray.storage import is_photo, read_bytes
from physiq_ray.training.finish import TrainingResult
from physiq_ray.training.run import train
from physiq_ray.training.tracking import require_tracking

GENERATED: Mapping[str, Any] = {"num_athletes": 40, "photos_per_pose": 2, "num_poseless": 120, "seed": 40}
# Random weights need small images, many small steps, and a high peak learning rate that falls to zero.
FROM_RANDOM: Mapping[str, Any] = {"weights": "random", "batch_size": 16, "schedule": "cosine"}
GENERATED_FROM_RANDOM: Mapping[str, Any] = {
    **FROM_RANDOM,
    **{"image_size": 64, "learning_rate": 2e-3, "warmup_epochs": 1.5, "label_smoothing": 0.05},
    **{"epochs": 12, "patience": 12},
    # Nine of ten answers are right after a few minutes: the default would refuse a third of the poses.
    "target_precision": 0.85,
}
OWN_FROM_RANDOM: Mapping[str, Any] = {
    **FROM_RANDOM,
    **{"image_size": 128, "learning_rate": 1e-3, "warmup_epochs": 2, "label_smoothing": 0.05},
    **{"epochs": 36, "patience": 36},
}
FROM_IMAGENET: Mapping[str, Any] = {"image_size": 128, "epochs": 6, "patience": 3}


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo; truth: the pose that was drawn, if it is known."""

    training: TrainingResult
    prediction: Prediction
    figure: str
    truth: str | None
    next_steps: str


def run_demo(
    folder: Path,
    display: Display,
    *,
    flags: Mapping[str, Any],
    photos: Path | None = None,
    labels: Sequence[str] = (),
    debug: bool = False,
) -> DemoResult:
    """Train on generated photos, or on the user's own photos.

    flags: settings that replace those of the demo. photos: the folder of the user's photos; each sub-folder
    becomes a bucket. labels: the label files of these photos.
    Raises PhysiqError.
    """
    folder = folder.absolute()
    weights, recipe = _choose_weights(flags, display, own_photos=photos is not None)
    own: dict[str, Any] = {
        **recipe,
        "weights": weights,
        "output": str(folder / "model"),
        "storage": str(folder / "runs"),
    }
    truth = holdout = None
    poses = _check_before({**own, "labels": labels} if labels else own, flags)
    buckets = find_buckets(photos) if photos is not None else {}
    if photos is None:
        display.note(f"drawing sample photos into {folder / 'photos'}")
        sample = write_sample_photos(folder / "photos", **GENERATED)
        buckets = dict(sample.buckets)
        own |= {
            "labels": str(sample.labels),
            "source_buckets": {source: bucket for bucket, source in SOURCES.items()},
            "group_pattern": r"athlete-\d+",  # no athlete is in both training and validation
        }
        holdout = str(sample.holdout)
        truth = f"drawn as {poses.get(sample.holdout_pose_id, sample.holdout_pose_id)}"
    else:
        own["labels"] = tuple(labels)
    own["sources"] = tuple(f"s3://{name}" for name in buckets)
    settings = load_settings(flags, defaults=own)

    with LocalS3() as server, _environment(server.environment):
        display.note(f"local S3 server at {server.endpoint_url} with {', '.join(buckets)}")
        for name, path in buckets.items():
            server.create_bucket(name)
            server.upload_folder(path, name)
        training = train(settings, display, local=True, debug=debug)
        state = load_model_state(settings.output)
        figure = str(folder / "prediction.png")
        uri = holdout or training.validation_uris[0]
        data = read_bytes(uri)
        prediction = Predictor(state, precision=settings.precision).predict(data, uri=uri)
        write_figure(prediction, data, figure)
    return DemoResult(training, prediction, figure, truth, _next_steps(folder, holdout))


def _check_before(own: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[int, str]:
    """Find the errors that would otherwise appear after minutes of drawing; give the names of the poses.

    Raises PhysiqError: a setting is wrong, poses or labels cannot be read, or a package is missing.
    """
    settings = load_settings(flags, defaults=own)
    require_tracking(settings.mlflow)
    find_binary()
    poses = load_configured_poses(settings)
    if "labels" in own:
        load_configured_labels(settings, poses)
    return poses


def find_buckets(photos: Path) -> dict[str, Path]:
    """Name a bucket for each sub-folder, or for the folder itself if it has no sub-folders.

    Raises DataError: the folder does not exist, or contains no photo.
    """
    if not photos.is_dir():
        raise DataError(f"--photos {photos}: no such folder")
    folders = sorted(path for path in photos.iterdir() if path.is_dir() and not path.name.startswith("."))
    buckets: dict[str, Path] = {}
    for path in folders or [photos.absolute()]:
        if not any(is_photo(file.name) for file in path.rglob("*")):
            continue
        # The name of a bucket has at least three characters: lower-case letters, digits and hyphens.
        name = re.sub(r"[^a-z0-9]+", "-", path.name.lower()).strip("-")[:50].rstrip("-")
        name = name if len(name) >= 3 else f"photos-{name or len(buckets)}"
        buckets[name if name not in buckets else f"{name}-{len(buckets)}"] = path
    if not buckets:
        raise DataError(f"--photos {photos}: no photos in it or its sub-folders")
    return buckets


def _choose_weights(
    flags: Mapping[str, Any], display: Display, *, own_photos: bool
) -> tuple[str, Mapping[str, Any]]:
    from_random = OWN_FROM_RANDOM if own_photos else GENERATED_FROM_RANDOM
    wanted = flags.get("weights") or os.environ.get("PHYSIQ_WEIGHTS") or "imagenet"
    if wanted == "random":
        return wanted, from_random
    try:
        load_starting_weights(wanted)
    except WeightsError as error:
        if wanted != "imagenet":
            raise
        display.note(f"starting from random weights: {error}")
        return "random", from_random
    return wanted, FROM_IMAGENET


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for Ray's processes to inherit, and restore the old values afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _next_steps(folder: Path, holdout: str | None) -> str:
    try:
        shown = folder.relative_to(Path.cwd())
    except ValueError:
        shown = folder
    photo = f"{shown}/photos/holdout.jpeg" if holdout else "PHOTO.jpg"
    return (
        f"Everything is in {shown}/. Next:\n"
        f"  physiq-ray predict {photo} --model {shown}/model\n"
        f"  physiq-ray serve --model {shown}/model\n"
        f"  physiq-ray demo --photos YOUR-FOLDER --labels YOUR-LABELS.json\n"
        f"  physiq-ray train --sources s3://YOUR-BUCKET --labels YOUR-LABELS.json"
    )
