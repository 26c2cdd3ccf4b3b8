"""The choice of a floor on scores that were worked out by hand, and on simulated features."""

import numpy as np
import pytest
import torch

from physiq_ray.evaluation.choose_floor import (
    PENALTY,
    auroc,
    choose_floor,
    fit_detector,
    halve,
    mean_features,
)
from physiq_ray.floor import feature_column


def log_odds(*odds):
    return torch.log(torch.tensor([[odd, 1.0] for odd in odds]))


def test_the_auroc_is_the_share_of_pairs_in_the_right_order():
    scores = np.array([0.9, 0.5, 0.5, 0.1])
    # Of the four pairs of a positive with a negative, three are in the right order, and 0.5 with 0.5 is half.
    assert auroc(scores, np.array([True, True, False, False])) == 3.5 / 4
    assert auroc(scores, np.array([False, False, True, True])) == 0.5 / 4


@pytest.mark.parametrize(
    ("target", "precision", "coverage", "refused"),
    [
        (0.7, 5 / 7, 1.0, 0.5),
        (0.8, 4 / 5, 5 / 6, 1.0),
        (0.9, 1.0, 3 / 6, 1.0),
    ],
)
def test_the_threshold_is_the_lowest_with_the_wished_precision(target, precision, coverage, refused):
    # In the order of the score: right, right, right, wrong, right, of no pose, right, of no pose.
    logits = log_odds(9, 8, 7, 6, 1 / 5, 1 / 3, 4, 2)
    floor = choose_floor(
        logits,
        torch.zeros(8, 3),
        torch.tensor([0, 0, 0, 1, 1, 1, -1, -1]),
        {},
        temperature=1.0,
        target_precision=target,
    )
    choice = floor.choice
    assert (choice.precision, choice.coverage, choice.refused) == pytest.approx(
        (precision, coverage, refused)
    )
    assert (choice.num_photos, choice.num_null, choice.is_reached) == (6, 2, True)
    scores = floor.scores(logits, num_classes=2, temperature=1.0)
    is_answered = scores >= floor.threshold
    right = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0])
    assert float((is_answered * right).sum() / is_answered.sum()) == pytest.approx(precision)
    # The threshold is not the score of a photo, so that a rounding error changes no answer.
    assert float((scores - floor.threshold).abs().min()) > 1e-3


@pytest.mark.parametrize(
    ("null_weight", "precision", "coverage"), [(1.0, 4 / 5, 5 / 6), (0.5, 5 / 6.5, 1.0), (0.0, 5 / 6, 1.0)]
)
def test_a_photo_of_no_pose_counts_by_its_weight(null_weight, precision, coverage):
    # The same photos. If one of no pose counts half, the last threshold but one is enough: 5 of 6 + 0.5.
    floor = choose_floor(
        log_odds(9, 8, 7, 6, 1 / 5, 1 / 3, 4, 2),
        torch.zeros(8, 3),
        torch.tensor([0, 0, 0, 1, 1, 1, -1, -1]),
        {},
        temperature=1.0,
        target_precision=0.75,
        null_weight=null_weight,
    )
    assert (floor.choice.precision, floor.choice.coverage) == pytest.approx((precision, coverage))


def test_a_precision_that_is_never_reached_gives_the_best_one_and_says_so():
    logits = log_odds(9, 8, 7, 6)  # wrong, right, right, of no pose
    floor = choose_floor(
        logits,
        torch.zeros(4, 3),
        torch.tensor([1, 0, 0, -1]),
        {},
        temperature=1.0,
        target_precision=0.99,
    )
    assert not floor.choice.is_reached
    assert floor.choice.precision == pytest.approx(2 / 3)
    assert floor.choice.coverage == 1.0


def test_without_photos_of_no_pose_the_mistakes_choose():
    logits = log_odds(9, 8, 1 / 7, 2)
    floor = choose_floor(
        logits,
        torch.zeros(4, 3),
        torch.tensor([0, 0, 1, 1]),
        {},
        temperature=1.0,
        target_precision=0.95,
    )
    assert (floor.choice.num_null, floor.choice.refused) == (0, None)
    assert (floor.choice.precision, floor.choice.coverage) == (1.0, 3 / 4)


@pytest.mark.parametrize("labels", [[0, 0, 1], [1, 1, 0]])
def test_there_is_no_floor_if_all_answers_are_right_or_all_are_wrong(labels):
    found = choose_floor(
        log_odds(9, 8, 1 / 7),
        torch.zeros(3, 3),
        torch.tensor(labels),
        {},
        temperature=1.0,
        target_precision=0.95,
    )
    assert found is None


