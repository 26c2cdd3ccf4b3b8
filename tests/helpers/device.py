"""The device of the GPU tests, and photos and networks for it.

They need a GPU. With TEST_DEVICE=cpu they run on the CPU with small images, to try the tests themselves.
"""

import os

import pytest
import torch
from torch.nn import functional

from physiq_ray.config import Settings
from physiq_ray.model import build_model, normalise
from physiq_ray.training.augment import STRENGTHS, augment
from physiq_ray.training.network import Network

CPU = torch.device("cpu")
DEVICE = CPU if os.environ.get("TEST_DEVICE") == "cpu" else torch.device("cuda", 0)
IS_CUDA = DEVICE.type == "cuda"
SIZE = 224 if IS_CUDA else 64
NUM_CLASSES = 8

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        IS_CUDA and not torch.cuda.is_available(), reason="no CUDA device; TEST_DEVICE=cpu tries the tests"
    ),
]
only_cuda = pytest.mark.skipif(not IS_CUDA, reason="this test is about GPUs only")


def synchronize():
    if IS_CUDA:
        torch.cuda.synchronize()


def make_photos(count, seed=0):
    """Give smooth images, as photos are: uint8 (count, SIZE, SIZE, 3), and their labels, on the CPU."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    images = functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear") * 255
    return images.to(torch.uint8).permute(0, 2, 3, 1).contiguous(), torch.arange(count) % NUM_CLASSES


def make_weights():
    """Give weights with which each block changes its input; random weights start blocks as identities."""
    torch.manual_seed(1)
    weights = build_model(NUM_CLASSES).state_dict()
    return {
        name: torch.full_like(value, 0.2) if name.endswith("bn3.weight") else value
        for name, value in weights.items()
        if not name.startswith("fc.")
    }


def make_network(device=DEVICE, epoch=1, **settings):
    values = {"image_size": SIZE, **settings}
    network = Network(Settings.model_validate(values), NUM_CLASSES, make_weights(), device)
    network.begin_epoch(epoch)
    return network


def take_step(network, images, labels, generator=None, learning_rate=1e-3):
    """Train one step on raw images, changed at random where there is a generator; give its loss."""
    inputs = normalise(images)
    if generator is not None:
        inputs = augment(inputs, STRENGTHS["light"], generator)
    loss = functional.cross_entropy(network.forward(inputs), labels)
    network.backward(loss)
    network.step(learning_rate)
    return loss.detach()


def take_steps(network, count, seed, batch_size=8):
    """Train some steps on one batch with the changes that a seed draws; give the last loss."""
    images, labels = (part.to(network.device) for part in make_photos(batch_size))
    generator = torch.Generator().manual_seed(seed)
    return [take_step(network, images, labels, generator) for _ in range(count)][-1]


def on_host(value):
    """Copy a state's tensors to the host, whatever they are nested in."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().cpu()
    if isinstance(value, dict):
        return {key: on_host(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [on_host(part) for part in value]
    return value


def different(left, right, name="state"):
    """Name the entries of two states on the host that are not equal bit for bit."""
    if isinstance(left, torch.Tensor):
        return [] if torch.equal(left, right) else [name]
    if isinstance(left, dict):
        odd = [f"{name}.{key}" for key in left.keys() ^ right.keys()]
        both = left.keys() & right.keys()
        return odd + [part for key in both for part in different(left[key], right[key], f"{name}.{key}")]
    if isinstance(left, list):
        pairs = enumerate(zip(left, right, strict=True))
        return [part for index, pair in pairs for part in different(*pair, f"{name}.{index}")]
    return [] if left == right else [name]
