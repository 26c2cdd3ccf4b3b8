"""On a GPU and in low precision, the network for predictions computes what the model computes."""

import numpy as np
import pytest
import torch
from device import CPU, DEVICE, IS_CUDA, NUM_CLASSES, SIZE, gpu, make_photos, make_weights, only_cuda

from physiq_ray.checkpoint import ModelState
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model, normalise
from physiq_ray.prediction.network import Network
from physiq_ray.serving.engine import Engine

pytestmark = gpu

POSES = (1, 2, 5, 6, 7, 11, 14, 16)


@pytest.fixture(scope="module")
def state():
    """Give a model whose batch norms have statistics of photos, not the initial 0 and 1."""
    torch.manual_seed(0)
    model = build_model(NUM_CLASSES)
    model.load_state_dict({**model.state_dict(), **make_weights()})
    with torch.inference_mode():
        for seed in range(8):
            model.train()(normalise(make_photos(8, seed)[0]))
    names = {pose_id: str(pose_id) for pose_id in POSES}
    return ModelState(model.state_dict(), ClassMapping.of_poses(POSES), names, image_size=SIZE)


@pytest.fixture(scope="module")
def expected(state):
    """Give the logits of the model itself, in float32 on the CPU, of sixteen photos."""
    with torch.inference_mode():
        return state.build()(normalise(make_photos(16)[0]))


def how_far(logits, expected):
    return float((logits - expected).norm() / expected.norm())


def test_answers_are_the_model_s_in_float32(state, expected):
    network = Network(state, use_gpu=IS_CUDA)
    logits = network.outputs(make_photos(16)[0])
    assert network.device.type == DEVICE.type
    assert (logits.device, logits.dtype) == (CPU, torch.float32)
    assert how_far(logits, expected) < 2e-2
    assert how_far(expected.roll(1, 0), expected) > 4e-2  # the logits of different photos differ more


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_each_precision_gives_nearly_the_same_logits(state, expected, precision):
    logits = Network(state, precision=precision, use_gpu=IS_CUDA).outputs(make_photos(16)[0])
    assert how_far(logits, expected) < 2e-2


def test_a_photo_s_answer_hardly_depends_on_those_that_are_answered_with_it(state, expected):
    network = Network(state, use_gpu=IS_CUDA)
    images, _ = make_photos(16)
    one_by_one = torch.cat([network.outputs(images[row : row + 1]) for row in range(16)])
    assert how_far(one_by_one, expected) < 2e-2


def test_the_service_s_thread_answers_on_the_device(state, expected):
    network = Network(state, use_gpu=IS_CUDA)
    images, _ = make_photos(16)
    engine = Engine(max_batch_size=8, threads=None)
    try:
        futures = [engine.submit(image.numpy(), network) for image in images]
        answers = [future.result(timeout=120) for future in futures]
    finally:
        engine.close()
    assert how_far(torch.from_numpy(np.stack([answer.logits for answer in answers])), expected) < 2e-2


@only_cuda
def test_with_use_gpu_false_an_available_gpu_is_not_used(state, expected):
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    network = Network(state, use_gpu=False)
    assert network.device == CPU
    assert how_far(network.outputs(make_photos(16)[0]), expected) < 2e-2
    assert torch.cuda.memory_stats().get("allocation.all.allocated", 0) == before


@only_cuda
def test_an_available_gpu_is_used_by_default(state):
    assert Network(state).device.type == "cuda"
