"""The accuracy of slices of the photos, and which slices are significantly below the other photos.

A slice is compared with all other photos of its dimension by Fisher's exact test (Fisher 1935, "The logic of
inductive inference"), one-sided: could so many of the wrong photos be in the slice by chance? Photos of one
group are alike, so the test counts the effective number of photos on each side (Rao & Scott 1992, "A simple
method for the analysis of clustered binary data"), which the interval of the slice uses too. If each photo is
a group of its own, the test is exact. If a group has photos on both sides, their likeness makes the sides
differ less than the test assumes, so that it is on the safe side. A permutation of whole groups would need
groups of equal size, and could not test a slice that cuts through groups.

Holm's correction over the slices of all dimensions keeps the probability that any slice is named below
SIGNIFICANCE if the model is equally good on all photos.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from physiq_ray.evaluation.compare import SIGNIFICANCE, holm
from physiq_ray.evaluation.dimensions import Dimension, find_dimensions
from physiq_ray.evaluation.intervals import (
    BoolArray,
    IntArray,
    Interval,
    effective_number,
    number_groups,
    share_interval,
)
from physiq_ray.evaluation.scores import Answers, Report

# Fewer photos or groups can hardly be significant, and each test makes the correction of the others stronger.
# So a single group, which is one observation, is never tested.
FEWEST_PHOTOS, FEWEST_GROUPS = 10, 5
ROUNDING = 1e-6  # counts that differ from a whole number by less are that number


@dataclass(frozen=True)
class Slice:
    """The accuracy on a part of the photos, 0 … 1.

    others: the accuracy on the other photos of the dimension. p_value: the probability that a slice of
    equally easy photos is as far below the others; None if the slice is too small to be tested. adjusted: the
    same with Holm's correction.
    """

    dimension: str
    name: str
    num_photos: int
    num_groups: int
    accuracy: float
    interval: Interval
    others: float
    p_value: float | None = None
    adjusted: float | None = None

    @property
    def is_below(self) -> bool:
        """Whether the accuracy is significantly below that of the other photos."""
        return self.adjusted is not None and self.adjusted < SIGNIFICANCE

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return asdict(self) | {"below_the_others": self.is_below}


@dataclass(frozen=True)
class Slices:
    """All slices, those of one dimension after each other."""

    slices: tuple[Slice, ...]

    @property
    def tested(self) -> tuple[Slice, ...]:
        """The slices that were tested, those with the lowest accuracy first."""
        tested = [item for item in self.slices if item.p_value is not None]
        return tuple(sorted(tested, key=lambda item: item.accuracy))

    @property
    def below(self) -> tuple[Slice, ...]:
        """The slices that are significantly below the other photos, the worst first."""
        return tuple(item for item in self.tested if item.is_below)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for report.json."""
        return {
            "num_tested": len(self.tested),
            "below_the_others": [f"{item.dimension}: {item.name}" for item in self.below],
            "all": [item.to_dict() for item in self.slices],
        }


def slice_report(
    report: Report, answers: Answers, photos: pa.Table, brightness: Mapping[str, float] | None = None
) -> Slices:
    """Divide the photos of a report by each dimension, and test each slice.

    answers, photos, brightness: as for `find_dimensions`.
    """
    names = [pose.name for pose in report.poses]
    is_right = (answers.logits.argmax(dim=1) == answers.labels).numpy()
    groups = number_groups(answers.groups) if answers.groups else np.arange(len(is_right))
    return find_slices(is_right, groups, find_dimensions(answers, photos, names, brightness or {}))


def find_slices(is_right: BoolArray, groups: IntArray, dimensions: Sequence[Dimension]) -> Slices:
    """Score and test each slice of each dimension.

    is_right: bool (photos,). groups: int64 (photos,), from `number_groups`.
    """
    slices = [item for dimension in dimensions for item in _slices_of(dimension, is_right, groups)]
    tested = [number for number, item in enumerate(slices) if item.p_value is not None]
    adjusted = holm([item.p_value for item in slices if item.p_value is not None])
    for number, value in zip(tested, adjusted, strict=True):
        slices[number] = replace(slices[number], adjusted=value)
    return Slices(tuple(slices))


def lower_p_value(is_right: BoolArray, groups: IntArray, is_inside: BoolArray) -> float:
    """Give the probability that a slice of equally easy photos has an accuracy as far below the others'.

    is_right, is_inside: bool (photos,), with photos inside and outside; groups: int64 (photos,).
    """
    share, num_inside = _effective(is_right[is_inside], groups[is_inside])
    share_outside, num_outside = _effective(is_right[~is_inside], groups[~is_inside])
    # Rounded so that the sides differ less: few wrong photos inside, many outside.
    wrong = int(np.floor((1 - share) * num_inside + ROUNDING))
    wrong_outside = int(np.ceil((1 - share_outside) * num_outside - ROUNDING))
    return fisher_p_value(wrong, num_inside, wrong_outside, num_outside)


def fisher_p_value(wrong: int, num_inside: int, wrong_outside: int, num_outside: int) -> float:
    """Give the probability that at least so many of all wrong photos are inside, if chance divides them.

    It is the upper tail of the hypergeometric distribution.
    """
    num_photos, num_wrong = num_inside + num_outside, wrong + wrong_outside
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num_photos + 1)))])  # of factorials

    def choose(num: int, counts: IntArray | int) -> Any:
        return logs[num] - logs[counts] - logs[num - counts]

    counts = np.arange(wrong, min(num_inside, num_wrong) + 1)
    chances = choose(num_inside, counts) + choose(num_outside, num_wrong - counts)
    return min(1.0, float(np.exp(chances - choose(num_photos, num_wrong)).sum()))


def _effective(is_right: BoolArray, groups: IntArray) -> tuple[float, int]:
    """Give the share of right photos and the effective number of photos, rounded down to at least 1."""
    number = effective_number(is_right, groups)
    return float(is_right.mean()), max(1, int(np.floor(number + ROUNDING)))


def _slices_of(dimension: Dimension, is_right: BoolArray, groups: IntArray) -> Iterator[Slice]:
    is_known = dimension.codes >= 0
    if dimension.name == "group":  # the list has only some of the groups
        is_known = np.ones(len(is_right), bool)
    for code, name in enumerate(dimension.names):
        is_inside = dimension.codes == code
        num_photos, is_outside = int(is_inside.sum()), is_known & ~is_inside
        if not num_photos or not is_outside.any():
            continue
        num_groups = len(np.unique(groups[is_inside]))
        p_value = None
        if num_photos >= FEWEST_PHOTOS and num_groups >= FEWEST_GROUPS:
            p_value = lower_p_value(is_right[is_known], groups[is_known], is_inside[is_known])
        yield Slice(
            dimension.name,
            name,
            num_photos,
            num_groups,
            float(is_right[is_inside].mean()),
            share_interval(is_right, groups, is_inside),
            float(is_right[is_outside].mean()),
            p_value,
        )
