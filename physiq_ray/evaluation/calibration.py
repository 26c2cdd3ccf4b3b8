"""Calibration of the confidence: calibration error, reliability, and the temperature.

Logits are divided by a temperature before the softmax (Guo et al. 2017, "On Calibration of Modern Neural
Networks"). It is one number, fitted on the validation photos, and changes no predicted pose.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from physiq_ray.prediction.answer import to_probabilities

NUM_BINS = 15
LOWEST, HIGHEST = 0.05, 20.0
# If there are few photos and all are predicted correctly, the temperature with the lowest loss is 0, which is
# wrong for new photos. So the logarithm has a normal prior, which has little effect from 100 photos up.
PRIOR_DEVIATION = 0.5
NUM_STEPS = 60  # each step of the search shortens the interval to 0.62: to 1e-12 of the first one in the end


@dataclass(frozen=True)
class Reliability:
    """Photos in NUM_BINS bins of equal width by confidence, 0 … 1, and one more bin for exactly 1.

    counts: int64 (NUM_BINS + 1,); confidence, accuracy: float64 (NUM_BINS + 1,), the means of the photos of
    each bin, 0 for an empty bin.
    """

    counts: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Give the most probable temperature, or 1 if that temperature would increase the calibration error.

    logits: float (N, classes); labels: int64 (N,). Method: golden-section search over the logarithm of the
    temperature T; the cross-entropy is convex in 1/T and has one minimum.
    """
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        prior = (log_temperature / PRIOR_DEVIATION) ** 2 / 2
        return prior + float(
            functional.cross_entropy(logits / np.exp(log_temperature), labels, reduction="sum")
        )

    low, high, golden = np.log(LOWEST), np.log(HIGHEST), (np.sqrt(5) - 1) / 2
    for _ in range(NUM_STEPS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    temperature = float(np.exp((low + high) / 2))
    worsens = calibration_error(logits, labels, temperature) > calibration_error(logits, labels, 1.0)
    return 1.0 if worsens else temperature


def calibration_error(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Give the expected calibration error, 0 … 1: the mean |accuracy − confidence| of the bins.

    Each bin is weighted by its number of photos.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # takes a second

    shares = to_probabilities(logits, temperature)
    error = multiclass_calibration_error(shares, labels, num_classes=logits.shape[1], n_bins=NUM_BINS)
    return float(error)


def reliability(logits: Tensor, labels: Tensor, temperature: float) -> Reliability:
    """Put photos into bins by confidence, in the same way as `calibration_error`."""
    shares, answers = to_probabilities(logits, temperature).max(dim=1)
    # torchmetrics uses float32 and bins [lower, upper), so confidences that round to 1 get their own bin.
    confidence = shares.float()
    bins = torch.bucketize(confidence, torch.linspace(0, 1, NUM_BINS + 1), right=True) - 1
    counts = torch.bincount(bins, minlength=NUM_BINS + 1)
    right = (answers == labels).double()
    sums = [torch.bincount(bins, weights=of, minlength=NUM_BINS + 1) for of in (confidence.double(), right)]
    means = [(of / counts.clamp(min=1)).numpy() for of in sums]
    return Reliability(counts.numpy(), means[0], means[1])
