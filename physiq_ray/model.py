"""ResNet50 with one output per pose: its starting weights, its precision and its input.

Starting weights are read once, by the process that starts the training, so that a refused download or a wrong
file is reported before a worker starts. All weights are read with torch's restricted unpickler.
"""

import contextlib
import functools
import io
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, get_model, list_models, resnet50

from physiq_ray.errors import CheckpointError, LabelError, StorageError, WeightsError
from physiq_ray.labels import ClassMapping
from physiq_ray.labels.mapping import read_beside, read_inside
from physiq_ray.machine import check_writable
from physiq_ray.storage import read_bytes

ARCHITECTURE = "resnet50"
NUM_FEATURES = 2048  # inputs of the last layer
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PROBE_TIMEOUT_S = 10.0
# The environment of processes that compute on CPUs. By default, glibc returns the memory freed by a step to
# the system, and the next step gets it again page by page, set to zero, which takes a tenth of the time of a
# step. These variables make all threads use one heap that keeps its memory.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class StartingWeights:
    """The weights with which a run starts.

    backbone: the state dict without the head, which is the last layer. head: pose id → the head's row for
    that pose, as weights (2048,) and bias (). why_no_head: why the head is empty.
    """

    backbone: StateDict
    head: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    why_no_head: str = ""

    def build(self, pose_ids: Sequence[int]) -> nn.Module:
        """Build a ResNet50 with these weights; pose_ids: in the order of its outputs.

        The head keeps the rows of poses that these weights know, and its other rows are random.
        """
        model: nn.Module = resnet50(weights=None, num_classes=len(pose_ids))
        head = {key: tensor for key, tensor in model.state_dict().items() if _is_head(key)}
        for index, pose_id in enumerate(pose_ids):
            if pose_id in self.head:
                head["fc.weight"][index], head["fc.bias"][index] = self.head[pose_id]
        model.load_state_dict({**self.backbone, **head})
        return model


def build_model(num_classes: int) -> nn.Module:
    """Build a ResNet50 with num_classes outputs and random weights.

    The last batch norm of each block starts at zero, so that each block starts as an identity (Goyal et al.
    2017, section 5.1). Then training from scratch converges in fewer epochs.
    """
    model: nn.Module = resnet50(weights=None, num_classes=num_classes, zero_init_residual=True)
    return model


def load_starting_weights(setting: str) -> StartingWeights | None:
    """Read the starting weights; setting: "imagenet", "random", a file or s3:// address.

    The head's rows are read if a class mapping names their poses: the one in a complete model file, in the
    archive of a state dict, or next to it. Returns None for "random".
    Raises WeightsError: the download was refused, the file is missing or unreadable, or the weights are not
    those of a ResNet50; then the message names their architecture.
    """
    if setting == "random":
        return None
    if setting == "imagenet":
        return StartingWeights(_without_head(_checked(_download_imagenet(), setting)))
    try:
        data = read_bytes(setting)
        value = read_tensors(data, name=setting)
    except (StorageError, CheckpointError) as error:
        raise WeightsError(f"weights={setting}: {error}") from error
    state = _checked(_find_state_dict(value), setting)
    try:
        mapping = ClassMapping.from_dict(_find_mapping(value, data, setting))
        return StartingWeights(_without_head(state), _head_rows(state, mapping))
    except (StorageError, LabelError) as error:  # the weights are those of another program, or ImageNet's
        return StartingWeights(_without_head(state), why_no_head=str(error))


def read_tensors(data: bytes | IO[bytes], *, name: str) -> Any:
    """Read a file of torch.save that contains only tensors and plain values.

    Raises CheckpointError: it is not such a file, it is damaged, or it contains objects that would run code.
    """
    try:
        file = io.BytesIO(data) if isinstance(data, bytes) else data
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{name}: refused: it is not a torch file of only tensors and plain values, and loading it could "
            "run code; save only the state dict with torch.save"
        ) from error
    except Exception as error:  # torch's reader can raise any error for a damaged file
        raise CheckpointError(f"{name}: not a file that torch.save wrote, or damaged: {error}") from error


