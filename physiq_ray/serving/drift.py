"""How far the photos of the last requests are from those of the model's validation.

    drift = Drift(reference)
    drift.add(values)
    drift.distances()

Each replica looks at its own last WINDOW photos. One number for each of `reference.NAMES` says how far they
are; a number above its limit is no accident. Adding a photo takes some microseconds.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from physiq_ray.reference import NAMES, Reference

WINDOW = 500
LEAST = 100  # photos below which there are no numbers
REPORT_EVERY = 25  # photos


@dataclass(frozen=True)
class Distance:
    """The PSI of the window from the validation photos, and the limit from which on it is no accident."""

    value: float
    limit: float


class Drift:
    """The last photos that one model predicted; its methods are called from one thread."""

    def __init__(self, reference: Reference) -> None:
        """Start with an empty window."""
        self._histograms = reference.values()
        self._num_added = 0
        self._window: deque[tuple[int, ...]] = deque()
        self._counts = {
            name: np.zeros(len(histogram.counts), np.int64) for name, histogram in self._histograms.items()
        }

    @property
    def num_photos(self) -> int:
        """The photos in the window."""
        return len(self._window)

    @property
    def is_due(self) -> bool:
        """Whether the distances should be reported now: after each REPORT_EVERY photos."""
        return self.num_photos >= LEAST and not self._num_added % REPORT_EVERY

    def add(self, values: Mapping[str, float]) -> None:
        """Add a photo; values: of all NAMES, the class index for poses."""
        bins = tuple(self._histograms[name].bin_of(values[name]) for name in NAMES)
        self._window.append(bins)
        self._num_added += 1
        for name, number in zip(NAMES, bins, strict=True):
            self._counts[name][number] += 1
        if len(self._window) > WINDOW:
            for name, number in zip(NAMES, self._window.popleft(), strict=True):
                self._counts[name][number] -= 1

    def distances(self) -> dict[str, Distance]:
        """Give the distance of each of NAMES; empty with fewer than LEAST photos."""
        if self.num_photos < LEAST:
            return {}
        return {
            name: Distance(histogram.distance(self._counts[name]), histogram.limit(self.num_photos))
            for name, histogram in self._histograms.items()
        }
