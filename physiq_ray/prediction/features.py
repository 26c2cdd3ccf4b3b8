"""The network's last features of some photos, computed in this process. This file imports Ray (see `ingest`).

For up to some thousand photos; `batch` is for any number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from physiq_ray.checkpoint import ModelState
from physiq_ray.ingest import PhotoReader, StoredPhotos
from physiq_ray.ingest.reading import read_photos
from physiq_ray.prediction.network import Network, limit_threads
from physiq_ray.storage import current_access

BATCH_SIZE = 32


@dataclass(frozen=True)
class FeaturesOf:
    """The features of the photos that could be read.

    rows: int64 (N,), their rows in the table. features: float32 (N, F).
    """

    rows: Tensor
    features: Tensor


def compute_features(
    table: pa.Table,
    state: ModelState,
    *,
    precision: str = "auto",
    reader: PhotoReader | None = None,
    use_gpu: bool = True,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> FeaturesOf:
    """Read the photos of a table (uri, size, and etag if it is known), and compute their features.

    reader: as in `build_dataset`.
    Raises CheckpointError: the weights do not fit.
    """
    limit_threads()
    network = Network(state, precision=precision, use_gpu=use_gpu)
    reader = reader or StoredPhotos(current_access())
    rows, features = [], []
    for start in range(0, table.num_rows, BATCH_SIZE):
        batch = table.slice(start, BATCH_SIZE)
        read = read_photos(batch, image_size=state.image_size, reader=reader)
        good = np.flatnonzero(np.array(read.errors) == "")
        if len(good):
            computed = network.features(torch.from_numpy(read.images[good]))
            is_finite = torch.isfinite(computed).all(dim=1)
            rows.append(torch.from_numpy(good)[is_finite] + start)
            features.append(computed[is_finite])
        on_progress(min(start + BATCH_SIZE, table.num_rows), table.num_rows)
    if not rows:
        return FeaturesOf(torch.empty(0, dtype=torch.int64), torch.empty(0, 0))
    return FeaturesOf(torch.cat(rows), torch.cat(features))
