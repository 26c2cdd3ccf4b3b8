"""The dimensions by which photos are divided into slices: bucket, pose, size, brightness, month and group.

All of them come from the manifest and from what a prediction measures, so no photo is read for them. Size is
that of the file in bytes: the pixels of a photo are reduced while it is decoded, and the manifest does not
have their number. A month is in the key or it is not known: the time of an object changes when it is copied
to another bucket or restored.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.evaluation.intervals import BoolArray, FloatArray, IntArray
from physiq_ray.evaluation.scores import Answers

NUM_PARTS = 4  # of photos sorted by size or brightness
MOST_GROUPS = 20  # that are listed: those that cost the most right answers

# 2024/05/17, 2024-05 or 20240517. After a slash, a month is a folder: 2024/05.jpg is a numbered photo.
_DATE = re.compile(
    r"(?<!\d)(20\d\d)(?:/(0[1-9]|1[0-2])(?=[/_-])|[-_.](0[1-9]|1[0-2])(?!\d)"
    r"|(0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d))"
)
# The milliseconds since 1970 before the name of an upload, 2017 to 2033: 1757471824350-IMG1813.jpeg.
_MILLISECONDS = re.compile(r"(?:^|/)(1[5-9]\d{11})(?!\d)")


@dataclass(frozen=True)
class Dimension:
    """A division of photos into slices.

    names: of the slices. codes: int64 (photos,), the slice of each photo as a place in names, -1 for a photo
    in none of them.
    """

    name: str
    names: tuple[str, ...]
    codes: IntArray


def find_dimensions(
    answers: Answers, photos: pa.Table, pose_names: Sequence[str], brightness: Mapping[str, float]
) -> list[Dimension]:
    """Divide the photos of answers by each dimension; one that does not divide them is left out.

    photos: rows of MANIFEST_SCHEMA, among them those of the answers. pose_names: by class index. brightness:
    uri → mean brightness, 0 … 1, empty if it is not known.
    """
    rows = pc.index_in(pa.array(answers.uris, pa.large_string()), value_set=photos["uri"].combine_chunks())
    bucket, key, size = (photos[name].take(rows).to_pylist() for name in ("bucket", "key", "size"))
    lightness = np.array([brightness.get(uri, np.nan) for uri in answers.uris], np.float64)
    truth = answers.labels.numpy().astype(np.int64)
    is_right = (answers.logits.argmax(dim=1) == answers.labels).numpy()
    dimensions = [
        _by_name("bucket", bucket),
        Dimension("pose", tuple(pose_names), truth),
        _by_quantile("size", np.array(size, np.float64), _bytes_text),
        _by_quantile("brightness", lightness, lambda share: f"{share:.0%}"),
        _by_name("month", [month_of(name) if name is not None else None for name in key]),
        _by_group(answers.groups, is_right),
    ]
    return [dimension for dimension in dimensions if len(np.unique(dimension.codes)) > 1]


def month_of(key: str) -> str | None:
    """Give the month of the first date or upload time in a key, such as "2024-05"; None if it has none."""
    if found := _DATE.search(key):
        return f"{found[1]}-{found[2] or found[3] or found[4]}"
    if found := _MILLISECONDS.search(key):
        return f"{datetime.fromtimestamp(int(found[1]) / 1000, UTC):%Y-%m}"
    return None


def _by_name(dimension: str, values: Sequence[str | None]) -> Dimension:
    names = sorted({value for value in values if value is not None})
    place: dict[str | None, int] = {name: code for code, name in enumerate(names)}
    return Dimension(dimension, tuple(names), np.array([place.get(value, -1) for value in values], np.int64))


def _by_quantile(dimension: str, values: FloatArray, text: Callable[[float], str]) -> Dimension:
    """Cut values into NUM_PARTS parts of about equally many photos; equal values stay together."""
    codes = np.full(len(values), -1, np.int64)
    is_known: BoolArray = np.isfinite(values)
    if not is_known.any():
        return Dimension(dimension, (), codes)
    edges = np.unique(np.quantile(values[is_known], np.arange(1, NUM_PARTS) / NUM_PARTS))
    codes[is_known] = np.searchsorted(edges, values[is_known])
    bounds = [text(edge) for edge in edges.tolist()]
    middle = [f"{low} to {high}" for low, high in itertools.pairwise(bounds)]
    return Dimension(dimension, (f"up to {bounds[0]}", *middle, f"over {bounds[-1]}"), codes)


def _by_group(groups: Sequence[str], is_right: BoolArray) -> Dimension:
    """Take the groups of several photos that lack the most right answers, compared with the accuracy."""
    if not groups:
        return Dimension("group", (), np.full(len(is_right), -1, np.int64))
    names, codes = np.unique(groups, return_inverse=True)
    sizes = np.bincount(codes)
    lacking = sizes * is_right.mean() - np.bincount(codes, weights=is_right)
    order = np.argsort(-lacking, kind="stable")
    chosen = order[sizes[order] > 1][:MOST_GROUPS]
    place = np.full(len(names), -1, np.int64)
    place[chosen] = np.arange(len(chosen))
    return Dimension("group", tuple(names[chosen].tolist()), place[codes])


def _bytes_text(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.3g} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.3g} kB"
