"""Networks, and model files whose answers are known in advance."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torchvision.models import get_model

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.floor import Floor
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model


def make_resnet(seed: int) -> nn.Module:
    """Make a random network of three poses whose batch norms have statistics as after a training."""
    torch.manual_seed(seed)
    model: nn.Module = get_model("resnet50", num_classes=3).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def save_constant_model(
    folder: Path, chances: Sequence[float], output: str, floor: Floor | None = None
) -> None:
    """Save a model of poses 1 and 2 that gives every photo these chances, at temperature 2.

    Its run is "first" in folder/runs.
    """
    weights = build_model(2).state_dict()
    weights["fc.weight"] = torch.zeros(2, 2048)
    weights["fc.bias"] = torch.log(torch.tensor(chances))
    state = ModelState(
        weights,
        ClassMapping.of_poses([1, 2]),
        {1: "Pose 1", 2: "Pose 2"},
        image_size=64,
        temperature=2.0,
        floor=floor,
        settings={
            **{"run_name": "first", "storage": str(folder / "runs"), "seed": 7, "image_size": 64},
            "sources": ["s3://checkins"],
        },
        versions={"torch": "2.14.7"},
    )
    save_model_files(state, output)
