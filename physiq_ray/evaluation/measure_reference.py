"""The validation photos of a training → the reference in its model file. Imports Ray (see `ingest`)."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.errors import DataError
from physiq_ray.evaluation.scores import Answers
from physiq_ray.images import mean_brightness
from physiq_ray.ingest import PhotoReader
from physiq_ray.ingest.reading import read_photos
from physiq_ray.manifest.subset import choose_rows
from physiq_ray.prediction.answer import to_probabilities
from physiq_ray.reference import Histogram, Reference

MOST_PHOTOS = 500  # that are read for their brightness
BATCH_SIZE = 32


def measure_reference(
    answers: Answers, table: pa.Table, *, temperature: float, image_size: int, reader: PhotoReader
) -> Reference:
    """Measure the photos of a model's answers.

    table: the manifest, which has the bytes and ETag of each photo. reader: as in `build_dataset`.
    Raises DataError: none of the photos can be read.
    """
    confidence, classes = to_probabilities(answers.logits, temperature).max(dim=1)
    photos = table.filter(pc.is_in(table["uri"], value_set=pa.array(answers.uris, pa.large_string())))
    chosen = photos.take(pa.array(choose_rows(photos["uri"].to_pylist(), MOST_PHOTOS)))
    brightness: list[float] = []
    for start in range(0, chosen.num_rows, BATCH_SIZE):
        read = read_photos(chosen.slice(start, BATCH_SIZE), image_size=image_size, reader=reader)
        brightness += mean_brightness(read.images[np.array(read.errors) == ""]).tolist()
    if not brightness:
        raise DataError("none of the validation photos can be read again")
    return Reference(
        Histogram.of_classes(classes.numpy(), answers.logits.shape[1]),
        Histogram.of_values(confidence.numpy()),
        Histogram.of_values(brightness),
        Histogram.of_values(photos["size"].to_numpy()),
    )
