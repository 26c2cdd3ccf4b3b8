"""The network ready to answer: one forward pass for a single photo and for millions of them."""

import torch
from torch import Tensor

from physiq_ray.checkpoint import ModelState
from physiq_ray.model import choose_precision, normalise

# Finite weights may still be so large that sums of their products are not.
NOT_FINITE = "the network's answer is no number; its weights are damaged, or too large for its precision"


class Network:
    """A model on a GPU where there is one, in channels_last and in the precision chosen."""

    def __init__(self, state: ModelState, *, precision: str = "auto") -> None:
        """Build it from the model file alone.

        Raises CheckpointError: its weights do not fit.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = choose_precision(precision, self.device)
        self._model = state.build().to(self.device).to(memory_format=torch.channels_last)

    def logits(self, images: Tensor) -> Tensor:
        """Answer for uint8 (B, H, W, 3) RGB with float32 (B, C) on the CPU, no temperature applied."""
        batch = normalise(images.to(self.device))  # (B, 3, H, W)
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32),
        ):
            logits: Tensor = self._model(batch)
        return logits.float().cpu()


def to_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Turn logits (B, C) into float64 (B, C) whose rows add up to 1."""
    return torch.softmax(logits.double() / temperature, dim=1)
