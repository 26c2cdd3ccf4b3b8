"""The two model files and the class mapping: their contents, writing them, and reading them safely.

    pose_classifier.pth             only the state dict
    class_mapping.json              class index ↔ pose id
    pose_classifier_complete.pth    everything: predictions and the server need only this file

Both model files are read with torch.load(weights_only=True) only. The complete file is written last: if it
exists, the set is complete. The archive of the state dict also contains a copy of the class mapping, which
torch ignores. With this copy, a class_mapping.json of another training next to the file is detected.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from physiq_ray.config import Settings
from physiq_ray.constants import COMPLETE_FILE
from physiq_ray.errors import CheckpointError, LabelError, NotFoundError, StorageError
from physiq_ray.floor import Floor, ScoringHead
from physiq_ray.labels import ClassMapping
from physiq_ray.labels.mapping import MAPPING_FILE, name_in, read_beside, read_inside, uri_beside
from physiq_ray.model import (
    ARCHITECTURE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    NUM_FEATURES,
    StateDict,
    build_model,
    read_tensors,
)
from physiq_ray.reference import Reference
from physiq_ray.storage import join_uri, write_file
from physiq_ray.storage.objects import open_whole

WEIGHTS_FILE = "pose_classifier.pth"
DEFAULT_IMAGE_SIZE = 224  # for files that do not contain it
MAX_IMAGE_SIZE = 4096  # limits the memory that a file can make its users allocate
DICTIONARIES = (
    *("model_config", "pose_names", "preprocessing", "settings", "versions", "optimizer_state_dict"),
)


@dataclass(frozen=True)
class ModelState:
    """A trained model as data, before it is written or after it was read.

    pose_names: pose id → name. image_size: in pixels. temperature: the logits are divided by it before the
    softmax, so that the confidence is calibrated (Guo et al. 2017); 1 changes nothing. floor: decides which
    photos show no known pose; None: every photo gets a pose. reference: what the validation photos were like,
    None if it is not known. optimizer_state_dict: is written for other programs; a state that was read has
    none. history: one dict per epoch. versions: those of the software that trained the model, empty if the
    file does not have them. version: the first twelve hexadecimal digits of the file's SHA-256, empty before
    it is written.
    """

    state_dict: StateDict
    class_mapping: ClassMapping
    pose_names: Mapping[int, str]
    image_size: int = DEFAULT_IMAGE_SIZE
    temperature: float = 1.0
    floor: Floor | None = None
    reference: Reference | None = None
    optimizer_state_dict: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    best_epoch: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    version: str = ""

    def build(self) -> nn.Module:
        """Build the network with these weights, in evaluation mode on the CPU.

        Float32 weights are not copied: the network shares them with this state. They require no gradients.
        Its outputs are logits (B, C), and one more column if the floor needs the features (see `floor`).
        Raises CheckpointError: the weights do not fit.
        """
        with torch.device("meta"):  # no memory and no random weights, which the load would replace
            model = build_model(len(self.class_mapping.classes)).requires_grad_(False)
        weights = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in self.state_dict.items()
        }
        try:
            model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"weights do not fit a {ARCHITECTURE} with {len(self.class_mapping.classes)} outputs: {error}"
            ) from error
        if self.floor is not None and self.floor.weights is not None:
            layer = model.get_submodule("fc")
            head = ScoringHead(layer, self.floor.score, self.floor.weights)
            try:
                head(torch.zeros(1, NUM_FEATURES))
            except RuntimeError as error:
                raise CheckpointError(f"floor does not fit a {ARCHITECTURE}: {error}") from error
            model.set_submodule("fc", head)
        return model.eval()


def save_model_files(state: ModelState, output: str) -> tuple[str, ...]:
    """Write both model files and the class mapping into a folder or s3:// prefix; give their uris.

    Raises StorageError.
    """
    complete = {
        "model_state_dict": dict(state.state_dict),
        "optimizer_state_dict": dict(state.optimizer_state_dict),
        "class_mapping": state.class_mapping.to_dict(),
        "model_config": {"architecture": ARCHITECTURE, "num_classes": len(state.class_mapping.classes)},
        "pose_names": {str(pose_id): state.pose_names[pose_id] for pose_id in state.class_mapping.pose_ids},
        "preprocessing": describe_preprocessing(state),
        "temperature": state.temperature,
        "floor": state.floor.to_dict() if state.floor is not None else None,
        "reference": state.reference.to_dict() if state.reference is not None else None,
        "history": [dict(epoch) for epoch in state.history],
        "best_epoch": state.best_epoch,
        "settings": dict(state.settings),
        "versions": dict(state.versions) or current_versions(),
    }
    written = []
    with translated_disk("model files"), tempfile.TemporaryDirectory() as folder:
        for name, value in (
            (WEIGHTS_FILE, complete["model_state_dict"]),
            (MAPPING_FILE, complete["class_mapping"]),
            (COMPLETE_FILE, complete),
        ):
            path = Path(folder, name)
            with path.open("wb") as file:
                if name == MAPPING_FILE:
                    file.write(f"{json.dumps(value, indent=2)}\n".encode())
                else:
                    torch.save(value, file)
            if name == WEIGHTS_FILE:
                with zipfile.ZipFile(path, "a") as archive:  # dated 1980: the same model gives the same bytes
                    inner = zipfile.ZipInfo(name_in(archive))
                    archive.writestr(inner, json.dumps(complete["class_mapping"]))
            uri = join_uri(output, name)
            write_file(path, uri)
            written.append(uri)
    return tuple(written)


def describe_preprocessing(state: ModelState) -> dict[str, Any]:
    """Say how a photo becomes the network's input; mean and std are of RGB values 0 … 1."""
    return {
        "image_size": state.image_size,
        "resize": "whole photo to a square, bilinear",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }


