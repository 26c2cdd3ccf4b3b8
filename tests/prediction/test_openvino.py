"""The network in OpenVINO gives the answers of the network in torch."""

import dataclasses
import importlib.util
import sys
from typing import Any

import pytest
import torch
from models import make_resnet

from physiq_ray.errors import PredictionError
from physiq_ray.floor import Floor
from physiq_ray.prediction import openvino
from physiq_ray.prediction.network import Network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Draw photos that differ: smooth gradients with noise."""
    generator = torch.Generator().manual_seed(3)
    slopes = torch.linspace(0, 255, 64)[None, :, None, None] * torch.rand(5, 1, 1, 3, generator=generator)
    noise = 40 * torch.rand(5, 64, 64, 3, generator=generator)
    return (slopes + noise).clamp(0, 255).to(torch.uint8)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_the_outputs_equal_those_of_torch_for_any_number_of_photos(state: Any, images: torch.Tensor) -> None:
    state = dataclasses.replace(state, state_dict=make_resnet(5).state_dict(), image_size=64)
    unit = torch.nn.functional.normalize(
        torch.rand(3, 2048, generator=torch.Generator().manual_seed(4)), dim=1
    )
    state = dataclasses.replace(state, floor=Floor("distance", 0.5, unit))
    torch_network = Network(state, precision="fp32", use_gpu=False)
    network = openvino.OpenVinoNetwork(state, precision="fp32")

    for count in (1, 2, 5):
        outputs = network.outputs(images[:count])

        assert outputs.shape == (count, 4)  # three poses, and the similarity for the floor
        torch.testing.assert_close(outputs, torch_network.outputs(images[:count]), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_in_the_automatic_precision_probabilities_differ_little(state: Any, images: torch.Tensor) -> None:
    state = dataclasses.replace(state, state_dict=make_resnet(5).state_dict(), image_size=64)
    exact = Network(state, precision="fp32", use_gpu=False).outputs(images).softmax(dim=1)

    outputs = openvino.OpenVinoNetwork(state).outputs(images)

    torch.testing.assert_close(outputs.softmax(dim=1), exact, rtol=0, atol=0.05)


def test_without_the_package_the_remedy_is_named(state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(openvino, "has_openvino", lambda: False)

    with pytest.raises(PredictionError, match=r"pip install 'physiq-ray\[openvino\]'"):
        openvino.OpenVinoNetwork(state)
