import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.config import Settings
from physiq_ray.training.plan import (
    EarlyStopping,
    balanced_weights,
    checkpoint_score,
    fits,
    learning_rate,
    may_stop,
    plan_epoch,
    train_size,
    validation_rows,
)


def plan_ranks(num_photos, world_size, *, epoch=2, **values):
    """Give the plan of each rank for the photos 0 … num_photos - 1."""
    rows = np.arange(num_photos)
    return [
        plan_epoch(rows, world_size=world_size, world_rank=rank, seed=7, epoch=epoch, **values)
        for rank in range(world_size)
    ]


@given(
    num_photos=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    world_size=st.integers(1, 5),
    epoch=st.integers(1, 3),
)
def test_an_epoch_uses_each_photo_once_and_leaves_out_less_than_half_a_step(
    num_photos, batch_size, world_size, epoch
):
    plans = plan_ranks(num_photos, world_size, batch_size=batch_size, epoch=epoch)
    used = np.concatenate([plan.rows for plan in plans])
    assert len(np.unique(used)) == len(used)
    assert len({plan.step_sizes for plan in plans}) == 1
    assert sum(plans[0].step_sizes) == len(used)
    left_out = num_photos - len(used)
    assert left_out == 0 or (left_out < batch_size * world_size / 2 and len(plans[0].step_sizes) >= 1)
    for plan in plans:
        assert -(-len(plan.rows) // batch_size) <= len(plan.step_sizes)


def test_a_step_takes_the_same_photos_on_one_and_on_two_workers():
    one = plan_epoch(np.arange(10), batch_size=4, world_size=1, world_rank=0, seed=1, epoch=1)
    two = [
        plan_epoch(np.arange(10), batch_size=2, world_size=2, world_rank=rank, seed=1, epoch=1)
        for rank in (0, 1)
    ]
    assert one.step_sizes == two[0].step_sizes == two[1].step_sizes == (4, 4, 2)
    for step in range(2):
        dealt = {*two[0].rows[2 * step :][:2].tolist(), *two[1].rows[2 * step :][:2].tolist()}
        assert dealt == set(one.rows[4 * step :][:4].tolist())


def test_the_order_depends_on_the_epoch_and_the_seed_alone():
    def rows(seed, epoch):
        plan = plan_epoch(np.arange(50), batch_size=5, world_size=1, world_rank=0, seed=seed, epoch=epoch)
        return plan.rows.tolist()

    assert rows(1, 1) == rows(1, 1)
    assert rows(1, 1) != rows(1, 2)
    assert rows(1, 1) != rows(2, 1)


def test_a_rank_without_photos_plans_the_same_steps():
    plan = plan_epoch(np.arange(2), batch_size=8, world_size=3, world_rank=2, seed=1, epoch=1)
    assert plan.rows.tolist() == []
    assert plan.step_sizes == (2,)


@given(
    num_photos=st.integers(1, 200),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    data=st.data(),
)
def test_the_rest_of_an_epoch_is_dealt_as_if_it_had_not_been_interrupted(
    num_photos, batch_size, world_size, accumulation, data
):
    values = {"batch_size": batch_size, "accumulation": accumulation}
    plans = plan_ranks(num_photos, world_size, **values)
    step = data.draw(st.integers(0, len(plans[0].step_sizes) - 1))
    resumed = plan_ranks(num_photos, world_size, **values, num_done=plans[0].photos_before[step])
    for whole, rest in zip(plans, resumed, strict=True):
        assert rest.first_step == step
        assert rest.step_sizes == whole.step_sizes[step:]
        assert rest.num_batches == whole.num_batches[step:]
        assert rest.photos_before == whole.photos_before[step:]
        assert rest.rows.tolist() == whole.rows[sum(whole.part_sizes[:step]) :].tolist()


@given(
    num_photos=st.integers(20, 200),
    batch_size=st.integers(1, 6),
    before=st.integers(1, 4),
    after=st.integers(1, 4),
    data=st.data(),
)
def test_another_number_of_workers_takes_the_photos_that_are_left_and_none_twice(
    num_photos, batch_size, before, after, data
):
    whole = plan_ranks(num_photos, before, batch_size=batch_size)
    step = data.draw(st.integers(0, len(whole[0].step_sizes) - 1))
    taken = [row for each in whole for row in each.rows[: sum(each.part_sizes[:step])]]
    num_done = whole[0].photos_before[step]
    assert len(taken) == num_done
    resumed = plan_ranks(num_photos, after, batch_size=batch_size, num_done=num_done)
    rest = [row for each in resumed for row in each.rows]
    used = taken + rest
    assert len(set(used)) == len(used)
    assert num_photos - len(used) < max(1, batch_size * after / 2)


@given(num_photos=st.integers(0, 50), world_size=st.integers(1, 6))
def test_validation_deals_every_photo_exactly_once(num_photos, world_size):
    dealt = [
        validation_rows(np.arange(num_photos), world_size=world_size, world_rank=rank)
        for rank in range(world_size)
    ]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(num_photos))


