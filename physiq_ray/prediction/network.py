"""The network ready to answer: one forward pass for a single photo and for millions of them."""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from physiq_ray.checkpoint import ModelState
from physiq_ray.model import choose_precision, normalise

# Finite weights may still be so large that sums of their products are not.
NOT_FINITE = "the network's answer is no number; its weights are damaged, or too large for its precision"


class Forward(Protocol):
    """What answers for pixels: `Network`, or the same by another runtime."""

    def logits(self, images: Tensor) -> Tensor:
        """Answer for uint8 (B, H, W, 3) RGB with float32 (B, C) on the CPU, no temperature applied."""


class Network:
    """A model on a GPU where there is one, in its fastest form: few bits, channels_last, norms folded.

    Batch norms are folded into the convolutions before them and weights stand in the precision chosen, which
    spares what autocast does in each pass. The last layer stays in float32, as bfloat16 would round logits to
    two digits.
    """

    def __init__(self, state: ModelState, *, precision: str = "auto") -> None:
        """Build it from the model file alone.

        Raises CheckpointError: its weights do not fit.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = choose_precision(precision, self.device)
        model = state.build()
        self._head = model.get_submodule("fc").to(self.device)
        model.set_submodule("fc", nn.Identity())
        body = fuse(model).to(self.device, self._dtype)
        self._body = body.to(memory_format=torch.channels_last)

    def logits(self, images: Tensor) -> Tensor:
        """Answer for uint8 (B, H, W, 3) RGB with float32 (B, C) on the CPU, no temperature applied."""
        with torch.inference_mode():
            features = self._body(normalise(images.to(self.device), dtype=self._dtype))  # (B, 2048)
            logits: Tensor = self._head(features.float())
        return logits.cpu()


def to_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Turn logits (B, C) into float64 (B, C) whose rows add up to 1."""
    return torch.softmax(logits.double() / temperature, dim=1)
