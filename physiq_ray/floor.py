"""The floor of a model: photos with a lower score are answered with "no known pose".

Four scores say how much a photo looks like a photo of a known pose. Each grows with the similarity:

    probability  the highest probability, with the temperature (Hendrycks and Gimpel 2017)
    energy       the negative free energy of the logits z, log Σ exp z (Liu et al. 2020)
    distance     the largest cosine between the photo's last features and the mean features of a pose; this is
                 the distance to the nearest class mean (Lee et al. 2018) on the unit sphere
    detector     the highest probability, with the temperature, multiplied by the probability that there is a
                 known pose at all: a logistic regression on the last features, which was fitted to training
                 photos and to photos labelled as no known pose

`evaluation.choose_floor` measures which of them separates the photos best, and chooses the threshold.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Score = Literal["probability", "energy", "distance", "detector"]
SCORES: tuple[Score, ...] = get_args(Score)
FEATURE_SCORES: tuple[Score, ...] = ("distance", "detector")  # these need the network's last features


@dataclass(frozen=True)
class Choice:
    """How a floor was chosen; shares are 0 … 1.

    target_precision: the wished share of right answers among the answered photos. precision: the reached one.
    coverage: the share of the photos of known poses that are answered. refused: the share of the photos
    labelled as no known pose that are refused, None without such photos. num_photos, num_null: the photos of
    known poses and of none. aurocs: for each score, the probability that a rightly predicted photo has a
    higher score than another one. curve: (threshold, precision, coverage) from the lowest threshold up.
    """

    target_precision: float
    precision: float
    coverage: float
    refused: float | None
    num_photos: int
    num_null: int
    aurocs: Mapping[str, float]
    curve: tuple[tuple[float, float, float], ...]

    @property
    def is_reached(self) -> bool:
        """Whether some threshold has the wished precision."""
        return self.precision >= self.target_precision


@dataclass(frozen=True, eq=False)
class Floor:
    """A score and its threshold; a photo with a lower score has no known pose.

    weights: only for a score that needs the features, as of `feature_column`. choice: None if a person gave
    the threshold.
    """

    score: Score
    threshold: float
    weights: Tensor | None = None
    choice: Choice | None = None

    def scores(self, outputs: Tensor, *, num_classes: int, temperature: float) -> Tensor:
        """Give float64 (B,) for a network's outputs: logits (B, num_classes), maybe with one more column.

        A score that needs no features ignores this column: it is there whenever the model's own floor needs
        it, also if a person set another floor.
        """
        column = outputs[:, num_classes] if self.score in FEATURE_SCORES else None
        return candidate_score(self.score, outputs[:, :num_classes], temperature, column)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values and tensors for the model file."""
        return {
            "score": self.score,
            "threshold": self.threshold,
            "weights": self.weights,
            "choice": asdict(self.choice) if self.choice is not None else None,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, num_classes: int) -> "Floor":
        """Read what `to_dict` gave.

        Raises ValueError, TypeError, KeyError: the content is damaged.
        """
        score, threshold = value["score"], float(value["threshold"])
        weights = value.get("weights", value.get("class_features"))  # the name in earlier versions
        if score not in SCORES:
            raise ValueError(f"floor: score {score!r} is none of {', '.join(SCORES)}")
        if not math.isfinite(threshold):
            raise ValueError(f"floor: threshold {threshold}")
        if score not in FEATURE_SCORES:
            weights = None
        elif not isinstance(weights, Tensor) or not weights.isfinite().all():
            raise ValueError(f"floor: the score {score} needs finite weights")
        elif score == "distance" and (weights.ndim != 2 or len(weights) != num_classes):
            raise ValueError(f"floor: weights must have {num_classes} rows")
        elif score == "detector" and weights.ndim != 1:
            raise ValueError("floor: weights must have one dimension")
        choice = value.get("choice")
        if choice is not None:
            curve = tuple((float(a), float(b), float(c)) for a, b, c in choice["curve"])
            choice = Choice(**{**choice, "curve": curve})
        return cls(score, threshold, weights, choice)


def floor_of_confidence(min_confidence: float) -> Floor:
    """Give the floor that a person sets: the lowest probability of an answer, 0 … 1."""
    return Floor("probability", min_confidence)


def candidate_score(score: Score, logits: Tensor, temperature: float, column: Tensor | None = None) -> Tensor:
    """Give float64 (B,) for logits (B, C); column: (B,), as of `feature_column`, if the score needs it."""
    if score == "energy":
        return torch.logsumexp(logits.double(), dim=1)
    if score == "distance":
        return cast(Tensor, column).double()
    probability = torch.softmax(logits.double() / temperature, dim=1).amax(dim=1)
    if score == "probability":
        return probability
    return probability * cast(Tensor, column).double().sigmoid()


def feature_column(score: Score, features: Tensor, weights: Tensor) -> Tensor:
    """Give (B,) for features (B, F): what a score needs of them.

    For the score distance, this is the largest cosine with the rows of weights, float32 (C, F), which have
    length 1: the mean features of each pose. For the score detector, it is the logit of the regression, whose
    factors and last its constant are weights, float32 (F + 1,).
    """
    if score == "distance":
        return (functional.normalize(features, dim=1) @ weights.T).amax(dim=1)
    return features @ weights[:-1] + weights[-1]


class ScoringHead(nn.Module):
    """The last layer of a network whose floor needs its features: the outputs have one more column."""

    def __init__(self, layer: nn.Module, score: Score, weights: Tensor) -> None:
        """layer: features (B, F) → logits (B, C); score, weights: as of `feature_column`."""
        super().__init__()
        self.layer = layer
        self._score = score
        self._weights: Tensor
        self.register_buffer("_weights", weights)

    def forward(self, features: Tensor) -> Tensor:
        """Give (B, C + 1): the logits, and what the floor's score needs of the features."""
        column = feature_column(self._score, features, self._weights)
        return torch.cat([cast(Tensor, self.layer(features)), column[:, None]], dim=1)
