"""How well the floor of a model works on labelled photos that were predicted with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from physiq_ray.checkpoint import ModelState
from physiq_ray.evaluation.choose_floor import auroc
from physiq_ray.evaluation.intervals import (
    BoolArray,
    FloatArray,
    IntArray,
    Interval,
    number_groups,
    share_interval,
)
from physiq_ray.manifest import Manifest
from physiq_ray.prediction.answer import floor_scores_of, logits_of

NULL = -1  # the label of a photo of no known pose


@dataclass(frozen=True)
class FloorScores:
    """The scores of a floor, 0 … 1, with 95 % intervals that respect groups.

    precision: the share of right answers among the answered photos, those of no known pose included; each of
    these counts null_weight, as in `score_floor`.
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


def null_weight(manifest: Manifest, labels: IntArray) -> float:
    """Say how much a photo of no known pose counts among the photos of labels, int64 (N,).

    The precision of answers depends on the share of such photos. By this weight, it is the share among all
    labelled photos of a manifest, also if the photos of labels have few poses and many of them.
    """
    num_null = int((labels == NULL).sum())
    if not num_null:
        return 1.0
    share = float(manifest.no_pose.num_rows / manifest.table.num_rows)
    return share * (len(labels) - num_null) / num_null


def score_floor(
    outputs: Tensor,
    labels: IntArray,
    groups: Sequence[str],
    state: ModelState,
    *,
    null_weight: float = 1.0,
) -> FloorScores:
    """Score the model's floor.

    outputs: float32 (N, C) or (N, C + 1), of the model's network; labels: int64 (N,), class indices or NULL.
    null_weight: how much a photo of no known pose counts, compared with one of a pose.
    """
    if state.floor is None:
        raise ValueError("the model has no floor")
    scores = floor_scores_of(outputs, state, state.floor).numpy()
    is_null = labels == NULL
    is_answered = scores >= state.floor.threshold
    is_right = logits_of(outputs, state).argmax(dim=1).numpy() == labels
    numbers, weights = number_groups(groups), np.where(is_null, null_weight, 1.0)
    has_null = bool(is_null.any())
    has_both = has_null and not is_null.all()
    return FloorScores(
        score=state.floor.score,
        threshold=state.floor.threshold,
        num_photos=int((~is_null).sum()),
        num_null=int(is_null.sum()),
        precision=_share(is_right[is_answered], weights[is_answered]),
        precision_interval=share_interval(is_right, numbers, is_answered, weights),
        coverage=_share(is_answered[~is_null]),
        coverage_interval=share_interval(is_answered, numbers, ~is_null),
        refused=_share(~is_answered[is_null]) if has_null else None,
        refused_interval=share_interval(~is_answered, numbers, is_null) if has_null else None,
        auroc=auroc(scores, ~is_null) if has_both else None,
    )


def _share(mask: BoolArray, weights: FloatArray | None = None) -> float:
    return float(np.average(mask, weights=weights)) if len(mask) else 0.0
