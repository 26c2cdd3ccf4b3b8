"""Predict labelled photos with Ray Data. This file imports Ray, so the package does not import this file."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import connect
from physiq_ray.columns import first_equal
from physiq_ray.constants import VALIDATION
from physiq_ray.evaluation.labelled import LabelledPhotos
from physiq_ray.evaluation.scores import Evaluation
from physiq_ray.manifest import Manifest
from physiq_ray.prediction.batch import predict_table
from physiq_ray.storage import PhotoSource


def evaluate(
    manifest: Manifest,
    states: Sequence[ModelState],
    *,
    split: str = VALIDATION,
    precision: str = "auto",
    batch_size: int = 32,
    source: PhotoSource | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    debug: bool = False,
) -> list[Evaluation]:
    """Predict the photos of a split: validation, train, test or all; also those of no known pose.

    states: one or more models. Models of one image size share each decoded photo; for another image size, the
    photos are read again. source: the caller's own source, if the manifest lists its photos.
    Raises DataError: no photo shows a pose that a model knows, or all photos are unreadable (with the first
    reasons); and all errors of `predict_table`.
    """
    photos = [LabelledPhotos.of(manifest, state.class_mapping, split) for state in states]
    connect(debug=debug)
    found: dict[int, Evaluation] = {}
    for size in dict.fromkeys(state.image_size for state in states):
        chosen = [number for number, state in enumerate(states) if state.image_size == size]
        batches = list(
            predict_table(
                _all_photos([photos[number] for number in chosen]),
                [states[number] for number in chosen],
                precision=precision,
                batch_size=batch_size,
                reader=source,
                with_brightness=True,
                on_progress=on_progress,
            )
        )
        uris = [uri for batch in batches for uri in batch.uris]
        unreadable = [item for batch in batches for item in batch.unreadable]
        values = (value for batch in batches for value in batch.brightness)
        brightness = dict(zip(uris, values, strict=True))
        for model, number in enumerate(chosen):
            outputs = [batch.outputs[model] for batch in batches]
            found[number] = photos[number].evaluation(
                uris,
                torch.from_numpy(np.concatenate(outputs)),
                states[number],
                unreadable=unreadable,
                brightness=brightness,
            )
    return [found[number] for number in range(len(states))]


def _all_photos(photos: Sequence[LabelledPhotos]) -> pa.Table:
    """Give the photos of all models, each once."""
    table = pa.concat_tables([each.table for each in photos])
    first = first_equal(table["uri"])
    return table.filter(pa.array(first == np.arange(len(first))))
