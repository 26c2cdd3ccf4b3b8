"""A GPU computes what the CPU does: augmentation, resizing, loss and gradients in each precision."""

import pytest
import torch
from device import CPU, DEVICE, SIZE, gpu, make_network, make_photos, take_step
from torch.nn import functional

from physiq_ray.model import normalise
from physiq_ray.training.augment import STRENGTHS, augment, shrink

pytestmark = gpu


@pytest.fixture
def allow_tf32():
    """Give a function that says whether cuDNN may round to TF32, which is as before afterwards."""
    before = torch.backends.cudnn.allow_tf32

    def allow(allowed):
        torch.backends.cudnn.allow_tf32 = allowed

    yield allow
    allow(before)


@pytest.mark.parametrize("name", STRENGTHS)
def test_a_seed_draws_the_same_changes_for_cpu_and_gpu(name):
    images, _ = make_photos(16)
    changed = [
        augment(normalise(images.to(device)), STRENGTHS[name], torch.Generator().manual_seed(1)).cpu()
        for device in (CPU, DEVICE)
    ]
    # A pixel on the edge of an erased rectangle may fall on either side.
    assert float(((changed[0] - changed[1]).abs() > 2e-3).float().mean()) < 1e-3
    assert float((changed[1] - normalise(images)).abs().mean()) > 0.05
    assert changed[1].is_contiguous(memory_format=torch.channels_last)


def test_cpu_and_gpu_shrink_alike():
    inputs = normalise(make_photos(16)[0])
    small = shrink(inputs.to(DEVICE), 48).cpu()
    assert small.shape == (16, 3, 48, 48)
    torch.testing.assert_close(small, shrink(inputs, 48), rtol=0, atol=1e-3)


def loss_and_gradients(device, precision):
    """Give the loss of a step and all its gradients: Adam's first moment is then a tenth of them."""
    network = make_network(device, precision=precision)
    state = network.state()
    if precision == "fp16":  # the first scale may be too high for the first steps, which are then left out
        network.load({**state, "scaler": {**state["scaler"], "scale": 2.0**8}})
    images, labels = (part.to(device) for part in make_photos(16))
    loss = float(take_step(network, images, labels))
    moments = [state["exp_avg"] for state in network.state()["optimizer"]["state"].values()]
    assert len(moments) == 161  # of ResNet50's parameters
    return loss, torch.cat([moment.flatten().cpu() * 10 for moment in moments])


@pytest.mark.parametrize(
    ("precision", "tf32", "loss_limit", "gradient_limit"),
    [
        ("fp32", False, 1e-4, 2e-2),
        ("fp32", True, 2e-2, 0.3),
        ("bf16", True, 5e-2, 0.6),
        ("fp16", True, 2e-2, 0.3),
    ],
)
def test_loss_and_gradients_are_the_cpu_s_in_fp32(allow_tf32, precision, tf32, loss_limit, gradient_limit):
    allow_tf32(tf32)
    expected_loss, expected = loss_and_gradients(CPU, "fp32")
    loss, gradients = loss_and_gradients(DEVICE, precision)
    assert abs(loss - expected_loss) < loss_limit * expected_loss
    assert float((gradients - expected).norm() / expected.norm()) < gradient_limit


@pytest.mark.parametrize("settings", [{}, {"head_epochs": 1, "epochs": 2}])
def test_gradients_lie_in_memory_as_their_weights_do(settings):
    # Else the fused Adam refuses them, or walks through memory with strides that do not match.
    network = make_network(batch_size=8, **settings)
    images, labels = (part.to(DEVICE) for part in make_photos(8))
    for epoch in (1, 2):
        network.begin_epoch(epoch)
        functional.cross_entropy(network.forward(normalise(images)), labels).backward()
        with_gradient = [weight for weight in network.to_evaluate.parameters() if weight.grad is not None]
        assert len(with_gradient) == (2 if settings and epoch == 1 else 161)
        assert [w.shape for w in with_gradient if w.stride() != w.grad.stride()] == []
        assert images.shape == (8, SIZE, SIZE, 3)
        network.step(1e-3)
