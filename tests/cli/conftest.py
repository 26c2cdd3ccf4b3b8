"""A model with known answers, and `predict` with this model."""

import os
import subprocess
import sys

import pytest
import torch

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model

NAMES = {2: "Front Double Biceps", 7: "@Übung", 11: "Abs & Thighs"}


@pytest.fixture(scope="session")
def fixed_model(tmp_path_factory):
    """Save a model with the same answer for every photo: pose 2: 66.5241 %, 7: 24.4728 %, 11: 9.0031 %."""
    folder = tmp_path_factory.mktemp("model")
    weights = build_model(3).state_dict()
    weights["fc.weight"] = torch.zeros_like(weights["fc.weight"])
    weights["fc.bias"] = torch.tensor([0.0, 2.0, 1.0])  # for the classes in string order: poses 11, 2, 7
    state = ModelState(weights, ClassMapping.of_poses(NAMES), NAMES, image_size=64)
    save_model_files(state, str(folder))
    return folder


@pytest.fixture
def predict(fixed_model, tmp_path, run_here):
    """Give a function that runs predict without figures; its stdout and stderr are bytes.

    With env, it runs in a new process, which needs seconds to import torch; else in this one.
    """

    def run(*args, env=None):
        arguments = ["predict", "--model", str(fixed_model), "--no-figures", *args]
        if env is not None:
            return subprocess.run(
                [sys.executable, "-m", "physiq_ray.cli", *arguments],
                cwd=tmp_path,
                env={**os.environ, **env},
                capture_output=True,
                timeout=120,
                check=False,
            )
        done = run_here(*arguments)
        return subprocess.CompletedProcess(
            arguments, done.returncode, done.stdout.encode(), done.stderr.encode()
        )

    return run
