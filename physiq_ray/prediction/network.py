"""The network, ready to predict: the forward pass that single, batch and service share."""

import itertools
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from physiq_ray.checkpoint import ModelState
from physiq_ray.floor import ScoringHead
from physiq_ray.machine import usable_cpus
from physiq_ray.model import choose_precision, normalise


def limit_threads() -> None:
    """Let torch compute on at most as many threads as this process has CPUs: torch knows no quotas."""
    num_cpus = usable_cpus()
    if torch.get_num_threads() > num_cpus:
        torch.set_num_threads(num_cpus)


class Forward(Protocol):
    """Computes outputs from pixels: `Network`, or the same network in another runtime."""

    def sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Give the sizes of batches to warm up with, up to max_batch_size photos."""
        return tuple(sorted({1, max_batch_size}))

    def outputs(self, images: Tensor) -> Tensor:
        """Compute float32 (B, C) on the CPU from uint8 (B, H, W, 3) RGB: logits, without temperature.

        There is one more column if the model's floor needs the network's features (see `physiq_ray.floor`).
        """


class Network(Forward):
    """A model in its fastest form: low precision, channels_last, folded batch norms.

    Batch norms are folded into the convolutions before them. The weights are stored in the chosen precision,
    so that autocast need not convert them in each pass. The last layer stays in float32, because bfloat16
    would round logits to two digits. pads: whether batches are padded to powers of two, as on a GPU.
    """

    def __init__(self, state: ModelState, *, precision: str = "auto", use_gpu: bool = True) -> None:
        """Build it from the model file alone; use_gpu: on a GPU, if this process can see one.

        Raises CheckpointError: its weights do not fit.
        """
        self.device = torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")
        self._dtype = choose_precision(precision, self.device)
        # cuDNN plans each new batch size, which takes up to 0.2 s on an H100. There, 16 photos take hardly
        # longer than one (`benchmarks/README.md`), so batches are padded to few sizes.
        self.pads = self.device.type == "cuda"
        model = state.build()
        self._head = model.get_submodule("fc").to(self.device)
        self._layer = self._head.layer if isinstance(self._head, ScoringHead) else self._head
        model.set_submodule("fc", nn.Identity())
        fold_norms(model)
        body = model.to(self.device, self._dtype)
        self._body = body.to(memory_format=torch.channels_last)

    def sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Give the sizes of batches to warm up with: all that occur, if batches are padded."""
        if not self.pads:
            return super().sizes(max_batch_size)
        return tuple(2**power for power in range((max_batch_size - 1).bit_length() + 1))

    def outputs(self, images: Tensor) -> Tensor:
        """Compute float32 (B, C) or (B, C + 1); see `Forward`."""
        with torch.inference_mode():
            outputs: Tensor = self._head(self._compute(images))
        return outputs[: len(images)].cpu()

    def features(self, images: Tensor) -> Tensor:
        """Compute the input of the last layer, float32 (B, 2048) on the CPU, from the same photos."""
        with torch.inference_mode():
            return self._compute(images)[: len(images)].cpu()

    def outputs_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both in one pass."""
        with torch.inference_mode():
            features = self._compute(images)
            outputs: Tensor = self._head(features)
        return outputs[: len(images)].cpu(), features[: len(images)].cpu()

    def _compute(self, images: Tensor) -> Tensor:
        if self.pads:
            images = _padded(images)
        features: Tensor = self._body(normalise(images.to(self.device), dtype=self._dtype))
        return features.float()

    def class_maps(self, images: Tensor) -> Tensor:
        """Compute how much each place speaks for each class: float32 (B, C, ⌈H / 32⌉, ⌈W / 32⌉) on the CPU.

        images: as in `outputs`. A map's mean, plus the bias of its class, is the logit (Zhou et al. 2016).
        """
        blocks = nn.Sequential(*list(self._body.children())[:-2])  # without the mean and the removed head
        with torch.inference_mode():
            places = blocks(normalise(images.to(self.device), dtype=self._dtype))  # (B, 2048, h, w)
            maps = torch.einsum("bkhw,ck->bchw", places.float(), self._layer.get_parameter("weight"))
        return maps.cpu()


class FromPixels(nn.Module):
    """A ResNet50 with its normalisation, for runtimes and exports that compile both."""

    def __init__(self, model: nn.Module) -> None:
        """Take the network of `ModelState.build`."""
        super().__init__()
        self._model = model

    def forward(self, images: Tensor) -> Tensor:
        """Compute float32 (B, C) or (B, C + 1) from uint8 (B, H, W, 3) RGB; see `Forward.outputs`."""
        outputs: Tensor = self._model(normalise(images))
        return outputs


def example_pixels(state: ModelState) -> Tensor:
    """Give the input with which FromPixels is traced: uint8 (2, H, W, 3)."""
    images = torch.zeros(2, state.image_size, state.image_size, 3, dtype=torch.uint8)
    normalise(images)  # creates its constants, which tracing cannot do
    return images


def _padded(images: Tensor) -> Tensor:
    """Fill a batch up to a power of two with black photos."""
    missing = (1 << (len(images) - 1).bit_length()) - len(images) if len(images) else 0
    return torch.cat([images, images.new_zeros(missing, *images.shape[1:])]) if missing else images


def fold_norms(model: nn.Module) -> None:
    """Fold each batch norm of a ResNet into the convolution that its definition names before it.

    torch.fx is not used: while it traces, it changes how modules are called in all threads, and a model that
    computes in another thread fails.
    """
    for module in list(model.modules()):
        for (_, first), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
            if not isinstance(first, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.running_mean is not None and norm.running_var is not None:
                # fuse_conv_bn_eval would copy all weights before it computes the new ones.
                first.weight, first.bias = fuse_conv_bn_weights(
                    *(first.weight, first.bias, norm.running_mean, norm.running_var, norm.eps),
                    *(norm.weight, norm.bias),
                )
                setattr(module, norm_name, nn.Identity())
