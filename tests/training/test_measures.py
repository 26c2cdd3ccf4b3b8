import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.distributed

from physiq_ray.training.measures import Divergence, FirstBadStep, Means, Sums, gather
from physiq_ray.training.plan import EpochPlan

CPU = torch.device("cpu")
PLAN = EpochPlan(
    rows=np.array([7, 3, 9, 1, 5]),
    batch_size=2,
    step_sizes=(4, 4, 2),
    part_sizes=(2, 2, 1),
    num_batches=(1, 1, 1),
)


@pytest.fixture
def second_rank(monkeypatch):
    """Give a function that adds a rank: what it contributes to a reduction, and to a gathering."""

    def add(*, reduced=None, gathered=None):
        def all_reduce(tensor, op=torch.distributed.ReduceOp.SUM):
            other = torch.as_tensor(reduced, dtype=tensor.dtype)
            tensor.copy_(tensor + other if op == torch.distributed.ReduceOp.SUM else tensor.minimum(other))

        def all_gather_object(found, item):
            found[:] = [item, gathered]

        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
        monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)

    return add


def add_batches(sums):
    """Add a batch of three photos, of which two are predicted correctly, and one of one wrong photo."""
    sums.add(torch.tensor(1.5), torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1, 1]))
    sums.add(torch.tensor(2.5), torch.tensor([[0.0, 1.0]]), torch.tensor([0]))


def test_loss_and_accuracy_are_means_over_photos_and_not_over_batches():
    sums = Sums.zero(CPU)
    add_batches(sums)
    assert sums.means() == Means(loss=1.0, accuracy=0.5, num_photos=4)


def test_sums_continue_from_earlier_ones_to_the_last_bit():
    whole, first = Sums.zero(CPU), Sums.zero(CPU)
    for sums in (whole, first):
        sums.add(torch.tensor(0.1), torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    second = Sums.of(CPU, *first.totals())
    for sums in (whole, second):
        add_batches(sums)
    assert second.means() == whole.means()
    assert second.num_photos == 5


def test_the_photos_of_all_ranks_count_alike(second_rank):
    second_rank(reduced=[1.0, 4.0, 4.0])  # four photos with a loss of 1 in all, each predicted correctly
    sums = Sums.zero(CPU)
    add_batches(sums)
    assert sums.means() == Means(loss=5 / 8, accuracy=6 / 8, num_photos=8)


def test_a_rank_without_photos_has_the_means_of_the_others(second_rank):
    second_rank(reduced=[3.0, 1.0, 2.0])
    assert Sums.zero(CPU).means() == Means(loss=1.5, accuracy=0.5, num_photos=2)


def test_without_any_photo_the_means_are_zero():
    assert Sums.zero(CPU).means() == Means(loss=0.0, accuracy=0.0, num_photos=0)


def test_sums_keep_no_graph_of_the_step():
    weight = torch.ones(1, requires_grad=True)
    sums = Sums.zero(CPU)
    sums.add((weight * 2).sum(), weight.expand(1, 2), torch.tensor([0]))
    assert not sums.loss.requires_grad
    assert not sums.correct.requires_grad


def test_a_loss_that_is_not_finite_stays_so_in_the_mean():
    sums = Sums.zero(CPU)
    sums.add(torch.tensor(math.nan), torch.zeros(1, 2), torch.tensor([0]))
    sums.add(torch.tensor(1.0), torch.zeros(1, 2), torch.tensor([0]))
    assert math.isnan(sums.means().loss)


def test_finite_losses_are_no_divergence():
    first_bad = FirstBadStep(CPU)
    for step in range(3):
        first_bad.note(step, torch.tensor(1e30))
    assert not first_bad.was_seen()


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_the_first_step_with_a_loss_that_is_not_finite_is_described_with_its_rows(loss):
    first_bad = FirstBadStep(CPU)
    for step, value in enumerate((1.0, loss, math.nan)):
        first_bad.note(step, torch.tensor(value))
    assert first_bad.was_seen()
    assert first_bad.describe(4, PLAN) == Divergence(epoch=4, step=2, num_steps=3, rows=(9, 1))
    resumed = dataclasses.replace(PLAN, num_done=20, first_step=5)
    assert first_bad.describe(4, resumed) == Divergence(epoch=4, step=7, num_steps=8, rows=(9, 1))


@pytest.mark.parametrize(
    ("other_step", "other_rows", "step", "rows"),
    [
        (1, [20, 21], 2, (9, 1, 20, 21)),  # the same step on both ranks
        (0, [20, 21], 1, (20, 21)),  # the other rank's was earlier, so the own rows are not the cause
        (2**62, [], 2, (9, 1)),  # the other rank has none
    ],
)
def test_only_the_rows_of_the_ranks_where_the_step_was_the_first_are_named(
    second_rank, other_step, other_rows, step, rows
):
    second_rank(reduced=other_step, gathered=other_rows)
    first_bad = FirstBadStep(CPU)
    first_bad.note(1, torch.tensor(math.nan))
    assert first_bad.was_seen()
    assert first_bad.describe(1, PLAN) == Divergence(epoch=1, step=step, num_steps=3, rows=rows)


def test_a_step_of_another_rank_is_seen_on_a_rank_whose_losses_are_finite(second_rank):
    second_rank(reduced=2, gathered=[20])
    first_bad = FirstBadStep(CPU)
    first_bad.note(0, torch.tensor(1.0))
    assert first_bad.was_seen()
    assert first_bad.describe(1, PLAN) == Divergence(epoch=1, step=3, num_steps=3, rows=(20,))


def test_items_are_gathered_in_the_order_of_the_ranks(second_rank):
    assert gather("alone") == ["alone"]
    second_rank(gathered="second")
    assert gather("first") == ["first", "second"]
