"""The floor of a model: photos with a lower score are answered with "no known pose".

Three scores say how much a photo looks like a photo of a known pose. Each grows with the similarity:

    probability  the highest probability, with the temperature (Hendrycks and Gimpel 2017)
    energy       the negative free energy of the logits z, log Σ exp z (Liu et al. 2020)
    distance     the largest cosine between the photo's last features and the mean features of a pose; this is
                 the distance to the nearest class mean (Lee et al. 2018) on the unit sphere

`evaluation.choose_floor` measures which of them separates the photos best, and chooses the threshold.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Score = Literal["probability", "energy", "distance"]
SCORES: tuple[Score, ...] = get_args(Score)


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

    class_features: float32 (C, F), the mean features of each pose, of length 1; only for the score distance.
    choice: None if a person gave the threshold.
    """

    score: Score
    threshold: float
    class_features: Tensor | None = None
    choice: Choice | None = None

    def scores(self, outputs: Tensor, *, num_classes: int, temperature: float) -> Tensor:
        """Give float64 (B,) for a network's outputs: logits (B, num_classes), maybe with one more column.

        The score distance is this column. The other scores ignore it: it is there whenever the model's own
        floor needs it, also if a person set another floor.
        """
        if self.score == "distance":
            return outputs[:, num_classes].double()
        return candidate_score(self.score, outputs[:, :num_classes], temperature)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values and tensors for the model file."""
        return {
            "score": self.score,
            "threshold": self.threshold,
            "class_features": self.class_features,
            "choice": asdict(self.choice) if self.choice is not None else None,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, num_classes: int) -> "Floor":
        """Read what `to_dict` gave.

        Raises ValueError, TypeError, KeyError: the content is damaged.
        """
        score, threshold, features = value["score"], float(value["threshold"]), value.get("class_features")
        if score not in SCORES:
            raise ValueError(f"floor: score {score!r} is none of {', '.join(SCORES)}")
        if not math.isfinite(threshold):
            raise ValueError(f"floor: threshold {threshold}")
        if score == "distance" and (
            not isinstance(features, Tensor) or features.ndim != 2 or len(features) != num_classes
        ):
            raise ValueError(f"floor: class_features must be a tensor with {num_classes} rows")
        choice = value.get("choice")
        if choice is not None:
            curve = tuple((float(a), float(b), float(c)) for a, b, c in choice["curve"])
            choice = Choice(**{**choice, "curve": curve})
        return cls(score, threshold, features if score == "distance" else None, choice)


def floor_of_confidence(min_confidence: float) -> Floor:
    """Give the floor that a person sets: the lowest probability of an answer, 0 … 1."""
    return Floor("probability", min_confidence)


def candidate_score(score: Score, logits: Tensor, temperature: float) -> Tensor:
    """Give float64 (B,) for logits (B, C); score: probability or energy."""
    if score == "energy":
        return torch.logsumexp(logits.double(), dim=1)
    return torch.softmax(logits.double() / temperature, dim=1).amax(dim=1)


def similarity(features: Tensor, class_features: Tensor) -> Tensor:
    """Give (B,), the largest cosine of features (B, F) with the rows of class_features (C, F)."""
    return (functional.normalize(features, dim=1) @ class_features.T).amax(dim=1)


class ScoringHead(nn.Module):
    """The last layer of a network whose floor needs its features: the outputs have one more column."""

    def __init__(self, layer: nn.Module, class_features: Tensor) -> None:
        """layer: features (B, F) → logits (B, C); class_features: float32 (C, F), of length 1."""
        super().__init__()
        self.layer = layer
        self.class_features: Tensor
        self.register_buffer("class_features", class_features)

    def forward(self, features: Tensor) -> Tensor:
        """Give (B, C + 1): the logits, and the similarity to the nearest pose."""
        score = similarity(features, self.class_features)
        return torch.cat([cast(Tensor, self.layer(features)), score[:, None]], dim=1)
