"""The network in OpenVINO instead of torch: faster on Intel's and AMD's CPUs, for `physiq-ray[openvino]`.

It has the same weights, decoder and normalisation. In bf16, the probabilities of a trained model differ from
torch's by about 2e-3. Building it takes about five seconds. benchmarks/README.md has the figures.
"""

import importlib.util

import torch
from torch import Tensor

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import PredictionError
from physiq_ray.model import choose_precision
from physiq_ray.prediction.network import Forward, FromPixels, example_pixels


def has_openvino() -> bool:
    """Say whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoNetwork(Forward):
    """A model compiled for this machine's CPU; it can replace `Network`."""

    device = torch.device("cpu")

    def __init__(self, state: ModelState, *, precision: str = "auto", threads: int | None = None) -> None:
        """Convert and compile it; threads: None uses all cores.

        Raises PredictionError: OpenVINO is not installed. CheckpointError: the weights do not fit.
        """
        if not has_openvino():
            raise PredictionError("runtime=openvino: not installed; pip install 'physiq-ray[openvino]'")
        import openvino

        is_bf16 = choose_precision(precision, self.device) == torch.bfloat16
        program = torch.export.export(
            FromPixels(state.build()).eval(),
            (example_pixels(state),),
            dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
        )
        self._compiled = openvino.Core().compile_model(
            openvino.convert_model(program),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if is_bf16 else "f32",
                "INFERENCE_NUM_THREADS": threads or 0,  # 0: all
                "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
            },
        )

    def outputs(self, images: Tensor) -> Tensor:
        """Compute float32 (B, C) or (B, C + 1); see `Forward`."""
        return torch.from_numpy(self._compiled(images.numpy())[0])
