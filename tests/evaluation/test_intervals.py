import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.evaluation.intervals import (
    Interval,
    f1_interval,
    jackknife_interval,
    number_groups,
    share_interval,
    t_quantile,
    wilson_interval,
)

NUM_DATA_SETS = 1000
SHARE = 0.85


def coverage(draw, intervals, truth):
    """Give the share of simulated data sets whose intervals hold the truth, for each kind of interval."""
    rng = np.random.default_rng(0)
    hits = np.zeros(len(intervals))
    for _ in range(NUM_DATA_SETS):
        data = draw(rng)
        for number, interval in enumerate(intervals):
            low, high = interval(*data)
            hits[number] += low <= truth <= high
    return hits / NUM_DATA_SETS


def naive(hits, groups):
    return wilson_interval(hits.sum(), len(hits))


def test_wilson_gives_the_published_bounds():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(29, 29) == pytest.approx((0.8830, 1.0), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_s_interval_contains_the_share_and_stays_within_zero_and_one(counts):
    num_right, total = counts
    low, high = wilson_interval(num_right, total)
    assert 0 <= low <= num_right / total + 1e-12
    assert num_right / total - 1e-12 <= high <= 1
    assert low < high


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (30, 2.0423), (1000, 1.9623)],
)
def test_student_s_quantile_is_that_of_the_tables(degrees, expected):
    assert t_quantile(degrees) == pytest.approx(expected, rel=2e-3)


def test_photos_that_are_groups_of_their_own_get_wilson_s_interval():
    hits = np.arange(40) % 5 > 0
    assert share_interval(hits, np.arange(40)) == pytest.approx(wilson_interval(32, 40))


@pytest.mark.parametrize("num_photos", [200, 500])
def test_intervals_of_independent_photos_hold_the_truth_in_95_percent_of_data_sets(num_photos):
    (ours,) = coverage(
        lambda rng: (rng.random(num_photos) < SHARE, np.arange(num_photos)), [share_interval], SHARE
    )
    assert 0.93 <= ours <= 0.97


def test_with_groups_of_ten_alike_photos_the_naive_interval_fails_and_ours_holds_the_truth():
    def draw(rng):
        return np.repeat(rng.random(40) < SHARE, 10), np.repeat(np.arange(40), 10)

    ours, without_groups = coverage(draw, [share_interval, naive], SHARE)
    assert 0.93 <= ours <= 0.97
    assert without_groups < 0.7


def answers_of_athletes(rng, num_groups=40, num_classes=4):
    """Draw ten photos an athlete, of whom each has an accuracy of their own: truth, answer, groups."""
    accuracy = rng.beta(0.8 * 7 / 3, 0.2 * 7 / 3, num_groups)[:, None]  # mean 0.8, correlation 0.3
    truth = rng.integers(0, num_classes, (num_groups, 10))
    wrong = (truth + rng.integers(1, num_classes, truth.shape)) % num_classes
    answer = np.where(rng.random(truth.shape) < accuracy, truth, wrong)
    return truth.ravel(), answer.ravel(), np.repeat(np.arange(num_groups), 10)


def test_the_interval_of_f1_holds_the_truth_in_95_percent_of_data_sets():
    # A pose has a quarter of the photos, 0.8 of them right, and as many wrong ones get it: F1 is 0.8, too.
    def interval(truth, answer, groups):
        return f1_interval(truth == answer, groups, (truth == 0) | (answer == 0))

    (ours,) = coverage(answers_of_athletes, [interval], 0.8)
    assert 0.93 <= ours <= 0.97


def mean_share(counts):
    """Give the mean of the shares of two kinds of photos from counts (n, 2 × (hits, photos))."""
    return (counts[:, 0] / counts[:, 1] + counts[:, 2] / counts[:, 3]) / 2


def test_the_interval_of_a_mean_holds_the_truth_in_95_percent_of_data_sets():
    def draw(rng):
        chance = rng.beta(2, 1, (40, 2))  # mean 2/3
        hits = rng.binomial([20, 5], chance)
        return (np.stack([hits[:, 0], np.full(40, 20), hits[:, 1], np.full(40, 5)], axis=1),)

    (ours,) = coverage(draw, [lambda counts: jackknife_interval(mean_share, counts)], 2 / 3)
    assert 0.93 <= ours <= 0.97


def test_a_perfect_score_is_as_certain_as_its_groups_are_many():
    hits, groups = np.ones(100, bool), np.repeat(np.arange(10), 10)
    assert share_interval(hits, groups) == wilson_interval(10, 10)
    counts = np.tile([10, 10, 3, 3], (10, 1))
    assert jackknife_interval(mean_share, counts) == wilson_interval(10, 10)


def test_one_group_says_as_much_as_one_photo_and_no_photo_says_nothing():
    hits = np.array([True, True, False, True])
    assert share_interval(hits, np.zeros(4, int)) == pytest.approx(wilson_interval(0.75, 1))
    assert share_interval(hits, np.arange(4), np.zeros(4, bool)) == Interval(0, 1)
    assert jackknife_interval(mean_share, np.array([[1, 2, 3, 4]])) == pytest.approx(
        wilson_interval(0.625, 1)
    )


def test_groups_widen_an_interval_and_never_narrow_it():
    rng = np.random.default_rng(1)
    hits = rng.random(200) < SHARE
    alone = share_interval(hits, np.arange(200))
    spread = share_interval(hits, np.arange(200) % 20)  # groups are as different as photos
    alike = share_interval(np.sort(hits), np.arange(200) // 10)
    assert spread.low <= alone.low < alone.high <= spread.high
    assert alike.high - alike.low > 1.5 * (alone.high - alone.low)


def test_only_photos_that_count_decide():
    hits, groups = np.array([True, False, True, False]), number_groups(["a", "b", "b", "a"])
    among = np.array([True, True, False, False])
    assert share_interval(hits, groups, among) == wilson_interval(1, 2)


def test_groups_are_numbered_by_name():
    assert number_groups(("b", "a", "b")).tolist() == [1, 0, 1]