def normalise(images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert uint8 (B, H, W, 3) to the input of the network, on the same device.

    Returns dtype (B, 3, H, W), channels_last in memory. Each channel is normalised with the mean and the
    standard deviation of ImageNet.
    """
    mean, std = _imagenet_statistics(images.device)
    # (B, H, W, 3) viewed as (B, 3, H, W) is channels_last already, so the layout needs no copy.
    return ((images.float() - mean) / std).to(dtype).permute(0, 3, 1, 2)


@functools.cache
def _imagenet_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Give mean and deviation of bytes by channel; cached, because each copy to a GPU waits for the GPU."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used for training
        # Two tensors, not two rows of one: torch.export.save warns about parts of a larger tensor.
        mean = torch.tensor(IMAGENET_MEAN, device=device) * 255
        return mean, torch.tensor(IMAGENET_STD, device=device) * 255


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """Choose the dtype of the forward pass: bfloat16, float16 or float32.

    auto: bfloat16 if the hardware supports it, because emulation is slower than float32 (CPU: only
    AVX512-BF16 or AMX; GPU: compute capability 8.0 and up); else float16 on GPUs with tensor cores for it
    (7.0 and up: V100, T4); else float32. Matrix products of float32 stay in float32, but cuDNN's convolutions
    round float32 inputs to TF32 on GPUs that support it; this is torch's default.
    """
    if setting != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[setting]
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile"))
    return torch.bfloat16 if has_bf16 else torch.float32


def _download_imagenet() -> StateDict:
    url = ResNet50_Weights.DEFAULT.url
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if cached.exists():
        try:
            kept: StateDict = read_tensors(cached.read_bytes(), name=str(cached))
        except (CheckpointError, OSError) as error:
            raise WeightsError(f"weights=imagenet: {error}; delete it to download it again") from error
        return kept
    remedy = "set TORCH_HOME to a writable folder, or give a file or s3:// address of a state dict, or "
    try:
        check_writable("TORCH_HOME", torch.hub.get_dir(), f"{remedy}weights=random")
    except StorageError as error:
        raise WeightsError(f"weights=imagenet: {error}") from error
    try:
        # This request comes first, because torch's download has no timeout and prints a line before it fails.
        urlopen(Request(url, method="HEAD"), timeout=PROBE_TIMEOUT_S).close()
        with contextlib.redirect_stdout(sys.stderr):  # it prints, but a program may read stdout
            state: StateDict = ResNet50_Weights.DEFAULT.get_state_dict(
                progress=False, check_hash=True, weights_only=True
            )
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"weights=imagenet: {url} cannot be downloaded ({reason}); "
            "give a file or s3:// address of its state dict, or weights=random"
        ) from error
    return state


def _find_state_dict(value: object) -> object:
    """Find the state dict inside the dictionaries that training scripts save."""
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    return value


def _find_mapping(value: object, data: bytes, address: str) -> object:
    if isinstance(value, dict) and "class_mapping" in value:
        return value["class_mapping"]
    inside = read_inside(io.BytesIO(data))
    return read_beside(address) if inside is None else inside


def _head_rows(state: StateDict, mapping: ClassMapping) -> dict[int, tuple[Tensor, Tensor]]:
    num_poses = len(mapping.classes)
    head = {key: tensor for key, tensor in state.items() if _is_head(key)}
    shapes = {key: tuple(tensor.shape) for key, tensor in head.items()}
    if shapes != {"fc.weight": (num_poses, NUM_FEATURES), "fc.bias": (num_poses,)}:
        raise LabelError(f"class mapping: it has {num_poses} poses, but the last layer has {shapes}")
    return {  # copies: a view of one row would take the whole layer to each worker
        pose_id: (head["fc.weight"][row].clone(), head["fc.bias"][row].clone())
        for row, pose_id in enumerate(mapping.pose_ids)
    }


def _checked(value: object, name: str) -> StateDict:
    if not isinstance(value, dict) or not value or not all(isinstance(t, Tensor) for t in value.values()):
        raise WeightsError(f"weights={name}: expected a state dict, got a {type(value).__name__}")
    # DistributedDataParallel and DataParallel add the prefix "module.".
    state = {str(key).removeprefix("module."): tensor for key, tensor in value.items()}
    wanted = _shapes(ARCHITECTURE)
    given = {key: tuple(tensor.shape) for key, tensor in state.items() if not _is_head(key)}
    if given == wanted:
        return state
    for other in list_models(module=torchvision.models, include=["resnet*", "resnext*", "wide_resnet*"]):
        if other != ARCHITECTURE and given == _shapes(other):
            raise WeightsError(f"weights={name}: these weights are of a {other}; a {ARCHITECTURE} is needed")
    odd = sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))
    raise WeightsError(
        f"weights={name}: these are not weights of a {ARCHITECTURE}: {len(odd)} entries differ, the first is "
        f"{odd[0]} (expected {wanted.get(odd[0], 'none')}, got {given.get(odd[0], 'none')})"
    )


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # shapes only, no memory
        state = get_model(architecture, weights=None).state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items() if not _is_head(key)}


def _is_head(key: str) -> bool:
    return key.startswith("fc.")


def _without_head(state: StateDict) -> StateDict:
    return {key: tensor for key, tensor in state.items() if not _is_head(key)}
