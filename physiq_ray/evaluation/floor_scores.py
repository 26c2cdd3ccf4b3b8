"""How well the floor of a model works on labelled photos that were predicted with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from physiq_ray.checkpoint import ModelState
from physiq_ray.evaluation.choose_floor import auroc
from physiq_ray.evaluation.intervals import BoolArray, IntArray, Interval, number_groups, share_interval
from physiq_ray.prediction.answer import logits_of

NULL = -1  # the label of a photo of no known pose


@dataclass(frozen=True)
class FloorScores:
    """The scores of a floor, 0 … 1, with 95 % intervals that respect groups.

    precision: the share of right answers among the answered photos, those of no known pose included.
    coverage: the share of the photos of known poses that are answered. refused: the share of the photos of no
    known pose that are refused, None without such photos. auroc: the chance that a photo of a known pose has
    a higher score than one of none, None if one kind is missing.
    """

    score: str
    threshold: float
    num_photos: int
    num_null: int
    precision: float
    precision_interval: Interval
    coverage: float
    coverage_interval: Interval
    refused: float | None
    refused_interval: Interval | None
    auroc: float | None


def score_floor(outputs: Tensor, labels: IntArray, groups: Sequence[str], state: ModelState) -> FloorScores:
    """Score the model's floor.

    outputs: float32 (N, C) or (N, C + 1), of the model's network; labels: int64 (N,), class indices or NULL.
    """
    if state.floor is None:
        raise ValueError("the model has no floor")
    scores = state.floor.scores(outputs, state.temperature).numpy()
    is_null = labels == NULL
    is_answered = scores >= state.floor.threshold
    is_right = logits_of(outputs, state).argmax(dim=1).numpy() == labels
    numbers = number_groups(groups)
    has_null = bool(is_null.any())
    has_both = has_null and not is_null.all()
    return FloorScores(
        score=state.floor.score,
        threshold=state.floor.threshold,
        num_photos=int((~is_null).sum()),
        num_null=int(is_null.sum()),
        precision=_share(is_right[is_answered]),
        precision_interval=share_interval(is_right, numbers, is_answered),
        coverage=_share(is_answered[~is_null]),
        coverage_interval=share_interval(is_answered, numbers, ~is_null),
        refused=_share(~is_answered[is_null]) if has_null else None,
        refused_interval=share_interval(~is_answered, numbers, is_null) if has_null else None,
        auroc=auroc(scores, ~is_null) if has_both else None,
    )


def _share(mask: BoolArray) -> float:
    return float(mask.mean()) if len(mask) else 0.0
