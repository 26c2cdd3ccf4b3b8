"""Choose the floor of a model: which score, and which threshold.

The photos are validation photos that did not choose the temperature, and the photos that a person labelled as
no known pose, except those that fitted the detector. A photo is answered if its score reaches the threshold;
an answer is right if its pose is that of the label, so every answer to a photo without a known pose is wrong.
The chosen score has the largest area under the ROC curve for right answers against all others. The chosen
threshold is the lowest one at which the share of right answers reaches the wished precision (selective
classification, El-Yaniv and Wiener 2010). For this share, a photo without a known pose counts as much as
`null_weight` in `floor_scores` says.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from physiq_ray.evaluation.intervals import BoolArray, FloatArray, IntArray
from physiq_ray.floor import FEATURE_SCORES, SCORES, Choice, Floor, Score, candidate_score, feature_column

CURVE_POINTS = 100
PENALTY = 1.0  # of the detector's factors; on the demo's photos, 0.1 and 10 give lower AUROCs, by up to 0.02


def halve(groups: Sequence[str]) -> BoolArray:
    """Divide photos into two halves, so that no group is in both: true for those of the first half.

    groups: the group of each photo. The order of the groups is a hash of their names, so that few new photos
    change little; each group goes to the smaller half.
    """
    names, member, counts = np.unique(np.array(groups, object), return_inverse=True, return_counts=True)
    is_first = np.zeros(len(names), bool)
    sizes = [0, 0]
    for number in np.argsort(pd.util.hash_array(names, categorize=False), kind="stable"):
        is_first[number] = sizes[0] <= sizes[1]
        sizes[0 if is_first[number] else 1] += counts[number]
    return is_first[member] if len(names) else np.zeros(0, bool)


def mean_features(features: Tensor, labels: Tensor, num_classes: int) -> Tensor | None:
    """Give the mean of each class, of length 1: float32 (C, F), or None if a class has no photo.

    features: float32 (N, F); labels: int64 (N,).
    """
    units = functional.normalize(features, dim=1)
    sums = torch.zeros(num_classes, features.shape[1]).index_add_(0, labels, units)
    if (torch.bincount(labels, minlength=num_classes) == 0).any():
        return None
    return functional.normalize(sums, dim=1)


def fit_detector(features: Tensor, is_posed: BoolArray) -> Tensor:
    """Fit a logistic regression that tells photos of known poses from others: float32 (F + 1,).

    features: float32 (N, F); is_posed: (N,), with both values. Both kinds count alike, however many photos
    they have. The features are standardised, and the squares of the factors are penalised: there are more
    features than photos. The constant is last.
    """
    features = features.double()
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    # A feature that hardly differs between these photos must not decide if it differs in others.
    deviation = torch.clamp(deviation, min=max(0.1 * float(deviation.mean()), 1e-9))
    inputs = (features - mean) / deviation
    targets = torch.from_numpy(is_posed).double()
    shares = torch.where(targets > 0, 1 / targets.sum(), 1 / (1 - targets).sum())
    factors = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    constant = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([factors, constant], max_iter=200, line_search_fn="strong_wolfe")

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ factors + constant
        loss = functional.binary_cross_entropy_with_logits(logits, targets, shares, reduction="sum")
        loss = loss + PENALTY * factors.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(compute_loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        factors = factors / deviation
        return torch.cat([factors, constant - mean @ factors]).float()


def choose_floor(
    logits: Tensor,
    features: Tensor,
    labels: Tensor,
    weights: Mapping[Score, Tensor],
    *,
    temperature: float,
    target_precision: float,
    null_weight: float = 1.0,
) -> Floor | None:
    """Choose score and threshold, or give None if all answers are right, or none is.

    logits: float32 (N, C); features: float32 (N, F); labels: int64 (N,), -1 for no known pose.
    weights: of each score that needs the features, as of `feature_column`; such a score is not considered
    without them. null_weight: how much a photo of no known pose counts for the precision, compared with one
    of a pose.
    """
    is_right = (logits.argmax(dim=1) == labels).numpy()
    is_null = (labels < 0).numpy()
    if is_right.all() or not is_right.any():
        return None
    columns = {name: feature_column(name, features, of) for name, of in weights.items()}
    scores: dict[Score, FloatArray] = {
        name: candidate_score(name, logits, temperature, columns.get(name)).numpy()
        for name in SCORES
        if name not in FEATURE_SCORES or name in columns
    }
    aurocs = {name: auroc(of, is_right) for name, of in scores.items()}
    score = max(aurocs, key=lambda name: aurocs[name])
    counts = np.where(is_null, null_weight, 1.0)
    named = {str(name): area for name, area in aurocs.items()}
    threshold, choice = _choose_threshold(scores[score], is_right, is_null, counts, target_precision, named)
    return Floor(score, threshold, weights.get(score), choice)


def auroc(scores: FloatArray, is_positive: BoolArray) -> float:
    """Give the area under the ROC curve: the chance that a positive's score is higher than a negative's.

    It is computed from the ranks (Mann and Whitney 1947); equal scores count half.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    num_positive = int(is_positive.sum())
    num_negative = len(scores) - num_positive
    lowest = num_positive * (num_positive + 1) / 2
    return float((ranks[is_positive].sum() - lowest) / (num_positive * num_negative))


def _choose_threshold(
    scores: FloatArray,
    is_right: BoolArray,
    is_null: BoolArray,
    weights: FloatArray,
    target_precision: float,
    aurocs: Mapping[str, float],
) -> tuple[float, Choice]:
    order = np.argsort(scores, kind="stable")
    values, starts = np.unique(scores[order], return_index=True)
    # With the threshold at values[i], the photos from starts[i] on are answered.
    precision = _from_each(is_right[order], starts) / _from_each(weights[order], starts)
    coverage = _from_each(~is_null[order], starts) / max(1, int((~is_null).sum()))
    reaching = np.flatnonzero(precision >= target_precision)
    place = int(reaching[0]) if len(reaching) else int(np.argmax(precision))
    # The threshold is between the scores of two photos, so that a rounding error changes no answer.
    below = values[place - 1] if place else values[0] - (values[-1] - values[0]) / len(scores)
    threshold = float((values[place] + below) / 2)
    shown = np.unique(np.linspace(0, len(values) - 1, CURVE_POINTS).astype(int))
    curve = tuple((float(values[i]), float(precision[i]), float(coverage[i])) for i in shown)
    refused = float((scores[is_null] < threshold).mean()) if is_null.any() else None
    return threshold, Choice(
        target_precision=target_precision,
        precision=float(precision[place]),
        coverage=float(coverage[place]),
        refused=refused,
        num_photos=int((~is_null).sum()),
        num_null=int(is_null.sum()),
        aurocs=aurocs,
        curve=curve,
    )


def _from_each(values: BoolArray | FloatArray, starts: IntArray) -> FloatArray:
    """Sum up the entries from each start to the end."""
    return np.cumsum(values[::-1].astype(np.float64))[::-1][starts]
