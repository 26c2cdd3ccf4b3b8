"""The ranked photos, and how many of their labels are likely wrong, by bucket and by pair of poses."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from physiq_ray.errors import DataError
from physiq_ray.evaluation.intervals import FloatArray, IntArray
from physiq_ray.labels import ClassMapping
from physiq_ray.quarantine import Unreadable
from physiq_ray.suspects.rank import rank


@dataclass(frozen=True)
class Predicted:
    """Photos with the probabilities of a model that, as far as is known, was not trained on them.

    photos: N rows of a manifest. probabilities: float64 (N, classes), calibrated; 0 for a pose that the model
    of the photo does not know. folds: int64 (N,), the fold of each photo from 1, or 0 without folds.
    limits: sentences on what the ranking cannot show. failed_sources: a sentence for each source that could
    not be listed.
    """

    photos: pa.Table
    probabilities: FloatArray
    folds: IntArray
    class_mapping: ClassMapping
    pose_names: Mapping[int, str]
    unreadable: tuple[Unreadable, ...] = ()
    limits: tuple[str, ...] = ()
    failed_sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)  # there may be millions
class Suspect:
    """A ranked photo. rank: from 1. probability, suggested_probability: of the two poses, 0 … 1."""

    rank: int
    uri: str
    bucket: str
    group: str
    pose_id: int
    probability: float
    suggested_pose_id: int
    suggested_probability: float
    is_likely_wrong: bool
    fold: int


@dataclass(frozen=True)
class Suspects:
    """All ranked photos, the most suspicious one first, and what was left out."""

    ranked: tuple[Suspect, ...]
    pose_names: Mapping[int, str]
    unreadable: tuple[Unreadable, ...]
    limits: tuple[str, ...]
    failed_sources: tuple[str, ...]

    @property
    def num_likely_wrong(self) -> int:
        """How many labels are likely wrong; their photos are the first ones."""
        return sum(photo.is_likely_wrong for photo in self.ranked)

    @property
    def agreement(self) -> float:
        """The share of the photos for which no pose is more probable than the label, 0 … 1."""
        return sum(photo.probability >= photo.suggested_probability for photo in self.ranked) / len(
            self.ranked
        )

    @property
    def buckets(self) -> dict[str, tuple[int, int]]:
        """The ranked photos of each bucket, and how many of their labels are likely wrong."""
        total = Counter(photo.bucket for photo in self.ranked)
        wrong = Counter(photo.bucket for photo in self.ranked if photo.is_likely_wrong)
        return {bucket: (total[bucket], wrong[bucket]) for bucket in sorted(total)}

    @property
    def pairs(self) -> list[tuple[int, int, int]]:
        """The likely wrong labels by labelled and suggested pose id, with their number, the most first."""
        counts = Counter(
            (photo.pose_id, photo.suggested_pose_id) for photo in self.ranked if photo.is_likely_wrong
        )
        return sorted(((*pair, count) for pair, count in counts.items()), key=lambda item: (-item[2], item))

    def name(self, pose_id: int) -> str:
        """Give the name of a pose."""
        return self.pose_names.get(pose_id, f"Pose {pose_id}")

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON; the photos themselves are in suspects.jsonl."""
        return {
            "num_ranked": len(self.ranked),
            "num_likely_wrong": self.num_likely_wrong,
            "agreement": self.agreement,
            "buckets": [
                {"bucket": bucket, "ranked": total, "likely_wrong": wrong}
                for bucket, (total, wrong) in self.buckets.items()
            ],
            "pairs": [
                {"pose_id": label, "suggested_pose_id": other, "likely_wrong": count}
                for label, other, count in self.pairs
            ],
            "limits": list(self.limits),
            "unreadable": [asdict(item) for item in self.unreadable],
            "failed_sources": list(self.failed_sources),
        }


def find_suspects(predicted: Predicted) -> Suspects:
    """Rank the photos.

    Raises DataError: the models know fewer than two poses.
    """
    pose_ids = predicted.class_mapping.pose_ids
    if len(pose_ids) < 2:
        raise DataError("nothing to rank: the model knows only one pose, so it can suggest no other one")
    columns = {name: predicted.photos[name].to_pylist() for name in ("uri", "bucket", "group", "pose_id")}
    index = {pose_id: number for number, pose_id in enumerate(pose_ids)}
    labels = np.array([index[pose_id] for pose_id in columns["pose_id"]], np.int64)
    ranking = rank(predicted.probabilities, labels)
    ranked = tuple(
        Suspect(
            rank=place,
            uri=columns["uri"][row],
            bucket=columns["bucket"][row],
            group=columns["group"][row],
            pose_id=columns["pose_id"][row],
            probability=float(predicted.probabilities[row, labels[row]]),
            suggested_pose_id=pose_ids[ranking.suggested[row]],
            suggested_probability=float(predicted.probabilities[row, ranking.suggested[row]]),
            is_likely_wrong=bool(ranking.is_likely_wrong[row]),
            fold=int(predicted.folds[row]),
        )
        for place, row in enumerate(ranking.order.tolist(), start=1)
    )
    return Suspects(
        ranked, predicted.pose_names, predicted.unreadable, predicted.limits, predicted.failed_sources
    )
