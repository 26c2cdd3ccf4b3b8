from math import comb

import numpy as np
import pyarrow as pa
import pytest
import torch

from physiq_ray.evaluation import Answers, score
from physiq_ray.evaluation.dimensions import Dimension
from physiq_ray.evaluation.intervals import share_interval
from physiq_ray.evaluation.slices import find_slices, fisher_p_value, lower_p_value, slice_report
from physiq_ray.labels import ClassMapping

NUM_DATA_SETS = 1000


@pytest.mark.parametrize(
    ("wrong", "num_inside", "wrong_outside", "num_outside"),
    [(3, 4, 1, 4), (0, 5, 3, 9), (5, 5, 0, 5), (12, 40, 20, 160), (300, 2000, 500, 5000), (0, 4, 0, 4)],
)
def test_the_p_value_counts_the_ways_to_put_as_many_wrong_photos_inside(
    wrong, num_inside, wrong_outside, num_outside
):
    total = wrong + wrong_outside
    ways = [
        comb(num_inside, inside) * comb(num_outside, total - inside) for inside in range(wrong, total + 1)
    ]
    expected = sum(ways) / comb(num_inside + num_outside, total)
    assert fisher_p_value(wrong, num_inside, wrong_outside, num_outside) == pytest.approx(expected)


def test_the_lady_tasting_tea_has_fisher_s_p_value():
    assert fisher_p_value(3, 4, 1, 4) == pytest.approx(17 / 70)


def test_photos_that_are_groups_of_their_own_get_fisher_s_exact_test():
    is_right = np.array([False] * 3 + [True] * 7 + [False] * 2 + [True] * 28)
    inside = np.arange(40) < 10
    assert lower_p_value(is_right, np.arange(40), inside) == pytest.approx(fisher_p_value(3, 10, 2, 30))
    assert lower_p_value(is_right, np.arange(40), ~inside) == pytest.approx(fisher_p_value(2, 30, 3, 10))


def test_alike_photos_of_a_group_count_as_few():
    # Five of ten athletes inside, all ten photos of two of them wrong: at most as rare as 2 of 5 athletes.
    groups = np.repeat(np.arange(30), 10)
    is_right, inside = groups >= 2, groups < 5
    assert lower_p_value(is_right, np.arange(300), inside) < 1e-10
    assert lower_p_value(is_right, groups, inside) >= fisher_p_value(2, 5, 0, 25)


def random_dimensions(rng, groups):
    """Divide photos in five ways, of which two keep groups whole."""
    num_photos, num_groups = len(groups), groups.max() + 1
    return [
        Dimension("pose", tuple("12345678"), rng.integers(0, 8, num_photos)),
        Dimension("size", tuple("abcd"), rng.permutation(num_photos) % 4),
        Dimension("brightness", tuple("abcd"), rng.permutation(num_photos) % 4),
        Dimension("bucket", ("new", "old"), (rng.random(num_groups) < 0.8).astype(int)[groups]),
        Dimension("month", tuple("123456"), rng.integers(0, 6, num_groups)[groups]),
    ]


def draw_alone(rng):
    return rng.random(300) < 0.85, np.arange(300)


def draw_alike(rng):
    return np.repeat(rng.random(40) < 0.85, 10), np.repeat(np.arange(40), 10)


def draw_athletes(rng):
    """Draw 2 to 30 photos of each of 50 athletes, who are right in differing shares."""
    sizes = rng.integers(2, 31, 50)
    chance = rng.beta(0.85 * 7 / 3, 0.15 * 7 / 3, 50)  # mean 0.85, correlation 0.3
    return rng.random(sizes.sum()) < np.repeat(chance, sizes), np.repeat(np.arange(50), sizes)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [draw_alone, draw_alike, draw_athletes])
def test_without_differences_any_slice_is_named_in_at_most_5_percent_of_data_sets(draw):
    rng, alarms, num_tested = np.random.default_rng(0), 0, 0
    for _ in range(NUM_DATA_SETS):
        is_right, groups = draw(rng)
        found = find_slices(is_right, groups, random_dimensions(rng, groups))
        alarms += bool(found.below)
        num_tested += len(found.tested)
    assert alarms <= 0.05 * NUM_DATA_SETS
    assert num_tested > 20 * NUM_DATA_SETS


