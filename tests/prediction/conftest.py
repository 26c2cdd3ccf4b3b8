import pytest
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model
from physiq_ray.prediction import Predictor


@pytest.fixture(scope="session")
def state():
    torch.manual_seed(0)
    model = build_model(3)
    return ModelState(
        model.state_dict(),
        ClassMapping.of_poses([7, 11, 2]),
        {2: "Front Double Biceps", 7: "Back Lat Spread", 11: "Abs & Thighs"},
        image_size=64,
        version="0123456789ab",
    )


@pytest.fixture(scope="session")
def predictor(state):
    return Predictor(state, precision="fp32")


@pytest.fixture(scope="session")
def brightness_predictor():
    """Load a network whose pose 1 is the brightness around every 32nd pixel, and whose pose 2 is nothing."""
    weights = {key: torch.zeros_like(tensor) for key, tensor in build_model(2).state_dict().items()}
    for key, tensor in weights.items():
        if ("bn" in key or "downsample.1" in key) and key.endswith(("weight", "running_var")):
            tensor.fill_(1)
    weights["conv1.weight"][0] = 1 / 147  # the mean of 7 x 7 pixels in three colours
    for layer in range(1, 5):
        weights[f"layer{layer}.0.downsample.0.weight"][0, 0] = 1
    weights["fc.weight"][0, 0] = 1
    state = ModelState(weights, ClassMapping.of_poses([1, 2]), {1: "Bright", 2: "Nothing"}, image_size=224)
    return Predictor(state, precision="fp32")
