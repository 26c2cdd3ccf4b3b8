"""How often the answer of a model stays the same if a photo changes in a way that does not change the pose.

Ribeiro et al. 2020, "Beyond accuracy: behavioral testing of NLP models with CheckList", call this an
invariance test. It needs no labels. A change is made on the upright photo in its full size, which is then
resized for the network in the same way as any photo, or decoded in the same way if the change makes a new
file. The answers for the photo itself and for all its changes are computed by the same network.

Decoding in full size and len(CHANGES) + 1 predictions make a photo several times as expensive as an
evaluation, so MOST_PHOTOS are used. No Ray: this is for some hundred photos.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image, ImageEnhance, ImageOps

from physiq_ray.checkpoint import ModelState
from physiq_ray.constants import MAX_PIXELS
from physiq_ray.errors import PhotoError, StorageError
from physiq_ray.evaluation.intervals import BoolArray, IntArray, Interval, number_groups, share_interval
from physiq_ray.evaluation.scores import Answers
from physiq_ray.images import UInt8Array, decode_image, decode_square, to_square
from physiq_ray.machine import usable_cpus
from physiq_ray.manifest.subset import choose_rows
from physiq_ray.prediction.answer import are_known, logits_of
from physiq_ray.prediction.network import Network, limit_threads
from physiq_ray.storage import read_bytes
from physiq_ray.threads import map_ahead

MOST_PHOTOS = 200  # an interval of about ±3 points at 95 %
LEAST_SHARE = 0.95  # of unchanged answers; below it, the report warns
CROP_SHARE = 0.05  # of the width and of the height, at each of the four edges
JPEG_QUALITY = 60
REFUSED = -1  # in place of a class index: the photo is below the model's floor
MOST_THREADS = 4  # each holds a photo in full size, in several copies

_Change = Callable[[Image.Image], Image.Image | bytes]  # bytes: a new file, to be decoded


def _recompressed(photo: Image.Image) -> bytes:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _cropped(photo: Image.Image) -> Image.Image:
    across, down = round(photo.width * CROP_SHARE), round(photo.height * CROP_SHARE)
    return photo.crop((across, down, photo.width - across, photo.height - down))


def _halved(photo: Image.Image) -> Image.Image:
    half = (max(1, photo.width // 2), max(1, photo.height // 2))
    return photo.resize(half, Image.Resampling.BILINEAR)


CHANGES: Mapping[str, _Change] = {
    "mirrored": ImageOps.mirror,
    "20 % darker": lambda photo: ImageEnhance.Brightness(photo).enhance(0.8),
    "20 % brighter": lambda photo: ImageEnhance.Brightness(photo).enhance(1.2),
    f"JPEG quality {JPEG_QUALITY}": _recompressed,
    "5 % cropped": _cropped,
    "half size": _halved,
}


@dataclass(frozen=True)
class Invariance:
    """The share of photos whose answer a change leaves as it was, 0 … 1, with its 95 % interval."""

    change: str
    unchanged: float
    interval: Interval

    @property
    def is_low(self) -> bool:
        """Whether the share is below LEAST_SHARE."""
        return self.unchanged < LEAST_SHARE


@dataclass(frozen=True)
class Behaviour:
    """The share of unchanged answers for each of CHANGES; none if num_photos is 0.

    num_photos, num_unreadable: photos of the sample that were predicted, and those that could not be.
    """

    num_photos: int
    num_unreadable: int
    changes: tuple[Invariance, ...]

    @property
    def low(self) -> tuple[Invariance, ...]:
        """The changes with a share below LEAST_SHARE."""
        return tuple(item for item in self.changes if item.is_low)

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for report.json."""
        return {
            "num_photos": self.num_photos,
            "num_unreadable": self.num_unreadable,
            "least_share": LEAST_SHARE,
            "changes": [asdict(item) | {"is_low": item.is_low} for item in self.changes],
        }


def measure_behaviour(
    answers: Answers,
    photos: pa.Table,
    state: ModelState,
    *,
    precision: str = "auto",
    read: Callable[..., bytes] = read_bytes,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Behaviour:
    """Predict a sample of the answered photos, unchanged and with each of CHANGES.

    photos: rows of MANIFEST_SCHEMA, among them those of the answers. read: called as read(uri, etag=etag).
    Raises CheckpointError: the weights do not fit. A photo that cannot be read again is left out.
    """
    rows = choose_rows(answers.uris, MOST_PHOTOS).tolist()
    uris = [answers.uris[row] for row in rows]
    groups = number_groups([(answers.groups or answers.uris)[row] for row in rows])
    found = pc.index_in(pa.array(uris, pa.large_string()), value_set=photos["uri"].combine_chunks())
    etags = [etag or "" for etag in photos["etag"].take(found).to_pylist()]
    limit_threads()
    network = Network(state, precision=precision)

    def variants(photo: tuple[str, str]) -> UInt8Array | None:
        uri, etag = photo
        try:
            return change_photo(read(uri, etag=etag), size_px=state.image_size)
        except (StorageError, PhotoError):
            return None

    num_threads = min(MOST_THREADS, usable_cpus())
    is_same, used = [], []
    for number, images in enumerate(
        map_ahead(
            variants, zip(uris, etags, strict=True), num_threads=num_threads, most_calls=num_threads + 1
        )
    ):
        if images is not None:
            outputs = network.outputs(torch.from_numpy(images))
            predicted = logits_of(outputs, state).argmax(dim=1)
            predicted[~are_known(outputs, state)] = REFUSED
            is_same.append((predicted[1:] == predicted[0]).numpy())
            used.append(number)
        on_progress(number + 1, len(uris))
    return _summary(np.array(is_same, bool).reshape(-1, len(CHANGES)), groups[used], len(uris))


def change_photo(data: bytes, *, size_px: int) -> UInt8Array:
    """Decode a photo for the network as it is, then with each of CHANGES.

    Returns uint8 (1 + len(CHANGES), size_px, size_px, 3).
    Raises PhotoError if it cannot be decoded, also because its full size has more than MAX_PIXELS pixels.
    """
    images = [decode_square(data, size_px=size_px)]
    photo = Image.fromarray(decode_image(data, min_side_px=MAX_PIXELS))  # never enlarged: its full size
    for change in CHANGES.values():
        changed = change(photo)
        if isinstance(changed, bytes):
            images.append(decode_square(changed, size_px=size_px))
        else:
            images.append(to_square(np.asarray(changed), size_px=size_px))
    return np.stack(images)


def _summary(is_same: BoolArray, groups: IntArray, num_chosen: int) -> Behaviour:
    """Summarise bool (photos, changes)."""
    changes = (
        tuple(
            Invariance(name, float(column.mean()), share_interval(column, groups))
            for name, column in zip(CHANGES, is_same.T, strict=True)
        )
        if len(is_same)
        else ()
    )
    return Behaviour(len(is_same), num_chosen - len(is_same), changes)
