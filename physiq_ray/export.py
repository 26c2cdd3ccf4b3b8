"""A trained model → one file for programs without this package, and its description as JSON.

    onnx          <name>.onnx          pixels → probabilities, for onnxruntime and other runtimes
    torch-export  <name>.pt2           the same program, for torch alone (torch.export.load)
    safetensors   <name>.safetensors   the weights of torchvision's resnet50, without code

The two programs contain the normalisation, the temperature and, if the model has a floor, the score that is
compared with its threshold. Each file contains the description, and `<file>.json` is a copy of it. The
function `describe` defines the description. An export takes up to half a minute and one copy of the weights.
"""

import importlib.util
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from physiq_ray.checkpoint import ModelState, current_versions, describe_preprocessing, translated_disk
from physiq_ray.constants import EXPORT_SUFFIXES
from physiq_ray.errors import SettingError
from physiq_ray.model import ARCHITECTURE
from physiq_ray.prediction.network import FromPixels, example_pixels, fold_norms
from physiq_ray.storage import join_uri, write_bytes, write_file

NAME = "pose_classifier"
METADATA_KEY = "physiq_ray"  # of the description in ONNX's metadata_props and safetensors' __metadata__
EXTRA_FILE = "physiq_ray.json"  # of the description among the extra files of torch.export
FLOOR_KEY = "floor_weights"  # of the tensor that safetensors adds to the state dict
NEEDED = {"onnx": ("onnx", "onnxscript"), "safetensors": ("safetensors",), "torch-export": ()}


class ExportedModel(nn.Module):
    """The whole way from pixels to calibrated probabilities, as one module."""

    def __init__(self, state: ModelState) -> None:
        """Build it in float32 on the CPU, with folded batch norms.

        Raises CheckpointError: the weights do not fit.
        """
        super().__init__()
        # torch.export.save warns of tensors that are not contiguous, as those of a training are.
        weights = {name: tensor.contiguous() for name, tensor in state.state_dict.items()}
        model = replace(state, state_dict=weights).build()
        fold_norms(model)
        self._network = FromPixels(model)
        self._temperature = state.temperature
        self._num_classes = len(state.class_mapping.classes)
        self._floor = state.floor

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute probabilities float32 (B, C), and score float32 (B,) if the model has a floor.

        images: uint8 (B, H, W, 3) RGB.
        """
        outputs = self._network(images)
        logits = outputs[:, : self._num_classes]
        probabilities = torch.softmax(logits / self._temperature, dim=1)
        if self._floor is None:
            return {"probabilities": probabilities}
        score = self._floor.scores(outputs, num_classes=self._num_classes, temperature=self._temperature)
        return {"probabilities": probabilities, "score": score.float()}


def describe(state: ModelState, kind: str) -> dict[str, Any]:
    """Describe an exported model; kind: a key of EXPORT_SUFFIXES.

    poses: id and name of each output, in the order of the outputs. preprocessing: how a photo becomes the
    input. floor: None, or the score and the threshold below which a photo shows no known pose. model: its
    architecture, and the version of the model file. versions: of the software that trained and exported it.
    """
    size, num_classes = state.image_size, len(state.class_mapping.classes)
    floor = state.floor
    if kind == "safetensors":
        pixels = f"float32 (batch, 3, {size}, {size}), RGB: (pixels / 255 - mean) / std"
        outputs = {"logits": f"float32 (batch, {num_classes}): divide by the temperature, then softmax"}
    else:
        pixels = f"uint8 (batch, {size}, {size}, 3), RGB, 0 to 255: the program normalises them"
        outputs = {"probabilities": f"float32 (batch, {num_classes}): the temperature is applied"}
        if floor is not None:
            outputs["score"] = "float32 (batch): below the threshold of the floor, no known pose is shown"
    return {
        "format": kind,
        "input": {"images": pixels},
        "outputs": outputs,
        "poses": [{"id": id_, "name": state.pose_names[id_]} for id_ in state.class_mapping.pose_ids],
        "preprocessing": describe_preprocessing(state),
        "temperature": state.temperature,
        "floor": None if floor is None else {"score": floor.score, "threshold": floor.threshold},
        "model": {"architecture": ARCHITECTURE, "version": state.version},
        "versions": {
            "training": dict(state.versions),
            "export": current_versions() | {name: version(name) for name in NEEDED[kind]},
        },
    }


def export_model(state: ModelState, kind: str, uri: str) -> tuple[str, str]:
    """Write the exported model to uri, and its description to <uri>.json; give both uris.

    Existing files are replaced. kind: a key of EXPORT_SUFFIXES.
    Raises SettingError: a package is missing. CheckpointError: the weights do not fit. StorageError.
    """
    require_packages(kind)
    text = json.dumps(describe(state, kind), indent=2, ensure_ascii=False)
    with translated_disk("the exported model"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{NAME}{EXPORT_SUFFIXES[kind]}")
        WRITERS[kind](state, text, path)
        write_file(path, uri)
    write_bytes(f"{text}\n".encode(), f"{uri}.json")
    return uri, f"{uri}.json"


def export_address(output: str, kind: str) -> str:
    """Give the uri of the exported file; output: a file with the suffix of its kind, or else a folder.

    Therefore an export replaces only files of its own kind.
    Raises SettingError: output has the suffix of another kind.
    """
    suffix = EXPORT_SUFFIXES[kind]
    if output.endswith(suffix):
        return output
    for other, other_suffix in EXPORT_SUFFIXES.items():
        if output.endswith(other_suffix):
            raise SettingError(
                f"--output={output}: {other_suffix} is the suffix of --format {other}; "
                f"give a folder, or a file that ends with {suffix}"
            )
    return join_uri(output, f"{NAME}{suffix}")


def require_packages(kind: str) -> None:
    """Raise SettingError if a package that writes this kind of file is not installed."""
    missing = [name for name in NEEDED[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(
            f"--format={kind}: {' and '.join(missing)} not installed; pip install 'physiq-ray[export]'"
        )


def _write_onnx(state: ModelState, text: str, path: Path) -> None:
    program = torch.onnx.export(
        ExportedModel(state).eval(),
        (example_pixels(state),),
        dynamo=True,
        input_names=["images"],
        output_names=list(describe(state, "onnx")["outputs"]),
        dynamic_shapes={"images": {0: "batch"}},
        verbose=False,
    )
    assert program is not None  # torch returns None only if it writes the file itself
    program.model.metadata_props[METADATA_KEY] = text
    program.save(path, external_data=False)


def _write_torch_export(state: ModelState, text: str, path: Path) -> None:
    program = torch.export.export(
        ExportedModel(state).eval(),
        (example_pixels(state),),
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
    )
    torch.export.save(program, path, extra_files={EXTRA_FILE: text})


def _write_safetensors(state: ModelState, text: str, path: Path) -> None:
    from safetensors.torch import save

    tensors: Mapping[str, Tensor] = replace(state, floor=None).build().state_dict()
    if state.floor is not None and state.floor.weights is not None:
        tensors = {**tensors, FLOOR_KEY: state.floor.weights}
    # A training stores convolutions in channels_last, which the format cannot express.
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    path.write_bytes(save(plain, metadata={METADATA_KEY: text}))


WRITERS: dict[str, Callable[[ModelState, str, Path], None]] = {
    "onnx": _write_onnx,
    "torch-export": _write_torch_export,
    "safetensors": _write_safetensors,
}
