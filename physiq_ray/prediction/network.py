"""The network, ready to predict: the forward pass that single, batch and service share."""

import itertools
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from physiq_ray.checkpoint import ModelState
from physiq_ray.model import choose_precision, normalise


class Forward(Protocol):
    """Computes logits from pixels: `Network`, or the same network in another runtime."""

    def sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Give the sizes of batches to warm up with, up to max_batch_size photos."""
        return tuple(sorted({1, max_batch_size}))

    def logits(self, images: Tensor) -> Tensor:
        """Compute float32 (B, C) on the CPU from uint8 (B, H, W, 3) RGB; no temperature is applied."""


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
        model.set_submodule("fc", nn.Identity())
        fold_norms(model)
        body = model.to(self.device, self._dtype)
        self._body = body.to(memory_format=torch.channels_last)

    def sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Give the sizes of batches to warm up with: all that occur, if batches are padded."""
        if not self.pads:
            return super().sizes(max_batch_size)
        return tuple(2**power for power in range((max_batch_size - 1).bit_length() + 1))

    def logits(self, images: Tensor) -> Tensor:
        """Compute float32 (B, C) on the CPU from uint8 (B, H, W, 3) RGB; no temperature is applied."""
        num_photos = len(images)
        if self.pads:
            images = _padded(images)
        with torch.inference_mode():
            features = self._body(normalise(images.to(self.device), dtype=self._dtype))  # (B, 2048)
            logits: Tensor = self._head(features.float())
        return logits[:num_photos].cpu()


class FromPixels(nn.Module):
    """A ResNet50 with its normalisation, for runtimes and exports that compile both."""

    def __init__(self, model: nn.Module) -> None:
        """Take the network of `ModelState.build` and divide it in front of its last layer."""
        super().__init__()
        self._head = model.get_submodule("fc")
        model.set_submodule("fc", nn.Identity())
        self._body = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits (B, C) and the features (B, 2048), both float32, from uint8 (B, H, W, 3) RGB.

        The logits are not divided by the temperature. The features are the input of the last layer.
        """
        features = self._body(normalise(images))
        return self._head(features), features


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
        for (name, first), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, norm))
                setattr(module, norm_name, nn.Identity())
