"""Compare a new model with an old one on the same photos, by an exact test for groups of photos.

A photo is right or wrong for each model. If the models are equally good, the two results of a group of photos
could as well be exchanged. So the difference between the numbers of right photos is distributed as a sum over
the groups, in which the difference of each group has a random sign. This distribution is computed exactly. If
each photo is a group of its own, the test is McNemar's exact test (McNemar 1947).

The test is made for all photos, for each pose, and for the photos labelled as no known pose; such a photo is
right if the model refuses it, and is not among "all photos". Holm's correction (1979) keeps the probability
that any of these tests reports a difference between equally good models below SIGNIFICANCE.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from physiq_ray.errors import DataError
from physiq_ray.evaluation.intervals import BoolArray, FloatArray, IntArray, number_groups
from physiq_ray.evaluation.scores import Evaluation
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import TRAIN, VALIDATION, Manifest

SIGNIFICANCE = 0.05
EVERY_PHOTO = "all photos"
NO_KNOWN_POSE = "no known pose"


@dataclass(frozen=True)
class Change:
    """How the share of right photos changed.

    old, new: the accuracies of the models, 0 … 1. p_value: the probability of a difference at least as large,
    in either direction, between equally good models. adjusted: the same with Holm's correction.
    """

    name: str
    num_photos: int
    num_groups: int
    old: float
    new: float
    p_value: float
    adjusted: float

    @property
    def is_significant(self) -> bool:
        """Whether equally good models would rarely differ so much."""
        return self.adjusted < SIGNIFICANCE

    @property
    def is_worse(self) -> bool:
        """Whether the new model is significantly worse."""
        return self.is_significant and self.new < self.old

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            "name": self.name,
            "photos": self.num_photos,
            "groups": self.num_groups,
            "old": self.old,
            "new": self.new,
            "p": self.p_value,
            "adjusted_p": self.adjusted,
            "significant": self.is_significant,
        }


@dataclass(frozen=True)
class Comparison:
    """The changes of all photos, of each pose, and of the photos of no known pose if there are any.

    num_only_new, num_only_old: photos of poses that only one of the models knows; they are wrong for the
    other one. cautions: sentences on photos that one of the models had in its training.
    """

    overall: Change
    poses: tuple[Change, ...]
    num_only_new: int
    num_only_old: int
    cautions: tuple[str, ...] = ()

    @property
    def worse(self) -> tuple[Change, ...]:
        """The changes in which the new model is significantly worse."""
        return tuple(change for change in (self.overall, *self.poses) if change.is_worse)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            "overall": self.overall.to_dict(),
            "poses": [pose.to_dict() for pose in self.poses],
            "photos_only_new_knows": self.num_only_new,
            "photos_only_old_knows": self.num_only_old,
            "cautions": list(self.cautions),
            "worse": [change.name for change in self.worse],
        }


def compare(
    new: Evaluation,
    old: Evaluation,
    mappings: tuple[ClassMapping, ClassMapping],
    pose_names: Mapping[int, str],
    *,
    training: tuple[Manifest | None, Manifest | None] = (None, None),
) -> Comparison:
    """Compare two models that predicted the same photos.

    mappings, training: of the new and the old model; the photos that a model was trained on are None if they
    are not known. pose_names: pose id → name.
    Photos that are unreadable in one of the evaluations do not count.
    Raises DataError: no photo was predicted by a model that knows its pose.
    """
    by_model = [
        {uri: (pose, group, right) for uri, pose, group, right in _results(found, mapping)}
        for found, mapping in zip((new, old), mappings, strict=True)
    ]
    unreadable = {item.uri for found in (new, old) for item in found.unreadable}
    uris = sorted((by_model[0].keys() | by_model[1].keys()) - unreadable)
    if not uris:
        raise DataError("nothing to compare: none of the photos could be read")
    known = [by_model[0].get(uri) or by_model[1][uri] for uri in uris]
    pose_ids = np.array([pose for pose, _, _ in known])
    groups = number_groups([group for _, group, _ in known])
    new_right, old_right = (
        np.array([uri in results and results[uri][2] for uri in uris]) for results in by_model
    )
    overall = _change(EVERY_PHOTO, new_right, old_right, groups)
    poses = [
        _change(
            pose_names.get(pose, f"Pose {pose}"),
            *(of[pose_ids == pose] for of in (new_right, old_right, groups)),
        )
        for pose in sorted(set(pose_ids.tolist()))
    ]
    if (nulls := _null_change(new, old)) is not None:
        poses.append(nulls)
    overall, *poses = _corrected([overall, *poses])
    return Comparison(
        overall,
        tuple(poses),
        num_only_new=sum(uri not in by_model[1] for uri in uris),
        num_only_old=sum(uri not in by_model[0] for uri in uris),
        cautions=tuple(_cautions(uris, training)),
    )


def _null_change(new: Evaluation, old: Evaluation) -> Change | None:
    refused = [
        dict(zip(found.nulls.uris, found.nulls.is_refused.tolist(), strict=True)) for found in (new, old)
    ]
    rows = [
        (group, refused[0][uri], refused[1][uri])
        for uri, group in zip(new.nulls.uris, new.nulls.groups, strict=True)
        if uri in refused[1]
    ]
    if not rows:
        return None
    groups, new_right, old_right = zip(*rows, strict=True)
    return _change(NO_KNOWN_POSE, np.array(new_right), np.array(old_right), number_groups(groups))


def exact_p_value(differences: IntArray) -> float:
    """Give the probability that random signs give a sum at least as far from 0 as the sum of differences.

    differences: int64 (groups,).
    """
    sizes = np.abs(differences[differences != 0])
    total, observed = int(sizes.sum()), abs(int(differences.sum()))
    # Entry k is the probability that the positive differences have the sum k; then the sum is 2 k - total.
    chances = _binomial(int(np.count_nonzero(sizes == 1)))
    for size in sizes[sizes > 1].tolist():
        longer = np.zeros(len(chances) + size)
        longer[:-size] += chances / 2
        longer[size:] += chances / 2
        chances = longer
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(chances[np.abs(sums) >= observed].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's correction: the smallest p-value counts n times, the next one n - 1 times, and so on."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def _results(found: Evaluation, mapping: ClassMapping) -> Iterator[tuple[str, int, str, bool]]:
    answers = found.answers
    right = (answers.logits.argmax(dim=1) == answers.labels).tolist()
    poses = [mapping.pose_ids[label] for label in answers.labels.tolist()]
    return zip(answers.uris, poses, answers.groups or answers.uris, right, strict=True)


def _change(name: str, new_right: BoolArray, old_right: BoolArray, groups: IntArray) -> Change:
    differences = np.bincount(groups, weights=new_right.astype(np.int64) - old_right).astype(np.int64)
    p_value = exact_p_value(differences)
    num_groups = len(np.unique(groups))
    old, new = float(old_right.mean()), float(new_right.mean())
    return Change(name, len(groups), num_groups, old, new, p_value, p_value)


def _corrected(changes: Sequence[Change]) -> list[Change]:
    adjusted = holm([change.p_value for change in changes])
    return [replace(change, adjusted=value) for change, value in zip(changes, adjusted, strict=True)]


def _binomial(trials: int) -> FloatArray:
    """Give the probabilities of 0 … trials heads of a fair coin, from logarithms, which do not overflow."""
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    logs = log_factorials[-1] - log_factorials - log_factorials[::-1] - trials * math.log(2)
    chances: FloatArray = np.exp(logs)
    return chances


def _cautions(uris: Sequence[str], training: tuple[Manifest | None, Manifest | None]) -> Iterator[str]:
    for name, manifest in zip(("new", "old"), training, strict=True):
        if manifest is None:
            yield f"it is not known whether the {name} model was trained on any of these photos"
            continue
        for split, what in (
            (TRAIN, "were training photos of the {} model, which favours it"),
            (VALIDATION, "chose the epoch of the {} model, which favours it a little"),
        ):
            if count := manifest.count(uris, split):
                yield f"{count} of the {len(uris)} photos {what.format(name)}"
