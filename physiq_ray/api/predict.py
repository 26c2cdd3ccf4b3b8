"""Predict photos one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physiq_ray.api.model import Model, load
from physiq_ray.errors import PhysiqError
from physiq_ray.prediction import Prediction, Predictor, find_photos
from physiq_ray.storage import read_bytes


@dataclass(frozen=True)
class Predicted:
    """The answers for some photos, and for each photo without an answer its address and the error."""

    predictions: tuple[Prediction, ...]
    failures: tuple[tuple[str, PhysiqError], ...]


def predict(
    photos: str | Path | Sequence[str | Path], model: Model = "output", *, precision: str = "auto"
) -> Predicted:
    """Predict photos one by one in this process, without Ray.

    photos: files, folders, s3:// objects and prefixes. For whole buckets, the command `predict --output` is
    faster. A photo or an address that cannot be read is among the failures.
    Raises CheckpointError, NotFoundError: the model cannot be loaded.
    """
    predictor = Predictor(load(model), precision=precision)
    predictions: list[Prediction] = []
    failures: list[tuple[str, PhysiqError]] = []
    for address in [photos] if isinstance(photos, str | Path) else photos:
        try:
            uris = list(find_photos([str(address)]))
        except PhysiqError as error:
            failures.append((str(address), error))
            continue
        for uri in uris:
            try:
                predictions.append(predictor.predict(read_bytes(uri), uri=uri))
            except PhysiqError as error:
                failures.append((uri, error))
    return Predicted(tuple(predictions), tuple(failures))
