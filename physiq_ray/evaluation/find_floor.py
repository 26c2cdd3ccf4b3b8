"""Compute what the choice of a floor needs, for a sample of a training's photos. This file imports Ray."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.exceptions import RayError
from torch import Tensor

from physiq_ray.checkpoint import ModelState
from physiq_ray.constants import TEST, TRAIN
from physiq_ray.errors import DataError, PredictionError
from physiq_ray.evaluation.choose_floor import choose_floor, fit_detector, halve, mean_features
from physiq_ray.evaluation.floor_scores import NULL, null_weight
from physiq_ray.floor import Floor, Score
from physiq_ray.ingest import PhotoReader, StoredPhotos
from physiq_ray.manifest import Manifest
from physiq_ray.manifest.subset import choose_rows
from physiq_ray.prediction.features import FeaturesOf, compute_features
from physiq_ray.storage import PhotoSource, current_access

TRAIN_PHOTOS = 20  # of each pose, for its mean features and for the detector
MOST_PHOTOS = 1000  # of the validation photos, and of those of no known pose
LEAST_FOR_DETECTOR = 20  # photos of no known pose: half of them fit the detector


def find_floor(
    manifest: Manifest,
    state: ModelState,
    uris: Sequence[str],
    *,
    target_precision: float,
    precision: str = "auto",
    source: PhotoSource | None = None,
    use_gpu: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Floor | None:
    """Choose the floor of a trained model, or give None if all answers are right, or none is.

    uris: validation photos that did not choose the temperature. Photos of no known pose that are not in the
    test are used with them. Training photos give the mean features of each pose, and fit the detector with
    one half of the photos of no known pose, by groups; only the other half then chooses. The photos are
    computed in this process, or on a GPU of the cluster if use_gpu is set.
    Raises DataError: there is no such validation photo. PredictionError: the GPU's process failed.
    """
    is_chosen = pc.is_in(manifest.table["uri"], value_set=pa.array(uris, pa.large_string()))
    no_test = manifest.no_pose.filter(pc.not_equal(manifest.no_pose["split"], TEST))
    trained = _sample_of_poses(manifest.split(TRAIN), TRAIN_PHOTOS)
    validated = _sample(manifest.table.filter(is_chosen), MOST_PHOTOS)
    if not validated.num_rows:
        raise DataError(
            "too few groups of validation photos: the temperature needs one, and the floor another"
        )
    null = _sample(no_test, MOST_PHOTOS)
    fits = halve(null["group"].to_pylist())
    if null.num_rows < LEAST_FOR_DETECTOR or fits.all():
        fits[:] = False
    table = pa.concat_tables([trained, null.filter(pa.array(fits)), validated, null.filter(pa.array(~fits))])
    reader = source or StoredPhotos(current_access())
    if use_gpu:
        state = replace(state, optimizer_state_dict={}, history=(), settings={})  # less to send
        try:
            found: FeaturesOf = ray.get(_on_gpu.remote(table, state, precision, reader))
        except RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise PredictionError(f"Ray failed: {lines[-1]}") from error
    else:
        found = compute_features(
            table, state, precision=precision, reader=reader, use_gpu=False, on_progress=on_progress
        )
    labels = pc.fill_null(table["class_index"], NULL).to_numpy().astype(np.int64)
    label = torch.from_numpy(labels)[found.rows]
    is_reference = found.rows < trained.num_rows + int(fits.sum())
    chosen = label[~is_reference]
    return choose_floor(
        _logits(found.features[~is_reference], state),
        found.features[~is_reference],
        chosen,
        _find_weights(found.features[is_reference], label[is_reference], len(state.class_mapping.classes)),
        temperature=state.temperature,
        target_precision=target_precision,
        null_weight=null_weight(manifest, chosen.numpy()),
    )


def _find_weights(features: Tensor, labels: Tensor, num_classes: int) -> dict[Score, Tensor]:
    """Give the weights of the scores that need features, as far as the photos suffice."""
    weights: dict[Score, Tensor] = {}
    is_posed = labels != NULL
    means = mean_features(features[is_posed], labels[is_posed], num_classes)
    if means is not None:
        weights["distance"] = means
    if is_posed.any() and not is_posed.all():
        weights["detector"] = fit_detector(features, is_posed.numpy())
    return weights


def _logits(features: Tensor, state: ModelState) -> Tensor:
    return torch.nn.functional.linear(
        features, *(state.state_dict[f"fc.{name}"].float() for name in ("weight", "bias"))
    )


def _sample(table: pa.Table, most: int) -> pa.Table:
    return table.take(pa.array(choose_rows(table["uri"].to_pylist(), most)))


def _sample_of_poses(table: pa.Table, most: int) -> pa.Table:
    """Take at most so many photos of each pose."""
    indices = table["class_index"].unique().to_pylist()
    return pa.concat_tables(
        [
            table.slice(0, 0),
            *(_sample(table.filter(pc.equal(table["class_index"], i)), most) for i in indices),
        ]
    )


@ray.remote(num_cpus=1, num_gpus=1)
def _on_gpu(table: pa.Table, state: ModelState, precision: str, reader: PhotoReader) -> FeaturesOf:
    return compute_features(table, state, precision=precision, reader=reader)
