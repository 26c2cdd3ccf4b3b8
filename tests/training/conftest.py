"""Photos that a few steps can learn, and quick training runs on them."""

import contextlib
import io
import json
import re

import numpy as np
import psutil
import pytest
from PIL import Image
from rich.console import Console

from physiq_ray.config import Settings
from physiq_ray.progress import Display
from physiq_ray.training.run import train


def coloured_photo(seed, colour):
    """Draw noise around a colour: a class that a few steps can learn."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(np.array(colour) + rng.normal(0, 30, (80, 60, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


class Watched(io.StringIO):
    """A console's file that passes all text written so far to a function."""

    def __init__(self, on_text):
        super().__init__()
        self.on_text = on_text

    def write(self, text):
        super().write(text)
        if self.on_text is not None:
            self.on_text(self.getvalue())
        return len(text)


@pytest.fixture
def training_workers():
    """Give a function that finds the processes of Ray Train's workers started under this process."""

    def find():
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[0].startswith("ray::RayTrainWorker"):
                    found.append(process)
        return found

    return find


@pytest.fixture
def rows():
    """Give a function that reads the epoch table's lines, without their times, from what was shown."""

    def read(shown):
        lines = [line for line in shown.splitlines() if re.match(r" *\d+/\d+ ", line)]
        return [re.sub(r" +[\d.]+ s ", " ", line).split(maxsplit=5) for line in lines]

    return read


@pytest.fixture
def pose_folders(tmp_path):
    """Give a function that makes folders of photos from pose id → number, and returns their parent."""

    def make(counts):
        for pose_id, count in counts.items():
            folder = tmp_path / "photos" / str(pose_id)
            folder.mkdir(parents=True)
            for number in range(count):
                colour = (200, 60, 60) if pose_id == min(counts) else (60, 60, 200)
                (folder / f"{pose_id}-{number}.jpeg").write_bytes(coloured_photo((pose_id, number), colour))
        return tmp_path / "photos"

    return make


@pytest.fixture
def run(tmp_path, ray_local):
    """Give a function that trains with quick settings and returns (result, what was shown).

    on_text: called with all that was shown so far, whenever something is.
    """
    poses = tmp_path / "poses.json"
    poses.write_text(json.dumps([{"id": n, "name": f"Pose {n}"} for n in (1, 2, 5)]))
    (tmp_path / "labels.json").write_text("[]")

    def call(*, resume=False, on_text=None, **settings):
        out = Watched(on_text)
        quick = {
            "poses": str(poses),
            "labels": str(tmp_path / "labels.json"),
            "output": str(tmp_path / "model"),
            "storage": str(tmp_path / "runs"),
            "weights": "random",
            "image_size": 64,
            "batch_size": 4,
            "epochs": 2,
            "learning_rate": 1e-3,
            "precision": "fp32",
        }
        display = Display(Console(file=out, width=200))
        return train(Settings.model_validate({**quick, **settings}), display, resume=resume), out.getvalue()

    return call
