"""What a network ready to answer must be: the model's own function, and no danger to another one at work."""

import threading

import torch
from torch import nn
from torchvision.models import get_model

from physiq_ray.prediction.network import Network, _fold_norms


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = get_model("resnet50", num_classes=3).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def test_folding_the_norms_changes_no_answer():
    model, images = make_model(0), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
        _fold_norms(model)
        after = model(images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_a_model_is_made_ready_beside_one_that_answers():
    answering, images = make_model(1), torch.zeros(1, 3, 64, 64)
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
        _fold_norms(make_model(seed))
    done.set()
    thread.join()
    assert num_answers
    assert not failures


def test_a_gpu_computes_only_sizes_that_it_was_warmed_up_with(state):
    network = Network(state, precision="fp32", use_gpu=False)
    size = state.image_size
    images = torch.randint(0, 256, (7, size, size, 3), dtype=torch.uint8)
    exact, sizes = network.logits(images), []
    network._body.register_forward_hook(lambda _module, inputs, _out: sizes.append(len(inputs[0])))
    assert network.sizes(7) == (1, 7)  # a CPU plans a new size quickly, and would compute what is added

    network._pads = True  # as on a GPU
    for count in (1, 2, 3, 5, 7):
        torch.testing.assert_close(network.logits(images[:count]), exact[:count], rtol=1e-4, atol=1e-5)
    assert sizes == [1, 2, 4, 8, 8]
    assert network.sizes(7) == (1, 2, 4, 8)
    assert network.sizes(16) == (1, 2, 4, 8, 16)
    assert network.sizes(1) == (1,)
    assert network.logits(images[:0]).shape == (0, 3)