@pytest.mark.slow
@pytest.mark.parametrize("group_size", [1, 10])
def test_a_slice_20_points_below_the_others_is_found_among_500_photos(group_size):
    rng, num_found = np.random.default_rng(0), 0
    groups = np.arange(500) // group_size
    for _ in range(100):
        dimensions = random_dimensions(rng, groups)
        is_right = rng.random(500) < 0.9 - 0.2 * (dimensions[1].codes == 2)
        below = [(item.dimension, item.name) for item in find_slices(is_right, groups, dimensions).below]
        num_found += ("size", "c") in below
    assert num_found >= 90


def test_a_slice_is_compared_with_the_other_photos_of_its_dimension():
    is_right = np.array([False] * 6 + [True] * 24 + [False] * 30)
    month = Dimension("month", ("2024-05", "2024-06", "2024-07"), np.repeat([0, 1, -1], [20, 10, 30]))
    first, second = find_slices(is_right, np.arange(60), [month]).slices  # no photo is of July
    assert (first.num_photos, first.num_groups, first.accuracy, first.others) == (20, 20, 0.7, 1.0)
    assert first.interval == share_interval(is_right[:20], np.arange(20))
    assert first.p_value == pytest.approx(fisher_p_value(6, 20, 0, 10))
    assert second.p_value == 1
    assert (first.adjusted, second.adjusted) == pytest.approx((2 * first.p_value, 1))


def test_slices_of_few_photos_or_groups_are_listed_but_not_tested():
    groups = np.concatenate([np.arange(9), 9 + np.arange(40) // 10, 20 + np.arange(51)])
    codes = np.repeat([0, 1, 2], [9, 40, 51])
    is_right = codes == 2
    few, alike, others = find_slices(is_right, groups, [Dimension("bucket", tuple("abc"), codes)]).slices
    assert (few.p_value, alike.p_value, alike.num_groups) == (None, None, 4)
    assert others.p_value is not None
    assert (few.is_below, alike.is_below) == (False, False)


def test_a_group_is_compared_with_all_other_photos():
    is_right = np.array([False] * 5 + [True] * 15)
    listed = Dimension("group", ("athlete-0",), np.repeat([0, -1], [5, 15]))
    (only,) = find_slices(is_right, np.arange(20) // 5, [listed]).slices
    assert (only.accuracy, only.others, only.p_value) == (0, 1, None)


def test_a_report_s_photos_are_sliced_and_the_worst_is_named_first():
    uris = tuple(f"s3://{'new' if number < 30 else 'old'}/{number}.jpg" for number in range(120))
    labels = torch.arange(120) % 2
    wrong = torch.tensor([number < 25 or number in (40, 50) for number in range(120)])
    logits = torch.nn.functional.one_hot(torch.where(wrong, 1 - labels, labels), 2).float()
    answers = Answers(uris, labels, logits)
    report = score(answers, ClassMapping.of_poses([1, 2]), {1: "Front", 2: "Back"}, temperature=1.0)
    photos = pa.table(
        {
            **{"uri": uris, "bucket": [uri[5:8] for uri in uris], "key": [uri[9:] for uri in uris]},
            "size": [9] * 120,
        }
    )
    brightness = {uri: number / 120 for number, uri in enumerate(uris)}
    found = slice_report(report, answers, photos, brightness)
    assert [(item.dimension, item.name) for item in found.below] == [
        ("bucket", "new"),
        ("brightness", "up to 25%"),
    ]
    plain = found.to_dict()
    assert plain["below_the_others"] == ["bucket: new", "brightness: up to 25%"]
    assert plain["num_tested"] == len(plain["all"]) == 8
    first = plain["all"][0]
    assert (first["dimension"], first["name"], first["num_photos"]) == ("bucket", "new", 30)
    assert (first["accuracy"], first["others"], first["below_the_others"]) == (5 / 30, 88 / 90, True)
