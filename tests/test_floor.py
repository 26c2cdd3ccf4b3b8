"""The scores of a floor on outputs whose scores were worked out by hand."""

import math

import pytest
import torch
from torch import nn

from physiq_ray.floor import Choice, Floor, ScoringHead, feature_column, floor_of_confidence

CHOICE = Choice(0.9, 0.92, 0.8, None, 50, 0, {"probability": 0.7, "distance": 0.8}, ((0.1, 0.5, 1.0),))


def test_the_probability_is_the_highest_one_with_the_temperature():
    outputs = torch.log(torch.tensor([[1.0, 4.0, 4.0], [9.0, 1.0, 0.25]]))
    # At temperature 2, the odds are the square roots: 1 : 2 : 2 and 3 : 1 : 0.5.
    scores = floor_of_confidence(0.5).scores(outputs, num_classes=3, temperature=2.0)
    assert scores.tolist() == pytest.approx([2 / 5, 3 / 4.5])


def test_the_energy_is_the_logarithm_of_the_sum_of_odds_and_ignores_the_temperature():
    outputs = torch.log(torch.tensor([[1.0, 4.0, 4.0], [9.0, 1.0, 0.25]]))
    scores = Floor("energy", 0.0).scores(outputs, num_classes=3, temperature=2.0)
    assert scores.tolist() == pytest.approx([math.log(9), math.log(10.25)])


def test_the_distance_is_the_last_column():
    outputs = torch.tensor([[5.0, -3.0, 0.25], [1.0, 1.0, -0.5]])
    floor = Floor("distance", 0.0, torch.eye(2))
    assert floor.scores(outputs, num_classes=2, temperature=2.0).tolist() == [0.25, -0.5]


def test_the_detector_multiplies_the_probability_by_that_of_a_known_pose():
    # The probabilities are 0.8 and 0.5; the column is a logit: odds of 3 : 1 and 1 : 4.
    outputs = torch.log(torch.tensor([[4.0, 1.0, 3.0], [1.0, 1.0, 0.25]]))
    scores = Floor("detector", 0.5, torch.zeros(3)).scores(outputs, num_classes=2, temperature=1.0)
    assert scores.tolist() == pytest.approx([0.8 * 0.75, 0.5 * 0.2])


def test_the_column_of_the_distance_is_no_logit():
    outputs = torch.tensor([[0.0, 0.0, 9.0]])
    scores = floor_of_confidence(0.5).scores(outputs, num_classes=2, temperature=1.0)
    assert scores.tolist() == pytest.approx([0.5])
    energy = Floor("energy", 0.0).scores(outputs, num_classes=2, temperature=1.0)
    assert energy.tolist() == pytest.approx([math.log(2)])


def test_the_column_of_the_distance_is_the_cosine_with_the_nearest_class():
    classes = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    features = torch.tensor([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [0.0, 0.0]])
    assert feature_column("distance", features, classes).tolist() == pytest.approx([1.0, 0.8, -0.6, 0.0])


def test_the_column_of_the_detector_is_linear():
    features = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    found = feature_column("detector", features, torch.tensor([1.0, -2.0, 0.5]))
    assert found.tolist() == [3.5, -9.5]


def test_the_head_adds_the_column_to_the_logits():
    layer = nn.Linear(2, 3)
    features = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    for score, weights, column in (
        ("distance", [[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]], [1.0, 0.8]),
        ("detector", [1.0, -2.0, 0.5], [3.5, -9.5]),
    ):
        found = ScoringHead(layer, score, torch.tensor(weights))(features)
        assert found.shape == (2, 4)
        assert torch.equal(found[:, :3], layer(features))
        assert found[:, 3].tolist() == pytest.approx(column)


@pytest.mark.parametrize(
    ("score", "weights"),
    [("probability", None), ("energy", None), ("distance", torch.eye(2)), ("detector", torch.arange(3.0))],
)
def test_a_floor_is_the_same_after_it_became_a_dict(score, weights):
    found = Floor.from_dict(Floor(score, 0.25, weights, CHOICE).to_dict(), num_classes=2)
    assert (found.score, found.threshold, found.choice) == (score, 0.25, CHOICE)
    assert found.weights is weights


def test_a_floor_of_an_earlier_version_is_read():
    value = Floor("distance", 0.25, torch.eye(2)).to_dict()
    value["class_features"] = value.pop("weights")
    assert torch.equal(Floor.from_dict(value, num_classes=2).weights, torch.eye(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "luck"}, "score 'luck' is none of probability, energy, distance, detector"),
        ({"threshold": math.nan}, "threshold nan"),
        ({"weights": None}, "the score distance needs finite weights"),
        ({"weights": torch.eye(2) / 0}, "the score distance needs finite weights"),
        ({"weights": torch.eye(3)}, "weights must have 2 rows"),
        ({"score": "detector"}, "weights must have one dimension"),
    ],
)
def test_a_damaged_floor_is_refused(changes, message):
    value = Floor("distance", 0.25, torch.eye(2)).to_dict() | changes
    with pytest.raises(ValueError, match=message):
        Floor.from_dict(value, num_classes=2)


def test_a_precision_below_the_wished_one_is_not_reached():
    assert CHOICE.is_reached
    assert not Choice(0.95, 0.92, 0.8, None, 50, 0, {}, ()).is_reached
