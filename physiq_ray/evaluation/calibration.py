"""How far confidence is to be believed: calibration error, reliability, and the temperature that helps.

Logits are divided by a temperature before the softmax (Guo et al. 2017, "On Calibration of Modern Neural
Networks"): one number, fitted on the validation photos, that changes no answer.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error

from physiq_ray.prediction.answer import to_probabilities

NUM_BINS = 15
LOWEST, HIGHEST = 0.05, 20.0
# Where all of a few photos are told rightly, the temperature of the lowest loss is 0, which nobody should
# believe of new photos. So its logarithm has a normal prior, which a hundred photos outweigh.
PRIOR_DEVIATION = 0.5
NUM_STEPS = 60  # of the search, each of which shortens it by 0.62: to 1e-12 of where it began


@dataclass(frozen=True)
class Reliability:
    """Photos sorted by confidence into NUM_BINS bins of equal width between 0 and 1, and one of exactly 1.

    counts: int64 (NUM_BINS + 1,); confidence, accuracy: float64 (NUM_BINS + 1,), means of each bin's photos,
    0 where it has none.
    """

    counts: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Give the likeliest temperature; 1 where that one would worsen the calibration error.

    logits: float (N, classes); labels: int64 (N,). By golden-section search over its logarithm: cross-entropy
    is convex in 1/T and has one minimum.
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
    """Give the expected calibration error, 0 … 1: |accuracy − confidence| of each bin, by its photos."""
    shares = to_probabilities(logits, temperature)
    error = multiclass_calibration_error(shares, labels, num_classes=logits.shape[1], n_bins=NUM_BINS)
    return float(error)


def reliability(logits: Tensor, labels: Tensor, temperature: float) -> Reliability:
    """Sort photos by confidence, as `calibration_error` does."""
    shares, answers = to_probabilities(logits, temperature).max(dim=1)
    # As torchmetrics has it: in float32, [lower, upper), so that whatever rounds to 1 is apart.
    confidence = shares.float()
    bins = torch.bucketize(confidence, torch.linspace(0, 1, NUM_BINS + 1), right=True) - 1
    counts = torch.bincount(bins, minlength=NUM_BINS + 1)
    right = (answers == labels).double()
    sums = [torch.bincount(bins, weights=of, minlength=NUM_BINS + 1) for of in (confidence.double(), right)]
    means = [(of / counts.clamp(min=1)).numpy() for of in sums]
    return Reliability(counts.numpy(), means[0], means[1])