@contextlib.contextmanager
def translated_disk(what: str) -> Iterator[None]:
    """Translate errors of the temporary folder into ours, including those of torch.save on an open file.

    what: the content that was to be written. Raises StorageError: it cannot be written, e.g. for lack of
    space.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's writer replaces the system's error by its own
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise StorageError(
            f"{what} cannot be written to {tempfile.tempdir or 'a temporary folder'}: "
            f"{os.strerror(reason.errno or 0)}; free space there, or set TMPDIR to a larger disk"
        ) from error


def current_versions() -> dict[str, str]:
    """Give the versions of the software that affects the weights and the answers of a model."""
    packages = ("physiq-ray", "ray", "torch", "torchvision", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def load_model_state(address: str, *, pose_names: Mapping[int, str] | None = None) -> ModelState:
    """Read a model from a complete file, a state dict next to its class_mapping.json, or a folder of these.

    address: a path or s3:// address. pose_names: for files without pose names (the files of the original
    project contain only weights, mapping and model_config).
    Raises NotFoundError, StorageError; CheckpointError: the content is unknown, damaged or of another
    architecture, weights are not finite, or objects would run code when loaded (no code is run).
    """
    # Path.is_dir would raise for a name that is too long or a folder without permission; reading reports it.
    if os.path.isdir(address) or (  # noqa: PTH112
        address.startswith("s3://") and not address.endswith((".pth", ".pt"))
    ):
        address = join_uri(address, COMPLETE_FILE)
    try:
        value, digest = _read_file(address)
    except NotFoundError as error:
        raise NotFoundError(f"model {error}; train one first, or give the path of {COMPLETE_FILE}") from error
    if not isinstance(value, dict) or not _is_state_dict(value.get("model_state_dict")):
        found = ", ".join(map(str, list(value)[:5])) if isinstance(value, dict) else type(value).__name__
        raise CheckpointError(f"{address}: unknown checkpoint: expected model_state_dict in it, got {found}")
    _check_finite(value["model_state_dict"], address)
    config, stored_names, preprocessing, settings, versions, _ = (
        _dictionary(value, key, address) for key in DICTIONARIES
    )
    architecture = config.get("architecture", ARCHITECTURE)
    if architecture != ARCHITECTURE:
        raise CheckpointError(f"{address}: architecture {architecture!r}; {ARCHITECTURE} is needed")
    try:
        mapping = ClassMapping.from_dict(value.get("class_mapping"))
    except LabelError as error:
        raise CheckpointError(f"{address}: {error}") from error
    num_outputs = value["model_state_dict"].get("fc.bias", torch.empty(0)).numel()
    if not len(mapping.classes) == num_outputs == config.get("num_classes", num_outputs):
        raise CheckpointError(
            f"{address}: {len(mapping.classes)} classes in its mapping, {num_outputs} in its weights, "
            f"{config.get('num_classes', 'none')} in its model_config"
        )
    try:
        known = {**(pose_names or {}), **{int(pose_id): str(name) for pose_id, name in stored_names.items()}}
        image_size = int(preprocessing.get("image_size", DEFAULT_IMAGE_SIZE))
        temperature = float(value.get("temperature", 1.0))
        best_epoch = int(value.get("best_epoch", 0))
        history = tuple(value.get("history", ()))
        if not 1 <= image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"image_size {image_size}")
        if not 0 < temperature < math.inf:  # false for NaN too
            raise ValueError(f"temperature {temperature}")
        floor = value.get("floor")
        if floor is not None:
            floor = Floor.from_dict(floor, num_classes=len(mapping.classes))
        reference = value.get("reference")
        if reference is not None:
            reference = Reference.from_dict(reference, num_classes=len(mapping.classes))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{address}: unknown checkpoint: {error}") from error
    return ModelState(
        state_dict=value["model_state_dict"],
        class_mapping=mapping,
        pose_names={pose_id: known.get(pose_id, f"Pose {pose_id}") for pose_id in mapping.pose_ids},
        image_size=image_size,
        temperature=temperature,
        floor=floor,
        reference=reference,
        history=history,
        settings=settings,
        best_epoch=best_epoch,
        versions={str(name): str(number) for name, number in versions.items()},
        version=digest[:12],
    )


def _read_file(address: str) -> tuple[Any, str]:
    """Read a model file without a copy of it in memory; give its content and its SHA-256.

    A state dict gets the class mapping that belongs to it.
    """
    with open_whole(address) as file:
        value = read_tensors(file, name=address)
        if _is_state_dict(value):
            value = {"model_state_dict": value, "class_mapping": _read_mapping_beside(address, file)}
        file.seek(0)
        return value, hashlib.file_digest(file, "sha256").hexdigest()


def settings_to_store(settings: Settings) -> dict[str, Any]:
    """Give the settings as plain values, which the restricted unpickler accepts."""
    return settings.model_dump(mode="json")


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, dict) and bool(value) and all(isinstance(item, Tensor) for item in value.values())
    )


def _check_finite(state_dict: StateDict, address: str) -> None:
    """Refuse weights that would make every answer NaN; each weight is read once."""
    for name, tensor in state_dict.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        try:
            # The network computes in float32, in which too large values become infinite. Both extremes are
            # NaN if one value is NaN. NumPy takes a tenth of the processor time of torch's two threads,
            # which wait for each other at each of 267 tensors, and makes no copy, unlike isfinite.
            values = tensor.detach().float().numpy()
        except (RuntimeError, TypeError) as error:  # sparse or quantised
            raise CheckpointError(f"{address}: {name} is not a plain tensor: {error}") from error
        if not math.isfinite(values.min()) or not math.isfinite(values.max()):
            raise CheckpointError(
                f"{address}: {name} has values that are not finite: the training diverged or the file is "
                "damaged; give another model file"
            )


def _dictionary(value: Mapping[str, Any], key: str, address: str) -> dict[str, Any]:
    part = value.get(key) or {}
    if not isinstance(part, dict):
        raise CheckpointError(
            f"{address}: unknown checkpoint: {key} is a {type(part).__name__}, not a dictionary"
        )
    return part


def _read_mapping_beside(address: str, file: IO[bytes]) -> object:
    try:
        mapping = read_beside(address)
    except StorageError as error:
        raise CheckpointError(
            f"{address}: a state dict does not name its poses; put {MAPPING_FILE} next to it ({error})"
        ) from error
    except LabelError as error:
        raise CheckpointError(str(error)) from error
    if read_inside(file) not in (None, mapping):
        raise CheckpointError(
            f"{address}: it belongs to another training than {uri_beside(address)}: writing them was "
            f"interrupted, or only one was copied; resume that training, or load {COMPLETE_FILE}, which "
            "contains both"
        )
    return mapping
