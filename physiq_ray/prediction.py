"""One photo → which pose: probabilities for all poses, and a figure to look at.

In come photo bytes and a model file; out come a `Prediction` and a PNG with the photo beside its
probability bars. The same decoder and the same normalisation as in training.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import NotFoundError, PhotoError, StorageError
from physiq_ray.images import decode_image, decode_square, read_size
from physiq_ray.model import choose_precision, normalise
from physiq_ray.storage import is_photo, list_sources, parse_source, read_bytes, write_bytes

FIGURE_PX = 640  # of the photo's shorter side in the figure


@dataclass(frozen=True)
class PoseProbability:
    """One pose's share of the answer."""

    pose_id: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the model says of one photo.

    probabilities: all poses, the likeliest first; they add up to 1. width, height: of the upright photo, in
    pixels. tensor_shape: the network's input (B, C, H, W).
    """

    uri: str
    probabilities: tuple[PoseProbability, ...]
    width: int
    height: int
    tensor_shape: tuple[int, ...]
    device: str
    model_version: str

    @property
    def pose(self) -> PoseProbability:
        """The likeliest pose; its probability is the confidence."""
        return self.probabilities[0]

    def to_dict(self) -> dict[str, Any]:
        """Give the answer as the HTTP API has it, with the photo's own data."""

        def named(item: PoseProbability) -> dict[str, Any]:
            return {"id": item.pose_id, "name": item.name}

        return {
            "uri": self.uri,
            "pose": named(self.pose),
            "confidence": self.pose.probability,
            "probabilities": [{**named(p), "probability": p.probability} for p in self.probabilities],
            "model": {"version": self.model_version},
            "size": {"width": self.width, "height": self.height},
            "tensor_shape": list(self.tensor_shape),
            "device": self.device,
        }


class Predictor:
    """A loaded model that answers for photos, on a GPU where there is one."""

    def __init__(self, state: ModelState, *, precision: str = "auto") -> None:
        """Build the network from the model file alone.

        Raises CheckpointError: its weights do not fit.
        """
        self._state = state
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = choose_precision(precision, self._device)
        self._model = state.build().to(self._device).to(memory_format=torch.channels_last)

    def predict(self, data: bytes, *, uri: str) -> Prediction:
        """Tell the pose of one photo; uri names it in the answer.

        Raises PhotoError, with the uri: empty, truncated, not an image, or too large.
        """
        try:
            width, height = read_size(data)
            image = decode_square(data, size_px=self._state.image_size)
        except PhotoError as error:
            raise PhotoError(f"{uri}: {error}") from error
        batch = normalise(torch.from_numpy(image)[None].to(self._device))
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32),
        ):
            logits = self._model(batch)
        shares = torch.softmax(logits[0].double() / self._state.temperature, dim=0).tolist()
        names = self._state.pose_names
        probabilities = [
            PoseProbability(pose_id, names[pose_id], share)
            for pose_id, share in zip(self._state.class_mapping.pose_ids, shares, strict=True)
        ]
        probabilities.sort(key=lambda item: -item.probability)
        return Prediction(
            uri=uri,
            probabilities=tuple(probabilities),
            width=width,
            height=height,
            tensor_shape=tuple(batch.shape),
            device=str(self._device),
            model_version=self._state.version,
        )


def find_photos(addresses: Sequence[str]) -> Iterator[str]:
    """Give the uris of photos that the addresses name: files, folders, s3:// objects and prefixes.

    Raises NotFoundError: nothing there; StorageError: a folder or bucket that cannot be listed.
    """
    for address in addresses:
        is_object = is_photo(address) if address.startswith("s3://") else not Path(address).is_dir()
        if is_object:
            yield address
            continue
        (listing,) = list_sources([parse_source(address)])
        if listing.table is None:
            raise listing.error or StorageError(address)
        if not listing.table.num_rows:
            raise NotFoundError(f"{address}: no photos in it")
        yield from sorted(listing.table["uri"].to_pylist())


def write_figure(prediction: Prediction, data: bytes, uri: str) -> None:
    """Write a PNG: the photo beside its probability bars, the answer on top.

    Raises PhotoError, StorageError.
    """
    # Here, as matplotlib takes half a second to import; the object interface keeps pyplot's global
    # state and its choice of a screen out of a library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    image = decode_image(data, min_side_px=FIGURE_PX)
    pose = prediction.pose
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    figure.suptitle(f"{pose.name} · {pose.probability:.1%}", fontsize=16, fontweight="bold")
    photo_axes, bar_axes = figure.subplots(1, 2, width_ratios=(1, 1.2))
    photo_axes.imshow(image)
    photo_axes.set_axis_off()
    photo_axes.set_title(
        f"{prediction.uri.rpartition('/')[2]}\n{prediction.width} × {prediction.height} px", fontsize=9
    )
    names = [f"{item.name} ({item.pose_id})" for item in prediction.probabilities]
    shares = [item.probability for item in prediction.probabilities]
    bars = bar_axes.barh(names, shares, color=["#d1495b"] + ["#9fb4c7"] * (len(names) - 1))
    bar_axes.bar_label(bars, labels=[f"{share:.1%}" for share in shares], padding=4, fontsize=9)
    bar_axes.invert_yaxis()
    bar_axes.set_xlim(0, 1.12)
    bar_axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    bar_axes.set_xlabel("probability")
    bar_axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    write_bytes(buffer.getvalue(), uri)


def predict_file(predictor: Predictor, uri: str, *, figure_uri: str | None = None) -> Prediction:
    """Read one photo, tell its pose, and write its figure where figure_uri is given.

    Raises StorageError: it cannot be read; PhotoError: it cannot be decoded.
    """
    data = read_bytes(uri)
    prediction = predictor.predict(data, uri=uri)
    if figure_uri is not None:
        write_figure(prediction, data, figure_uri)
    return prediction
