"""Two real processes with gloo between them.

They import torch for seconds, so all tests use the results of the same two.
"""

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

from physiq_ray.training.batchnorm import average_statistics, synchronise_batch_norms

CPU = torch.device("cpu")
FIRST_SHARES = (2, 6)  # of six photos; with 6 the second rank has none


def photos():
    return torch.randn(6, 5, 4, 4, generator=torch.Generator().manual_seed(1)) * 3 + 2


def layer():
    made = nn.Sequential(nn.BatchNorm2d(5))
    made[0].weight.data = torch.arange(1.0, 6.0)
    return made


def normalise_part(rank, first_share):
    """Normalise one rank's part of the photos, and give the result."""
    model = synchronise_batch_norms(layer(), CPU)
    part = photos()[:first_share] if rank == 0 else photos()[first_share:]
    part.requires_grad_()
    out = model(part)
    (out.square() * torch.linspace(0, 1, 4)).sum().backward()
    saved = {"out": out.detach(), "gradient": part.grad, "weight": model[0].weight.grad}
    return saved | model.state_dict()


def average_part(rank):
    model = layer()
    model[0].running_mean.fill_(1.0 + 10 * rank)
    average_statistics(model, 3 - 2 * rank, CPU)
    return model.state_dict()


def compute(rank, folder):
    """Compute all results of one rank, and save them."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {f"normalised {share}": normalise_part(rank, share) for share in FIRST_SHARES}
    torch.save(results | {"averaged": average_part(rank)}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Give the results of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(compute, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("first_share", FIRST_SHARES)
def test_two_ranks_normalise_as_one_rank_does(first_share, results):
    ranks = [result[f"normalised {first_share}"] for result in results]
    model, whole = layer(), photos().requires_grad_()
    out = model(whole)
    (out.square() * torch.linspace(0, 1, 4)).sum().backward()

    torch.testing.assert_close(torch.cat([rank["out"] for rank in ranks]), out.detach())
    torch.testing.assert_close(torch.cat([rank["gradient"] for rank in ranks]), whole.grad)
    torch.testing.assert_close(ranks[0]["weight"] + ranks[1]["weight"], model[0].weight.grad)
    for key, value in model.state_dict().items():
        for rank in ranks:
            torch.testing.assert_close(rank[key], value)


def test_in_bf16_a_layer_with_inputs_far_from_zero_is_as_exact_as_that_of_torch(monkeypatch):
    # The sums of a single rank are the sums of all ranks.
    monkeypatch.setattr(torch.distributed.nn.functional, "all_reduce", lambda sums: sums)
    inputs = (torch.randn(16, 5, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.5 + 40).bfloat16()
    exact = layer()(inputs.float())
    own = synchronise_batch_norms(layer(), CPU)(inputs)
    assert own.dtype == torch.bfloat16
    ours, torchs = ((out.float() - exact).abs().max() for out in (own, layer()(inputs)))
    assert ours <= torchs * 1.01


@pytest.mark.slow
def test_statistics_are_averaged_with_the_numbers_of_photos_as_weights(results):
    for result in results:  # three photos saw 1, one saw 11
        assert result["averaged"]["0.running_mean"].tolist() == [3.5] * 5
