"""Probabilities and labels → the order of the photos, and which labels are likely wrong: functions of arrays.

The order. With p(j) the probability of pose j for a photo and i the pose of its label, the normalised margin
is (p(i) - max p(j ≠ i) + 1) / 2: 0 if the model is certain of another pose, 1 if it is certain of the label.

Likely wrong. Confident learning (Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty
in Dataset Labels", equations 1 and 2): the threshold t(j) is the mean of p(j) over the photos that are
labelled j. A photo counts as pose j if p(j) ≥ t(j); of several such poses, j is the one with the highest
p(j). The label is likely wrong if j is not i. As in cleanlab, it is not if the label has the highest
probability of all. The thresholds take account of a model that is less certain of some poses than of others.

Photos whose labels are likely wrong come first, then the others, each by margin. So the user can stop at the
last one that is likely wrong.
"""

from dataclasses import dataclass

import numpy as np

from physiq_ray.evaluation.intervals import BoolArray, FloatArray, IntArray

ROUNDING = 1e-9  # a mean of equal probabilities may be above each of them by so little


@dataclass(frozen=True)
class Ranking:
    """The ranked photos, as arrays with one entry per photo, in the order of the probabilities.

    order: int64, the photos from the most suspicious one to the least. suggested: int64, the class index of
    the most probable pose that is not the label. margin: float64, 0 … 1. is_likely_wrong: bool.
    """

    order: IntArray
    suggested: IntArray
    margin: FloatArray
    is_likely_wrong: BoolArray


def rank(probabilities: FloatArray, labels: IntArray) -> Ranking:
    """Rank photos by how little the model believes their labels.

    probabilities: float64 (N, classes), calibrated, of models that were not trained on the photos; at least
    two classes. labels: int64 (N,), class indices.
    """
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1.0
    suggested = others.argmax(axis=1)
    margin = (probabilities[rows, labels] - others[rows, suggested] + 1) / 2
    is_likely_wrong = find_likely_wrong(probabilities, labels)
    order = np.lexsort((margin, ~is_likely_wrong))
    return Ranking(order, suggested, margin, is_likely_wrong)


def find_likely_wrong(probabilities: FloatArray, labels: IntArray) -> BoolArray:
    """Tell which labels are likely wrong: bool (N,); the arrays are those of `rank`."""
    reached = np.where(probabilities >= thresholds(probabilities, labels) - ROUNDING, probabilities, -1.0)
    pose = reached.argmax(axis=1)
    counts_as_one = reached.max(axis=1) >= 0
    is_likely_wrong: BoolArray = counts_as_one & (pose != labels) & (probabilities.argmax(axis=1) != labels)
    return is_likely_wrong


def thresholds(probabilities: FloatArray, labels: IntArray) -> FloatArray:
    """Give the mean probability of each pose over the photos that are labelled so: float64 (classes,).

    A pose without photos has an infinite threshold, which no photo reaches.
    """
    num_classes = probabilities.shape[1]
    of_label = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=of_label, minlength=num_classes)
    means: FloatArray = np.divide(sums, counts, out=np.full(num_classes, np.inf), where=counts > 0)
    return means
