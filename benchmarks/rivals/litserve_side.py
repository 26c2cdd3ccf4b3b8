"""LitServe with our decoder and forward pass: python litserve_side.py MODEL PORT."""

import base64
import sys
from dataclasses import replace
from typing import Any

import litserve
import numpy as np
import torch

from physiq_ray.checkpoint import load_model_state
from physiq_ray.images import decode_square
from physiq_ray.prediction.network import Network

MODEL, PORT = sys.argv[1], int(sys.argv[2])


class Poses(litserve.LitAPI):
    """A service that gets photos in base64 in JSON, as documented; a batch waits 10 ms for requests."""

    def setup(self, device: str) -> None:
        """Load the model."""
        torch.set_num_threads(2)
        state = replace(load_model_state(MODEL), floor=None)  # logits only
        self.network, self.size = Network(state), state.image_size

    def decode_request(self, request: dict[str, str]) -> Any:
        """Decode one photo."""
        return decode_square(base64.b64decode(request["photo"]), size_px=self.size)

    def batch(self, inputs: list[Any]) -> Any:
        """Stack the photos of a batch."""
        return torch.from_numpy(np.stack(inputs))

    def predict(self, images: Any) -> Any:
        """Give the probabilities of a batch."""
        return self.network.outputs(images).softmax(1)

    def unbatch(self, output: Any) -> list[Any]:
        """Split a batch into its answers."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Give the response to one request."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Poses(max_batch_size=16, batch_timeout=0.01, api_path="/v1/predict")
    litserve.LitServer(api, accelerator="cpu", timeout=60).run(
        host="127.0.0.1", port=PORT, generate_client_file=False, log_level="error"
    )
