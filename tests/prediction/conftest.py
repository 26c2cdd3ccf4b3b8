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
