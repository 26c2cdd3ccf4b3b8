"""Predict labelled photos with Ray Data. This file imports Ray, so the package does not import this file."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import connect
from physiq_ray.constants import ALL, VALIDATION
from physiq_ray.errors import DataError
from physiq_ray.evaluation.floor_scores import NULL, null_weight, score_floor
from physiq_ray.evaluation.scores import Answers, Evaluation, NullAnswers
from physiq_ray.manifest import Manifest
from physiq_ray.prediction.answer import are_known, logits_of
from physiq_ray.prediction.batch import predict_table
from physiq_ray.storage import PhotoSource

NAMED_REASONS = 3  # in the error if all photos are unreadable


def evaluate(
    manifest: Manifest,
    state: ModelState,
    *,
    split: str = VALIDATION,
    precision: str = "auto",
    batch_size: int = 32,
    source: PhotoSource | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    debug: bool = False,
) -> Evaluation:
    """Predict the photos of a split: validation, train, test or all; also those of no known pose.

    source: the caller's own source, if the manifest lists its photos.
    Raises DataError: no photo shows a pose that the model knows, or all photos are unreadable (with the first
    reasons); and all errors of `predict_table`.
    """
    table, no_pose = manifest.table, manifest.no_pose
    if split != ALL:
        table, no_pose = manifest.split(split), no_pose.filter(pc.equal(no_pose["split"], split))
    is_known = pc.is_in(table["pose_id"], value_set=pa.array(state.class_mapping.pose_ids, pa.int32()))
    unknown = table.filter(pc.invert(is_known))["pose_id"].value_counts().to_pylist()
    table = table.filter(is_known)
    if not table.num_rows:
        raise DataError(f"nothing to evaluate: no photo of a pose the model knows in split {split!r}")
    index = {pose_id: number for number, pose_id in enumerate(state.class_mapping.pose_ids)}
    every = pa.concat_tables([table, no_pose])
    known = {
        uri: (index.get(pose_id, NULL), group)
        for uri, pose_id, group in zip(
            *(every[name].to_pylist() for name in ("uri", "pose_id", "group")), strict=True
        )
    }
    connect(debug=debug)
    batches = list(
        predict_table(
            every,
            state,
            precision=precision,
            batch_size=batch_size,
            reader=source,
            with_brightness=True,
            on_progress=on_progress,
        )
    )
    uris = np.array([uri for batch in batches for uri in batch.uris], object)
    unreadable = tuple(item for batch in batches for item in batch.unreadable)
    labels = np.array([known[uri][0] for uri in uris], np.int64)
    groups = np.array([known[uri][1] for uri in uris], object)
    is_null = labels == NULL
    if is_null.all():
        reasons = "; ".join(f"{item.uri}: {item.error}" for item in unreadable[:NAMED_REASONS])
        more = len(unreadable) - NAMED_REASONS
        raise DataError(
            f"nothing to evaluate: none of the {table.num_rows} photos could be read: {reasons}"
            + (f"; and {more} more" if more > 0 else "")
        )
    outputs = torch.from_numpy(np.concatenate([batch.outputs for batch in batches]))
    logits = logits_of(outputs, state)
    is_known = are_known(outputs, state).numpy()
    floor = None
    if state.floor is not None:
        weight = null_weight(manifest, labels)
        floor = score_floor(outputs, labels, groups.tolist(), state, null_weight=weight)
    brightness = dict(zip(uris, (value for batch in batches for value in batch.brightness), strict=True))
    return Evaluation(
        Answers(
            tuple(uris[~is_null]),
            torch.from_numpy(labels[~is_null]),
            logits[torch.from_numpy(~is_null)],
            tuple(groups[~is_null]),
        ),
        unreadable,
        {item["values"]: item["counts"] for item in unknown},
        NullAnswers(tuple(uris[is_null]), tuple(groups[is_null]), ~is_known[is_null]),
        floor,
        brightness,
    )