def test_early_stopping_waits_for_a_strictly_better_accuracy():
    state, seen = EarlyStopping(patience=3), []
    for epoch, accuracy in enumerate((0.5, 0.5, 0.6, 0.4, 0.6, 0.2), start=1):
        state = state.after(epoch, accuracy)
        seen.append(state.status)
    assert seen == ["✓ Best Model", "Wait 1/3", "✓ Best Model", "Wait 1/3", "Wait 2/3", "Early Stop"]
    assert (state.best_epoch, state.best_accuracy, state.is_finished) == (3, 0.6, True)


def test_an_accuracy_of_zero_is_better_than_none():
    assert EarlyStopping(patience=1).after(1, 0.0).best_epoch == 1


@pytest.mark.parametrize(
    ("epoch", "left_s", "expected"),
    [
        (3, 60.0, True),
        (3, 59.9, False),
        (3, -1.0, False),
        (1, 209.9, False),
        (1, 210.0, True),
        (4, 0.0, True),
    ],
)
def test_an_epoch_fits_if_it_would_end_in_time(epoch, left_s, expected):
    # After epoch 1 the side doubles: 50 s of training become 200 s.
    settings = Settings(epochs=4, image_size=128, train_sizes=(64, 128, 128, 128))
    latest = {"epoch": epoch, "seconds": 60.0, "train_seconds": 50.0, "train_size": 64 if epoch == 1 else 128}
    assert fits(settings, latest, left_s) is expected


def test_of_two_equal_checkpoints_the_earlier_scores_higher():
    assert checkpoint_score(0.5, 3) > checkpoint_score(0.5, 4)
    assert checkpoint_score(0.5, 1) < checkpoint_score(0.5001, 50)


def test_the_cosine_schedule_warms_up_and_ends_at_zero():
    settings = Settings(schedule="cosine", learning_rate=0.1, warmup_epochs=2, epochs=10)
    rates = [learning_rate(settings, done) for done in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0.001, 0.05, 0.1, 0.05, 0.0])


def test_the_constant_schedule_never_warms_up():
    settings = Settings(learning_rate=0.1)
    assert {learning_rate(settings, done) for done in (0, 0.5, 7, 50)} == {0.1}


@pytest.mark.parametrize(
    ("epoch", "size", "counts"),
    [(1, 128, False), (2, 128, False), (3, 160, False), (4, 160, False), (5, 224, True), (6, 224, True)],
)
def test_sizes_take_even_shares_and_patience_counts_at_the_last(epoch, size, counts):
    settings = Settings(train_sizes=(128, 160, 224), epochs=6)
    assert (train_size(settings, epoch), may_stop(settings, epoch)) == (size, counts)


def test_without_sizes_patience_counts_once_the_whole_network_trains():
    settings = Settings(head_epochs=2, image_size=96)
    assert [train_size(settings, epoch) for epoch in (1, 3)] == [96, 96]
    assert [may_stop(settings, epoch) for epoch in (1, 2, 3)] == [False, False, True]


def test_an_epoch_that_does_not_count_takes_no_patience():
    state = EarlyStopping(patience=1).after(1, 0.5).after(2, 0.4, counts=False)
    assert (state.status, state.is_finished) == ("Wait 0/1", False)
    assert state.after(3, 0.4).status == "Early Stop"


def test_classes_are_weighted_by_the_inverse_of_their_share():
    # Six photos of three poses: 6 / (3 · 4), 6 / (3 · 1), 6 / (3 · 1).
    assert balanced_weights(np.array([0, 0, 0, 0, 1, 3]), 4) == (0.5, 2.0, 0.0, 2.0)


@given(
    num_photos=st.integers(1, 100),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 4),
    accumulation=st.integers(1, 4),
)
def test_all_ranks_accumulate_equally_many_batches_that_hold_their_parts(
    num_photos, batch_size, world_size, accumulation
):
    plans = plan_ranks(num_photos, world_size, batch_size=batch_size, accumulation=accumulation, epoch=1)
    assert len({plan.num_batches for plan in plans}) == 1
    for step, size in enumerate(plans[0].step_sizes):
        parts = [plan.rows_of_step(step) for plan in plans]
        assert sum(map(len, parts)) == size
        assert max(map(len, parts)) <= plans[0].num_batches[step] * batch_size <= accumulation * batch_size


def test_the_plan_uses_only_available_rows_and_does_not_depend_on_their_order():
    available = np.array([11, 2, 40, 7, 23, 5])
    plans = [
        plan_epoch(rows, batch_size=2, world_size=1, world_rank=0, seed=3, epoch=1)
        for rows in (available, np.sort(available))
    ]
    assert plans[0].rows.tolist() == plans[1].rows.tolist()
    assert sorted(plans[0].rows.tolist()) == sorted(available.tolist())


def test_balanced_weights_are_one_on_average_over_photos():
    classes = np.array([0] * 7 + [1] * 2 + [4])
    weights = np.array(balanced_weights(classes, 5))
    assert weights[classes].mean() == pytest.approx(1)
