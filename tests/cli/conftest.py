"""A model whose answers are known, and `predict` with it."""

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
    """A model that gives every photo pose 2 by 66.5241 %, pose 7 by 24.4728 % and pose 11 by 9.0031 %."""
    folder = tmp_path_factory.mktemp("model")
    weights = build_model(3).state_dict()
    weights["fc.weight"] = torch.zeros_like(weights["fc.weight"])
    weights["fc.bias"] = torch.tensor([0.0, 2.0, 1.0])  # poses 11, 2, 7: string order
    state = ModelState(weights, ClassMapping.of_poses(NAMES), NAMES, image_size=64)
    save_model_files(state, str(folder))
    return folder


@pytest.fixture
def predict(fixed_model, tmp_path, run_here):
    """Give a function that runs predict without figures; stdout comes as bytes.

    Only with an environment of its own it is a process of its own, which imports torch for seconds.
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
