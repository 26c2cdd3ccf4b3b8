"""Training on a GPU: equal runs, resumed ones, checkpoints copied beside the next step, too little memory."""

import io

import pytest
import torch
from device import (
    CPU,
    DEVICE,
    IS_CUDA,
    SIZE,
    different,
    gpu,
    make_network,
    make_photos,
    on_host,
    only_cuda,
    synchronize,
    take_step,
    take_steps,
)
from torch.nn import functional

from physiq_ray.model import normalise
from physiq_ray.training.faults import is_out_of_memory
from physiq_ray.training.loop import set_up_cudnn
from physiq_ray.training.saving import HostCopy

# torch.compile warns about code of torch, which this project cannot change.
pytestmark = [*gpu, pytest.mark.filterwarnings("ignore")]

# Float16 is slow on a CPU.
NUM_STEPS, BATCH_SIZE = (3, 8) if IS_CUDA else (1, 2)


@pytest.fixture(autouse=True)
def reproducible():
    """Let cuDNN compute alike each time, as reproducible=yes does."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    set_up_cudnn("yes")
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.fixture
def compiles(monkeypatch):
    """Clear the caches of torch.compile; on a CPU it only traces, because compiling takes minutes there."""
    torch._dynamo.reset()
    if not IS_CUDA:
        compile_module = torch.nn.Module.compile
        monkeypatch.setattr(
            torch.nn.Module,
            "compile",
            lambda module, **options: compile_module(module, backend="eager", **options),
        )
    yield
    torch._dynamo.reset()


def num_compiled():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema_decay": 0.99},
        {"precision": "fp16"},
        {"precision": "fp16", "ema_decay": 0.99, "max_gradient_norm": 0.5},
    ],
)
def test_a_resumed_network_equals_the_uninterrupted_one_bit_for_bit(settings):
    straight = make_network(**settings)
    state = straight.state()
    if "scaler" in state:  # lower than the first one, with which steps may be left out
        straight.load({**state, "scaler": {**state["scaler"], "scale": 2.0**8}})
    take_steps(straight, NUM_STEPS, seed=1, batch_size=BATCH_SIZE)
    file = io.BytesIO()
    torch.save(HostCopy(straight.state(), DEVICE).wait(), file)
    file.seek(0)
    resumed = make_network(**settings)
    resumed.load(torch.load(file, map_location="cpu", weights_only=True))
    before = on_host(straight.state())
    assert different(before, on_host(resumed.state())) == []
    for network in (straight, resumed):
        network.begin_epoch(2)
        take_steps(network, NUM_STEPS, seed=2, batch_size=BATCH_SIZE)
    after = on_host(straight.state())
    assert different(after, on_host(resumed.state())) == []
    assert ("scaler" in after, "averaged" in after) == ("precision" in settings, "ema_decay" in settings)
    parts = {name.split(".")[1] for name in different(before, after)}
    assert {"model", "optimizer"} <= parts


@pytest.mark.parametrize("compiled", ["no", "yes"])
def test_reproducible_runs_are_equal_bit_for_bit(compiles, compiled):
    states = []
    for _ in range(2):
        torch._dynamo.reset()
        network = make_network(compile=compiled, batch_size=8)
        take_steps(network, 10 if IS_CUDA else 3, seed=3)
        states.append(on_host(network.state()))
    assert different(*states) == []
    other = make_network(batch_size=8)
    take_steps(other, 1, seed=4)
    assert different(states[0], on_host(other.state())) != []


def test_compiled_gradients_lie_in_memory_as_their_weights_do(compiles):
    network = make_network(compile="yes", batch_size=8)
    images, labels = (part.to(DEVICE) for part in make_photos(8))
    functional.cross_entropy(network.forward(normalise(images)), labels).backward()
    weights = list(network.to_evaluate.parameters())
    assert [w.shape for w in weights if w.stride() != w.grad.stride()] == []
    network.step(1e-3)


def test_a_compiled_network_computes_what_the_eager_one_does(compiles):
    images, labels = (part.to(DEVICE) for part in make_photos(8))
    losses = []
    for compiled in ("no", "yes"):
        network = make_network(compile=compiled, batch_size=8, precision="fp32")
        losses.append([float(take_step(network, images, labels, learning_rate=1e-4)) for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert losses[0][2] != losses[0][0]


def test_an_odd_last_batch_is_trained_and_evaluated_without_compiling_for_it(compiles):
    network = make_network(compile="yes", batch_size=8)
    images, labels = (part.to(DEVICE) for part in make_photos(8))

    def train_and_evaluate(size):
        loss = take_step(network, images[:size], labels[:size])
        logits = network.evaluate(normalise(images[:size]))
        assert logits.shape == (size, 8)
        assert bool(torch.isfinite(logits).all() & torch.isfinite(loss))

    before = num_compiled()
    train_and_evaluate(8)
    compiled = num_compiled()
    assert compiled > before
    weight = on_host(network.state()["model"]["conv1.weight"])
    for size in (5, 3):
        train_and_evaluate(size)
    assert not torch.equal(on_host(network.state()["model"]["conv1.weight"]), weight)
    network.begin_epoch(2)
    train_and_evaluate(8)
    assert num_compiled() == compiled


def test_a_copy_holds_the_state_at_the_time_of_the_copy_while_the_next_steps_run():
    network = make_network(ema_decay=0.9)
    images, labels = (part.to(DEVICE) for part in make_photos(8))
    for _ in range(2):
        take_step(network, images, labels)
    state = network.state()
    expected = {
        "model": {name: value.clone() for name, value in state["model"].items()},
        "averaged": {name: value.clone() for name, value in state["averaged"].items()},
        "moments": [entry["exp_avg"].clone() for entry in state["optimizer"]["state"].values()],
    }
    synchronize()
    if IS_CUDA:
        torch.cuda._sleep(200_000_000)  # a tenth of a second, in which nothing of what follows is done
    copy = HostCopy(state, DEVICE)
    for _ in range(3):
        take_step(network, images, labels)
    copied = copy.wait()
    # What the host has now, before anything else waits for the device.
    held = on_host(
        {
            "model": copied["model"],
            "averaged": copied["averaged"],
            "moments": [entry["exp_avg"] for entry in copied["optimizer"]["state"].values()],
        }
    )
    assert copied["model"]["conv1.weight"].device == CPU
    assert copied["model"]["conv1.weight"].stride() == state["model"]["conv1.weight"].stride()
    assert different(on_host(expected), held) == []
    later = on_host(network.state())
    assert not torch.equal(later["model"]["conv1.weight"], held["model"]["conv1.weight"])


def test_too_little_memory_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, device=DEVICE)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2, 3, device=DEVICE) @ torch.empty(2, 3, device=DEVICE)
    assert not is_out_of_memory(caught.value)


@only_cuda
def test_after_a_step_without_enough_memory_smaller_steps_succeed():
    network = make_network()
    images, labels = (part.to(DEVICE) for part in make_photos(8))
    take_step(network, images, labels)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total, DEVICE)
    try:
        with pytest.raises(RuntimeError) as caught:
            network.forward(torch.zeros(512, 3, SIZE, SIZE, device=DEVICE))
        assert is_out_of_memory(caught.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    assert bool(torch.isfinite(take_step(network, images, labels)))
