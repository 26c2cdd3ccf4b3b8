"""The network for predictions computes what the model computes, and disturbs no other model."""

import threading

import pytest
import torch
from models import make_resnet
from torch import nn

from physiq_ray.prediction import network as network_module
from physiq_ray.prediction.network import Network, fold_norms

pytestmark = pytest.mark.slow


def test_folding_the_batch_norms_does_not_change_the_logits():
    model, images = make_resnet(0), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
        fold_norms(model)
        after = model(images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_batch_norms_are_folded_while_another_model_predicts():
    answering, images = make_resnet(1), torch.zeros(1, 3, 64, 64)
    failures, done, num_answers = [], threading.Event(), 0

    def answer():
        nonlocal num_answers
        while not done.is_set():
            try:
                with torch.inference_mode():
                    answering(images)
                num_answers += 1
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=answer)
    thread.start()
    for seed in range(3):
        fold_norms(make_resnet(seed))
    done.set()
    thread.join()
    assert num_answers
    assert not failures


def test_padded_batches_have_only_the_sizes_of_the_warm_up(state, monkeypatch):
    network = Network(state, precision="fp32", use_gpu=False)
    size = state.image_size
    images = torch.randint(0, 256, (7, size, size, 3), dtype=torch.uint8)
    exact, sizes = network.outputs(images), []
    normalise = network_module.normalise

    def note_size(images, **options):
        sizes.append(len(images))
        return normalise(images, **options)

    monkeypatch.setattr(network_module, "normalise", note_size)
    assert network.sizes(7) == (1, 7)  # without padding: a CPU would compute the added photos

    network.pads = True  # as on a GPU
    for count in (1, 2, 3, 5, 7):
        torch.testing.assert_close(network.outputs(images[:count]), exact[:count], rtol=1e-4, atol=1e-5)
    assert sizes == [1, 2, 4, 8, 8]
    assert network.sizes(7) == (1, 2, 4, 8)
    assert network.sizes(16) == (1, 2, 4, 8, 16)
    assert network.sizes(1) == (1,)
    assert network.outputs(images[:0]).shape == (0, 3)
