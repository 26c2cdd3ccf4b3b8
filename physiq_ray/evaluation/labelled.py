"""The labelled photos that a model can be scored on, and its outputs for them → an `Evaluation`.

`evaluate` predicts these photos with Ray Data, and the service with its own thread before it changes models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from physiq_ray.checkpoint import ModelState
from physiq_ray.constants import ALL
from physiq_ray.errors import DataError
from physiq_ray.evaluation.floor_scores import NULL, null_weight, score_floor
from physiq_ray.evaluation.scores import Answers, Evaluation, NullAnswers
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import Manifest
from physiq_ray.prediction.answer import are_known, logits_of
from physiq_ray.quarantine import Unreadable

NAMED_REASONS = 3  # in the error if all photos are unreadable


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos whose true answer is known.

    table: rows of MANIFEST_SCHEMA, at first the photos of poses that the model knows, then those of no known
    pose. num_posed: the number of the former. num_unknown: pose id → number of photos that are left out,
    because the model does not know their pose. manifest: it lists the photos. labels: uri → class index, or
    NULL.
    """

    table: pa.Table
    num_posed: int
    num_unknown: Mapping[int, int]
    manifest: Manifest
    labels: Mapping[str, int]

    @classmethod
    def of(cls, manifest: Manifest, mapping: ClassMapping, split: str) -> "LabelledPhotos":
        """Take the photos of a split ("validation", "train", "test" or "all") for a model's poses.

        Raises DataError: no photo shows a pose that the model knows.
        """
        table, no_pose = manifest.table, manifest.no_pose
        if split != ALL:
            table, no_pose = manifest.split(split), no_pose.filter(pc.equal(no_pose["split"], split))
        is_known = pc.is_in(table["pose_id"], value_set=pa.array(mapping.pose_ids, pa.int32()))
        unknown = table.filter(pc.invert(is_known))["pose_id"].value_counts().to_pylist()
        table = table.filter(is_known)
        if not table.num_rows:
            raise DataError(f"nothing to evaluate: no photo of a pose the model knows in split {split!r}")
        every = pa.concat_tables([table, no_pose])
        index = {pose_id: number for number, pose_id in enumerate(mapping.pose_ids)}
        pose_ids = every["pose_id"].to_pylist()
        return cls(
            every,
            table.num_rows,
            {item["values"]: item["counts"] for item in unknown},
            manifest,
            {
                uri: index.get(pose_id, NULL)
                for uri, pose_id in zip(every["uri"].to_pylist(), pose_ids, strict=True)
            },
        )

    def evaluation(
        self,
        uris: Sequence[str],
        outputs: Tensor,
        state: ModelState,
        *,
        unreadable: Sequence[Unreadable] = (),
        brightness: Mapping[str, float] | None = None,
    ) -> Evaluation:
        """Compare a model's outputs with the labels.

        uris: the photos that were predicted, in any order. outputs: float32 (N, C) or (N, C + 1), of the
        model's network. brightness: as in `Evaluation`. Other photos may be among all of these, as another
        model may know more poses; they are left out.
        Raises DataError: no photo of a pose is among them; the message gives the first reasons.
        """
        own = [row for row, uri in enumerate(uris) if uri in self.labels]
        uris, outputs = [uris[row] for row in own], outputs[own]
        unreadable = [item for item in unreadable if item.uri in self.labels]
        labels = np.array([self.labels[uri] for uri in uris], np.int64)
        group_of = dict(zip(*(self.table[name].to_pylist() for name in ("uri", "group")), strict=True))
        every, groups = np.array(uris, object), np.array([group_of[uri] for uri in uris], object)
        is_null = labels == NULL
        if is_null.all():
            reasons = "; ".join(f"{item.uri}: {item.error}" for item in unreadable[:NAMED_REASONS])
            more = len(unreadable) - NAMED_REASONS
            raise DataError(
                f"nothing to evaluate: none of the {self.num_posed} photos could be read: {reasons}"
                + (f"; and {more} more" if more > 0 else "")
            )
        floor = None
        if state.floor is not None:
            weight = null_weight(self.manifest, labels)
            floor = score_floor(outputs, labels, groups.tolist(), state, null_weight=weight)
        return Evaluation(
            Answers(
                tuple(every[~is_null]),
                torch.from_numpy(labels[~is_null]),
                logits_of(outputs, state)[torch.from_numpy(~is_null)],
                tuple(groups[~is_null]),
            ),
            tuple(unreadable),
            self.num_unknown,
            NullAnswers(
                tuple(every[is_null]), tuple(groups[is_null]), ~are_known(outputs, state).numpy()[is_null]
            ),
            floor,
            {uri: value for uri, value in (brightness or {}).items() if uri in self.labels},
        )
