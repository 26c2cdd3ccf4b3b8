import io

import pytest
import torch
from torch.nn import functional

from physiq_ray.config import Settings
from physiq_ray.training.loop import set_up_cudnn
from physiq_ray.training.network import Network, weights_to_keep

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def network():
    """Give a function that makes a network of three poses with these settings, in its first epoch."""

    def make(epoch=1, **settings):
        made = Network(Settings(**{"precision": "fp32", **settings}), (1, 2, 3), None, CPU)
        made.begin_epoch(epoch)
        return made

    return make


@pytest.fixture
def take_step():
    """Give a function that takes one step on the same four noisy images.

    They are small by default, because CPUs emulate float16: a step at 16 px takes 4 s, and at 64 px 15 s.
    """

    def step(network, learning_rate=1e-3, size=16):
        images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
        network.backward(functional.cross_entropy(network.forward(images), torch.tensor([0, 1, 2, 0])))
        network.step(learning_rate)

    return step


def copied(network):
    return {key: value.clone() for key, value in network.state()["model"].items()}


def changed(network, before):
    after = network.state()["model"]
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


def test_the_head_s_epochs_leave_the_backbone_and_its_statistics_alone(network, take_step):
    made = network(head_epochs=1)
    before = copied(made)
    take_step(made)
    assert changed(made, before) == {"fc.weight", "fc.bias"}
    made.begin_epoch(2)
    take_step(made)
    assert {"conv1.weight", "bn1.running_mean", "bn1.bias"} <= changed(made, before)


def test_the_backbone_s_rate_is_its_share_of_the_head_s(network, take_step):
    made = network(backbone_rate=0.0)
    before = copied(made)
    take_step(made)
    weights = {key for key in changed(made, before) if "running" not in key and "num_batches" not in key}
    assert weights == {"fc.weight", "fc.bias"}


def test_gradients_are_clipped_to_max_gradient_norm(network, take_step):
    # Adam divides by the gradient's size plus 1e-8: gradients far under that hardly move a weight.
    free, short = network(), network(max_gradient_norm=1e-14)
    for made in (free, short):
        before = copied(made)["fc.weight"]
        take_step(made, learning_rate=1e-2)
        made.moved = float((made.state()["model"]["fc.weight"] - before).abs().max())
    assert free.moved > 5e-3
    assert short.moved < 1e-5


def test_the_average_of_the_weights_follows_the_first_steps_quickly(network, take_step):
    made = network(ema_decay=0.999)
    first = copied(made)["fc.weight"]
    take_step(made)
    second = copied(made)["fc.weight"]
    # (1 + 0) / (10 + 0) of the old, the rest of the new.
    torch.testing.assert_close(weights_to_keep(made.state())["fc.weight"], 0.1 * first + 0.9 * second)
    averaged = made.to_evaluate.state_dict()["fc.weight"].clone()
    take_step(made)
    third = copied(made)["fc.weight"]
    torch.testing.assert_close(weights_to_keep(made.state())["fc.weight"], 2 / 11 * averaged + 9 / 11 * third)


def test_the_average_includes_the_statistics_and_no_integers(network, take_step):
    made = network(ema_decay=0.5)
    first = made.state()["model"]["bn1.running_var"].clone()
    take_step(made)
    second, averaged = made.state()["model"], weights_to_keep(made.state())
    assert not torch.equal(second["bn1.running_var"], first)
    expected = 0.1 * first + 0.9 * second["bn1.running_var"]
    torch.testing.assert_close(averaged["bn1.running_var"], expected)
    # Each count of batches would be an operation of its own on a GPU, and nothing reads it.
    assert (second["bn1.num_batches_tracked"], averaged["bn1.num_batches_tracked"]) == (1, 0)
    assert not any(value.requires_grad for value in made.to_evaluate.parameters())


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, {"max_gradient_norm": 1e6}, {"max_gradient_norm": 0.5}])
def test_fp16_s_gradients_are_those_of_fp32_though_its_loss_is_scaled(network, take_step, settings):
    # Adam's first moment after a step is a tenth of the gradient.
    moments = []
    for precision in ("fp32", "fp16"):
        made = network(precision=precision, **settings)
        take_step(made, size=64)  # with one pixel a photo in the last layers, rounding decides the norms
        moments.append(made.state()["optimizer"]["state"][159]["exp_avg"])
    torch.testing.assert_close(moments[1], moments[0], rtol=0.05, atol=2e-4)
    assert moments[0].abs().max() > 1e-3


@pytest.mark.slow
def test_fp16_skips_a_step_with_infinite_gradients_and_lowers_the_scale(network, take_step):
    made = network(precision="fp16")
    state = made.state()
    state["scaler"]["scale"] = 2.0**60  # too large for the gradients of float16 layers
    made.load(state)
    before = copied(made)
    take_step(made)
    assert not [key for key in changed(made, before) if "running" not in key and "num_batches" not in key]
    assert made.state()["scaler"]["scale"] == 2.0**59
    made.load({**made.state(), "scaler": {**state["scaler"], "scale": 2.0**10}})
    take_step(made)
    assert "fc.weight" in changed(made, before)


def test_a_step_without_photos_in_fp16_changes_nothing(network):
    made = network(precision="fp16")
    before = copied(made)
    made.step(1.0)
    assert changed(made, before) == set()


def test_without_an_average_the_weights_themselves_are_kept(network):
    state = network().state()
    assert weights_to_keep(state) is state["model"]


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.99}, {"precision": "fp16"}])
def test_a_resumed_network_equals_the_original_bit_for_bit(network, take_step, settings):
    made = network(**settings)
    take_step(made)
    file = io.BytesIO()
    torch.save(made.state(), file)
    file.seek(0)
    other = network(**settings)
    other.load(torch.load(file, weights_only=True))
    take_step(made)
    take_step(other)
    mine, others = made.state(), other.state()
    assert mine.get("scaler") == others.get("scaler")
    assert ("scaler" in mine) == ("precision" in settings)
    for part in ("model", *(["averaged"] if "ema_decay" in settings else [])):
        assert all(torch.equal(value, others[part][key]) for key, value in mine[part].items())


def test_a_step_without_photos_changes_neither_weights_nor_statistics(network):
    made = network()
    before = copied(made)
    made.backward(made.zero_loss(64))
    assert changed(made, before) == set()
    made.step(1.0)
    assert changed(made, before) == set()


@pytest.mark.parametrize(
    ("reproducible", "deterministic", "benchmark"), [("yes", True, False), ("no", False, True)]
)
def test_cudnn_is_either_reproducible_or_free_to_choose(monkeypatch, reproducible, deterministic, benchmark):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", not deterministic)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not benchmark)
    set_up_cudnn(reproducible)
    assert torch.backends.cudnn.deterministic is deterministic
    assert torch.backends.cudnn.benchmark is benchmark


def test_only_full_batches_run_compiled_code(network, monkeypatch):
    sizes = []

    def keep_sizes(graph, inputs):
        sizes.append(next(len(part) for part in inputs if part.shape[1:] == (3, 32, 32)))
        return graph.forward

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda module, **options: compile_module(module, backend=keep_sizes, **options),
    )
    made = network(compile="yes", batch_size=4)
    with torch.no_grad():
        for size in (4, 3, 2, 4):
            made.begin_epoch(1)
            made.forward(torch.rand(size, 3, 32, 32))
            made.evaluate(torch.rand(size, 3, 32, 32))
    assert set(sizes) == {4}
    assert len(sizes) == 2  # to train and to evaluate, once each
