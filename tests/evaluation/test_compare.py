import dataclasses
import itertools
from math import comb

import numpy as np
import pyarrow as pa
import pytest
import torch

from physiq_ray.errors import DataError
from physiq_ray.evaluation.compare import SIGNIFICANCE, Change, compare, exact_p_value
from physiq_ray.evaluation.scores import Answers, Evaluation, NullAnswers
from physiq_ray.evaluation.text import describe_comparison
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.quarantine import Unreadable

MAPPING = ClassMapping.of_poses([1, 2])
NAMES = {1: "Front", 2: "Back", 5: "Side"}


def evaluation(truth, right, groups=(), *, unreadable=(), num_classes=2, first=0):
    """Give the result of a model that is right for some photos; truth: class indices."""
    truth, right = torch.as_tensor(truth), torch.as_tensor(right)
    answer = torch.where(right, truth, (truth + 1) % num_classes)
    logits = torch.nn.functional.one_hot(answer, num_classes).float()
    uris = tuple(f"s3://b/{first + number:05d}.jpg" for number in range(len(truth)))
    return Evaluation(Answers(uris, truth, logits, tuple(groups)), tuple(unreadable), {})


def compared(truth, new_right, old_right, groups=()):
    return compare(
        evaluation(truth, new_right, groups), evaluation(truth, old_right, groups), (MAPPING, MAPPING), NAMES
    )


def with_nulls(found, is_refused):
    uris = tuple(f"s3://b/null-{number}.jpg" for number in range(len(is_refused)))
    return dataclasses.replace(found, nulls=NullAnswers(uris, uris, np.array(is_refused)))


def test_photos_of_no_known_pose_are_compared_apart_from_the_others():
    truth = [0, 1] * 10
    new = with_nulls(evaluation(truth, [True] * 20), [True] * 2 + [False] * 10)
    old = with_nulls(evaluation(truth, [True] * 20), [True] * 12)
    found = compare(new, old, (MAPPING, MAPPING), NAMES)
    assert found.overall.num_photos == 20
    *_, nulls = found.poses
    assert (nulls.name, nulls.num_photos, nulls.new, nulls.old) == ("no known pose", 12, 1 / 6, 1.0)
    assert nulls.p_value == pytest.approx(mcnemar(0, 10))
    assert [change.name for change in found.worse] == ["no known pose"]


def test_photos_of_no_known_pose_that_one_model_could_not_read_do_not_count():
    new = with_nulls(evaluation([0, 1], [True, True]), [True, False, True])
    old = with_nulls(evaluation([0, 1], [True, True]), [True, False])
    assert compare(new, old, (MAPPING, MAPPING), NAMES).poses[-1].num_photos == 2


def mcnemar(b, c):
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    return min(1.0, 2 * tail)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 6), (9, 2), (7, 7), (150, 100), (1200, 1000)])
def test_with_photos_that_are_groups_of_their_own_the_test_is_mcnemar_s(b, c):
    differences = np.array([1] * b + [-1] * c + [0] * 5)
    assert exact_p_value(differences) == pytest.approx(mcnemar(b, c), rel=1e-9)


@pytest.mark.parametrize(
    "differences", [[3, 1, -2, 0, 5], [4, 4, 4], [-7], [2, -2], [10, 1, 1, -1, 3, -2, 6]]
)
def test_with_groups_every_exchange_of_a_group_s_results_counts_once(differences):
    signs = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(chosen, differences, strict=True))) for chosen in signs]
    expected = np.mean([value >= abs(sum(differences)) for value in sums])
    assert exact_p_value(np.array(differences)) == pytest.approx(expected)


