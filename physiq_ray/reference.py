"""The validation photos of a model as distributions, and how far other photos are from them.

The distance of two distributions is the population stability index (PSI): the sum over all bins of
(p - q) · ln(p / q), for the shares p of the new photos and q of the validation photos. It is 0 for equal
shares. Each bin counts half a photo more than it has, so that an empty bin gives no infinite value.

If n new photos and m validation photos have the same distribution over B bins, PSI / (1/n + 1/m) is
approximately a chi-squared variable with B - 1 degrees of freedom (Yurdakul and Naranjo 2020).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_BINS = 10  # of confidence, brightness and size: the deciles of the validation photos
Z_999 = 3.0902  # quantile 0.999 of the normal distribution

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Photos by bin.

    edges: float64 (B - 1,), growing; bin i has the values from edges[i - 1] up to, but not including,
    edges[i]. counts: int64 (B,), of the validation photos.
    """

    edges: FloatArray
    counts: IntArray

    @classmethod
    def of_values(cls, values: npt.ArrayLike) -> "Histogram":
        """Divide values, float (N,) with N > 0, at their deciles; equal deciles are one edge."""
        known = np.asarray(values, np.float64)
        edges = np.unique(np.quantile(known, np.arange(1, NUM_BINS) / NUM_BINS))
        return cls(edges, np.bincount(np.searchsorted(edges, known, "right"), minlength=len(edges) + 1))

    @classmethod
    def of_classes(cls, classes: npt.ArrayLike, num_classes: int) -> "Histogram":
        """Count class indices, int (N,), each in a bin of its own."""
        counts = np.bincount(np.asarray(classes, np.int64), minlength=num_classes)
        return cls(np.arange(1, num_classes, dtype=np.float64), counts)

    @property
    def num_photos(self) -> int:
        """The number of validation photos."""
        return int(self.counts.sum())

    def bin_of(self, value: float) -> int:
        """Give the bin of a value."""
        return int(np.searchsorted(self.edges, value, "right"))

    def distance(self, counts: IntArray) -> float:
        """Give the PSI of other photos, int64 (B,), from the validation photos."""
        shares, expected = _shares(counts), _shares(self.counts)
        return float(((shares - expected) * np.log(shares / expected)).sum())

    def limit(self, num_photos: int) -> float:
        """Give the PSI that at most one of 1,000 sets of so many photos exceeds by chance.

        The quantile of chi-squared is that of Wilson and Hilferty (1931).
        """
        freedom = len(self.counts) - 1
        if not freedom:
            return math.inf
        spread = 2 / (9 * freedom)
        quantile = freedom * (1 - spread + Z_999 * math.sqrt(spread)) ** 3
        return float(quantile * (1 / num_photos + 1 / self.num_photos))


@dataclass(frozen=True, eq=False)
class Reference:
    """What a model saw in its validation: one histogram for each of NAMES.

    poses: the likeliest pose. confidence: its probability. brightness: mean luma, 0 … 1. size: bytes of the
    file.
    """

    poses: Histogram
    confidence: Histogram
    brightness: Histogram
    size: Histogram

    def values(self) -> Mapping[str, Histogram]:
        """Give the histograms by name."""
        return {name: getattr(self, name) for name in NAMES}

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for the model file."""
        return {
            name: {"edges": histogram.edges.tolist(), "counts": histogram.counts.tolist()}
            for name, histogram in self.values().items()
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, num_classes: int) -> "Reference":
        """Read what `to_dict` gave.

        Raises ValueError, TypeError, KeyError: the content is damaged.
        """
        found = {name: _read(value[name]["edges"], value[name]["counts"], name) for name in NAMES}
        if len(found["poses"].counts) != num_classes:
            raise ValueError(f"reference: poses has {len(found['poses'].counts)} bins, not {num_classes}")
        return cls(**found)


NAMES = ("poses", "confidence", "brightness", "size")


def _read(edges: Sequence[float], counts: Sequence[int], name: str) -> Histogram:
    histogram = Histogram(np.array(edges, np.float64), np.array(counts, np.int64))
    is_sound = (
        histogram.edges.ndim == histogram.counts.ndim == 1
        and len(histogram.counts) == len(histogram.edges) + 1
        and np.isfinite(histogram.edges).all()
        and (np.diff(histogram.edges) > 0).all()
        and (histogram.counts >= 0).all()
        and histogram.num_photos > 0
    )
    if not is_sound:
        raise ValueError(f"reference: {name} is not a histogram")
    return histogram


def _shares(counts: IntArray) -> FloatArray:
    shares: FloatArray = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares
