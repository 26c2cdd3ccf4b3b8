"""The scores of a floor on outputs whose scores were worked out by hand."""

import math

import pytest
import torch
from torch import nn

from physiq_ray.floor import Choice, Floor, ScoringHead, floor_of_confidence, similarity

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


def test_the_column_of_the_distance_is_no_logit():
    outputs = torch.tensor([[0.0, 0.0, 9.0]])
    scores = floor_of_confidence(0.5).scores(outputs, num_classes=2, temperature=1.0)
    assert scores.tolist() == pytest.approx([0.5])
    energy = Floor("energy", 0.0).scores(outputs, num_classes=2, temperature=1.0)
    assert energy.tolist() == pytest.approx([math.log(2)])


def test_similarity_is_the_cosine_with_the_nearest_class():
    classes = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    features = torch.tensor([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [0.0, 0.0]])
    assert similarity(features, classes).tolist() == pytest.approx([1.0, 0.8, -0.6, 0.0])


def test_the_head_adds_the_similarity_to_the_logits():
    layer = nn.Linear(2, 3)
    features = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    found = ScoringHead(layer, torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]))(features)
    assert found.shape == (2, 4)
    assert torch.equal(found[:, :3], layer(features))
    assert found[:, 3].tolist() == pytest.approx([1.0, 0.8])


@pytest.mark.parametrize("score", ["probability", "energy", "distance"])
def test_a_floor_is_the_same_after_it_became_a_dict(score):
    floor = Floor(score, 0.25, torch.eye(2) if score == "distance" else None, CHOICE)
    found = Floor.from_dict(floor.to_dict(), num_classes=2)
    assert (found.score, found.threshold, found.choice) == (score, 0.25, CHOICE)
    assert (found.class_features is None) == (score != "distance")
    assert found.class_features is None or torch.equal(found.class_features, torch.eye(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "luck"}, "score 'luck' is none of probability, energy, distance"),
        ({"threshold": math.nan}, "threshold nan"),
        ({"class_features": None}, "class_features must be a tensor with 2 rows"),
        ({"class_features": torch.eye(3)}, "class_features must be a tensor with 2 rows"),
    ],
)
def test_a_damaged_floor_is_refused(changes, message):
    value = Floor("distance", 0.25, torch.eye(2)).to_dict() | changes
    with pytest.raises(ValueError, match=message):
        Floor.from_dict(value, num_classes=2)


def test_a_precision_below_the_wished_one_is_not_reached():
    assert CHOICE.is_reached
    assert not Choice(0.95, 0.92, 0.8, None, 50, 0, {}, ()).is_reached
