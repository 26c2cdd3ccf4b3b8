"""The bytes of one photo → a `Prediction`: the probabilities of all poses.

The decoder and the normalisation are those of training. Ray is not imported.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import NotFoundError, PhotoError, PredictionError, StorageError
from physiq_ray.images import decode_square, read_size
from physiq_ray.prediction.answer import NOT_FINITE, Answer, make_answer
from physiq_ray.prediction.explanation import Explanation, explain
from physiq_ray.prediction.network import Network, limit_threads
from physiq_ray.storage import is_photo, parse_source


@dataclass(frozen=True)
class Prediction(Answer):
    """The answer for one photo, with what is known of the photo.

    width, height: of the upright photo, in pixels. tensor_shape: the network's input (B, C, H, W).
    """

    uri: str
    width: int
    height: int
    tensor_shape: tuple[int, ...]
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Give the answer for JSON, with the photo's data."""
        return {
            "uri": self.uri,
            **super().to_dict(),
            "size": {"width": self.width, "height": self.height},
            "tensor_shape": list(self.tensor_shape),
            "device": self.device,
        }


class Predictor:
    """A loaded model that predicts photos one by one."""

    def __init__(self, state: ModelState, *, precision: str = "auto", use_gpu: bool = True) -> None:
        """Build the network from the model file alone; use_gpu: on a GPU, if there is one.

        Raises CheckpointError: its weights do not fit.
        """
        self._state = state
        limit_threads()
        self._network = Network(state, precision=precision, use_gpu=use_gpu)

    def predict(self, data: bytes, *, uri: str) -> Prediction:
        """Predict one photo; uri names it in the answer.

        Raises PhotoError, with the uri: empty, truncated, not an image, or too large. PredictionError: the
        network's output is not a number.
        """
        try:
            width, height = read_size(data)
            image = decode_square(data, size_px=self._state.image_size)
        except PhotoError as error:
            raise PhotoError(f"{uri}: {error}") from error
        outputs = self._network.outputs(torch.from_numpy(image)[None])
        if not torch.isfinite(outputs).all():
            raise PredictionError(f"{uri}: {NOT_FINITE}")
        return Prediction(
            **vars(make_answer(outputs[0], self._state, self._state.floor)),
            uri=uri,
            width=width,
            height=height,
            tensor_shape=(1, 3, *image.shape[:2]),
            device=str(self._network.device),
        )

    def explain(self, data: bytes, pose_id: int) -> Explanation:
        """Compute where the network looks for a pose of the model in one photo.

        Raises PhotoError: as in `predict`, without the uri.
        """
        image = decode_square(data, size_px=self._state.image_size)
        return explain(self._network, image, self._state.class_mapping.pose_ids.index(pose_id))


def find_photos(addresses: Sequence[str]) -> Iterator[str]:
    """Give the uris of the photos at the addresses: files, folders, s3:// objects and prefixes.

    Raises NotFoundError: an address has no photos. StorageError: a folder or bucket cannot be listed.
    """
    for address in addresses:
        # Path.is_dir raises if a name is too long or a folder is denied; reading the photo reports those.
        is_object = is_photo(address) if address.startswith("s3://") else not os.path.isdir(address)  # noqa: PTH112
        if is_object:
            yield address
            continue
        from physiq_ray.storage import list_sources  # imported here, because it needs Arrow

        (listing,) = list_sources([parse_source(address)])
        if listing.table is None:
            raise listing.error or StorageError(address)
        if not listing.table.num_rows:
            raise NotFoundError(f"{address}: no photos in it")
        yield from sorted(listing.table["uri"].to_pylist())