@pytest.mark.parametrize("wanted", ["probability", "energy", "distance", "detector"])
def test_the_score_that_separates_best_is_chosen(wanted):
    """Poses and others differ in one score by much, and the other scores are noise."""
    rng = np.random.default_rng(4)
    is_null = np.arange(200) >= 100
    labels = np.where(is_null, -1, rng.integers(0, 2, 200))
    margin, level = np.full(200, 6.0) + rng.normal(0, 1, 200), rng.normal(0, 5, 200)
    features = rng.normal(0, 1, (200, 8))
    if wanted == "probability":
        margin[is_null] -= 5
    elif wanted == "energy":
        level[is_null] -= 20
    elif wanted == "distance":
        features[~is_null] *= 0.05
        features[~is_null, labels[~is_null]] += 1
    else:
        features[:, 7] = np.where(is_null, -9, 9)
    weights = {"distance": torch.eye(2, 8)}
    if wanted == "detector":  # it contains the probability, and would be as good
        weights["detector"] = torch.tensor([0.0] * 7 + [1.0, 0.0])
    predicted = np.where(is_null, rng.integers(0, 2, 200), labels)
    logits = np.zeros((200, 2))
    logits[np.arange(200), predicted] = margin
    # The energy does not tell the margins apart, and the margin not the energies.
    logits += (level - np.logaddexp(logits[:, 0], logits[:, 1]))[:, None]
    floor = choose_floor(
        torch.from_numpy(logits).float(),
        torch.from_numpy(features).float(),
        torch.from_numpy(labels),
        weights,
        temperature=1.0,
        target_precision=0.95,
    )
    assert floor.score == wanted
    assert floor.choice.aurocs[wanted] > 0.95
    assert all(area < 0.7 for name, area in floor.choice.aurocs.items() if name != wanted)
    assert floor.choice.precision >= 0.95
    assert (floor.weights is not None) == (wanted in {"distance", "detector"})


def test_halves_share_no_group_and_are_nearly_equal():
    rng = np.random.default_rng(0)
    groups = [f"athlete-{number}" for number in rng.integers(0, 30, 400)]
    is_first = halve(groups)
    assert not {group for group, first in zip(groups, is_first, strict=True) if first} & {
        group for group, first in zip(groups, is_first, strict=True) if not first
    }
    assert abs(int(is_first.sum()) - 200) <= 20
    assert np.array_equal(halve(groups), is_first)


def test_one_group_is_in_the_first_half():
    assert halve(["a", "a"]).tolist() == [True, True]
    assert halve([]).tolist() == []


def test_mean_features_have_length_1_and_the_direction_of_their_class():
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, -7.0]])
    found = mean_features(features, torch.tensor([0, 0, 1]), 2)
    root = 0.5**0.5
    assert found.flatten().tolist() == pytest.approx([root, root, 0.0, -1.0])
    assert mean_features(features, torch.tensor([0, 0, 0]), 2) is None


def test_the_detector_tells_new_photos_apart_by_the_features_that_differ():
    rng = np.random.default_rng(1)

    def draw(num_posed, num_null):
        is_posed = np.arange(num_posed + num_null) < num_posed
        features = rng.normal(5, 2, (len(is_posed), 300))
        features[:, :3] += np.where(is_posed, 3, -3)[:, None]
        return torch.from_numpy(features).float(), is_posed

    features, is_posed = draw(160, 20)
    weights = fit_detector(features, is_posed)
    assert (weights.shape, weights.dtype) == ((301,), torch.float32)
    # At the minimum, the mean error of the 160 is that of the 20, because both kinds count alike.
    probabilities = feature_column("detector", features, weights).sigmoid().numpy()
    assert np.mean(1 - probabilities[is_posed]) == pytest.approx(np.mean(probabilities[~is_posed]), rel=1e-3)
    features, is_posed = draw(500, 500)
    assert auroc(feature_column("detector", features, weights).numpy(), is_posed) > 0.95


def test_the_detector_is_the_minimum_of_its_loss():
    """In one dimension, with standardised features 1 and -1, the factor x solves 2 / (1 + exp x) = 2 x."""
    weights = fit_detector(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), np.array([True, True, False, False]))
    deviation = torch.tensor([1.0, 1.0, -1.0, -1.0]).std()
    factor = float(weights[0] * deviation)
    slope = float(1 / deviation)  # of the standardised features, the value for a photo of a pose
    assert 2 * slope / (1 + np.exp(factor * slope)) == pytest.approx(2 * PENALTY * factor, rel=1e-4)
    assert float(weights[1]) == pytest.approx(0, abs=1e-6)


def test_a_feature_that_hardly_differs_does_not_decide_for_other_photos():
    features = torch.randn(40, 5, generator=torch.manual_seed(0))
    is_posed = np.arange(40) < 20
    features[:20, 0] += 4
    features[:, 1] = torch.from_numpy(np.where(is_posed, 1e-6, 0)).float()
    features[:, 2] = 0.0
    weights = fit_detector(features, is_posed)
    assert weights.isfinite().all()
    assert abs(float(weights[1])) < abs(float(weights[0]))
