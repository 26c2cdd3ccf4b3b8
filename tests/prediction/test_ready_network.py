"""What a network ready to answer must be: the model's own function, and no danger to another one at work."""

import threading

import torch
from torch import nn
from torchvision.models import get_model

from physiq_ray.prediction.network import _fold_norms


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
