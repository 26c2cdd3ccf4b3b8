"""Predict labelled photos with Ray Data. This file imports Ray, so the package does not import this file."""

from collections.abc import Callable

import numpy as np
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import connect
from physiq_ray.constants import VALIDATION
from physiq_ray.evaluation.labelled import LabelledPhotos
from physiq_ray.evaluation.scores import Evaluation
from physiq_ray.manifest import Manifest
from physiq_ray.prediction.batch import predict_table
from physiq_ray.storage import PhotoSource


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
    photos = LabelledPhotos.of(manifest, state.class_mapping, split)
    connect(debug=debug)
    batches = list(
        predict_table(
            photos.table,
            state,
            precision=precision,
            batch_size=batch_size,
            reader=source,
            with_brightness=True,
            on_progress=on_progress,
        )
    )
    uris = [uri for batch in batches for uri in batch.uris]
    brightness = (value for batch in batches for value in batch.brightness)
    return photos.evaluation(
        uris,
        torch.from_numpy(np.concatenate([batch.outputs for batch in batches])),
        state,
        unreadable=[item for batch in batches for item in batch.unreadable],
        brightness=dict(zip(uris, brightness, strict=True)),
    )
