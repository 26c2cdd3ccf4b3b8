"""The network ready to answer: one forward pass for a single photo and for millions of them."""

import itertools
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from physiq_ray.checkpoint import ModelState
from physiq_ray.model import choose_precision, normalise


class Forward(Protocol):
    """What answers for pixels: `Network`, or the same by another runtime."""

    def sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Give the sizes of batches to warm up, which hold so many photos at most."""
        return tuple(sorted({1, max_batch_size}))

    def logits(self, images: Tensor) -> Tensor:
        """Answer for uint8 (B, H, W, 3) RGB with float32 (B, C) on the CPU, no temperature applied."""


class Network(Forward):
    """A model in its fastest form: few bits, channels_last, norms folded.

    Batch norms are folded into the convolutions before them and weights stand in the precision chosen, which
    spares what autocast does in each pass. The last layer stays in float32, as bfloat16 would round logits to
    two digits.
    """

    def __init__(self, state: ModelState, *, precision: str = "auto", use_gpu: bool = True) -> None:
        """Build it from the model file alone; use_gpu: on a GPU, if this process can see one.

        Raises CheckpointError: its weights do not fit.
        """
        self.device = torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")
        self._dtype = choose_precision(precision, self.device)
        # cuDNN plans each new size, in up to 0.2 s on an H100, which computes 16 photos nearly as fast as one
        # (`benchmarks/README.md`).
        self._pads = self.device.type == "cuda"
        model = state.build()
        self._head = model.get_submodule("fc").to(self.device)
        model.set_submodule("fc", nn.Identity())
        _fold_norms(model)
        body = model.to(self.device, self._dtype)
        self._body = body.to(memory_format=torch.channels_last)

    def sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Give the sizes of batches to warm up: all that are computed, where batches are padded."""
        if not self._pads:
            return super().sizes(max_batch_size)
        return tuple(2**power for power in range((max_batch_size - 1).bit_length() + 1))

    def logits(self, images: Tensor) -> Tensor:
        """Answer for uint8 (B, H, W, 3) RGB with float32 (B, C) on the CPU, no temperature applied."""
        num_photos = len(images)
        if self._pads:
            images = _padded(images)
        with torch.inference_mode():
            features = self._body(normalise(images.to(self.device), dtype=self._dtype))  # (B, 2048)
            logits: Tensor = self._head(features.float())
        return logits[:num_photos].cpu()


def _padded(images: Tensor) -> Tensor:
    """Fill a batch up to a power of two with black photos."""
    missing = (1 << (len(images) - 1).bit_length()) - len(images) if len(images) else 0
    return torch.cat([images, images.new_zeros(missing, *images.shape[1:])]) if missing else images


def _fold_norms(model: nn.Module) -> None:
    """Fold each batch norm of a ResNet into the convolution before it, which its definition names before it.

    Not by torch.fx: while that traces, it changes what calling a module means in all threads, and the model
    that answers in another one meanwhile fails.
    """
    for module in list(model.modules()):
        for (name, first), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, norm))
                setattr(module, norm_name, nn.Identity())