def simulated(seed, new_accuracy, num_groups=60, size=5):
    """Draw the results of two models; athletes differ in how hard their photos are."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(0, 0.1, (num_groups, 1))
    truth = rng.integers(0, 2, num_groups * size)
    new, old = (
        (rng.random((num_groups, size)) < np.clip(accuracy + ease, 0, 1)).ravel()
        for accuracy in (new_accuracy, 0.8)
    )
    return truth, new, old, [f"athlete-{number // size}" for number in range(num_groups * size)]


def test_an_equally_good_model_is_not_reported_as_worse():
    assert [compared(*simulated(seed, 0.8)).worse for seed in range(20)] == [()] * 20


@pytest.mark.slow
def test_equally_good_models_differ_significantly_in_fewer_than_5_percent_of_data_sets():
    found = [compared(*simulated(seed, 0.8, num_groups=30, size=4)) for seed in range(300)]
    alarms = [any(c.is_significant for c in (item.overall, *item.poses)) for item in found]
    assert np.mean(alarms) < SIGNIFICANCE


def test_a_model_that_guesses_is_reported_as_worse_overall_and_on_each_pose():
    for seed in range(20):
        assert [change.name for change in compared(*simulated(seed, 0.5)).worse] == [
            *("all photos", "Front", "Back"),
        ]


def test_alike_photos_of_one_athlete_are_one_observation_and_not_twenty():
    truth, right, wrong = [0] * 20, [True] * 20, [False] * 20
    assert compared(truth, wrong, right).overall.p_value == pytest.approx(2 / 2**20)
    one_group = compared(truth, wrong, right, ["athlete-1"] * 20)
    assert one_group.overall.p_value == 1
    assert (one_group.overall.num_groups, one_group.worse) == (1, ())


def test_a_pose_that_is_lost_is_named_though_all_photos_together_gain():
    truth = [0] * 100 + [1] * 20
    old = [False] * 40 + [True] * 80
    new = [True] * 100 + [False] * 20
    found = compared(truth, new, old)
    assert found.overall.new > found.overall.old
    assert [change.name for change in found.worse] == ["Back"]


def test_holm_corrects_each_p_value_by_the_tests_that_are_left():
    truth = [0] * 12 + [1] * 12
    old = [True] * 24
    new = [False] * 8 + [True] * 4 + [False] * 4 + [True] * 8
    found = compared(truth, new, old)
    overall, (front, back) = found.overall, found.poses
    assert [change.p_value for change in (overall, front, back)] == pytest.approx(
        [2 / 2**12, 2 / 2**8, 2 / 2**4]
    )
    assert [change.adjusted for change in (overall, front, back)] == pytest.approx(
        [3 * 2 / 2**12, 2 * 2 / 2**8, 2 / 2**4]
    )


def test_a_pose_that_only_one_model_knows_counts_as_wrong_for_the_other():
    new = evaluation([0, 1, 2, 2], [True] * 4, num_classes=3)
    old = evaluation([0, 1], [True] * 2)
    found = compare(new, old, (ClassMapping.of_poses([1, 2, 5]), MAPPING), NAMES)
    assert (found.overall.new, found.overall.old) == (1.0, 0.5)
    assert (found.num_only_new, found.num_only_old) == (2, 0)
    assert [(pose.name, pose.old) for pose in found.poses] == [("Front", 1.0), ("Back", 1.0), ("Side", 0.0)]


def test_photos_that_one_model_could_not_read_do_not_count():
    new = evaluation([0, 0, 1], [True, True, True])
    gone = Unreadable("s3://b/00000.jpg", "fetch", "gone")
    old = evaluation([0, 1], [True, False], first=1, unreadable=[gone])
    found = compare(new, old, (MAPPING, MAPPING), NAMES)
    assert (found.overall.num_photos, found.overall.new, found.overall.old) == (2, 1.0, 0.5)
    everything = [Unreadable(uri, "fetch", "gone") for uri in new.answers.uris]
    with pytest.raises(DataError, match="nothing to compare"):
        compare(new, Evaluation(old.answers, tuple(everything), {}), (MAPPING, MAPPING), NAMES)


def manifest(**splits):
    rows = [
        {
            **{"uri": f"s3://b/{number:05d}.jpg", "bucket": "b", "key": f"{number:05d}.jpg", "size": 1},
            **{"etag": str(number), "pose_id": 1, "class_index": 0, "group": str(number), "split": split},
        }
        for split, numbers in splits.items()
        for number in numbers
    ]
    return Manifest(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), MAPPING)


def test_photos_of_a_training_are_a_caution():
    answers = evaluation([0, 0, 1, 1], [True] * 4)
    found = compare(
        answers,
        answers,
        (MAPPING, MAPPING),
        NAMES,
        training=(manifest(train=[8, 9], validation=[0, 1]), manifest(train=[0, 1, 2], validation=[9])),
    )
    assert found.cautions == (
        "2 of the 4 photos chose the epoch of the new model, which favours it a little",
        "3 of the 4 photos were training photos of the old model, which favours it",
    )
    (unknown, _) = compare(answers, answers, (MAPPING, MAPPING), NAMES).cautions
    assert unknown == "it is not known whether the new model was trained on any of these photos"


def test_the_text_gives_a_line_for_each_pose_and_a_verdict():
    found = compared(
        [0] * 12 + [1] * 12, [False] * 12 + [True] * 12, [True] * 24, [str(n // 2) for n in range(24)]
    )
    lines = describe_comparison(found, new="output", old="s3://m/live")
    assert lines[0] == "output (new) against s3://m/live (old) on 24 photos in 12 groups:"
    assert lines[2].split() == ["all", "photos", "100.0%", "50.0%", "-50.0", "0.094", "24"]
    assert lines[-1] == "The new model is neither significantly better nor significantly worse."
    alone = compared([0] * 12 + [1] * 12, [False] * 12 + [True] * 12, [True] * 24)
    assert describe_comparison(alone, new="a", old="b")[-1] == (
        "The new model is significantly worse on all photos, Front."
    )


def test_a_change_in_json_has_both_p_values():
    change = Change("Front", 10, 4, 0.9, 0.8, p_value=0.02, adjusted=0.06)
    assert change.to_dict() == {
        **{"name": "Front", "photos": 10, "groups": 4, "old": 0.9, "new": 0.8, "p": 0.02},
        **{"adjusted_p": 0.06, "significant": False},
    }
