"""BentoML with our decoder and forward pass: POSE_MODEL=MODEL bentoml serve bentoml_side:Poses."""

import os
from dataclasses import replace
from pathlib import Path

import bentoml
import numpy as np
import torch

from physiq_ray.checkpoint import load_model_state
from physiq_ray.images import decode_square
from physiq_ray.prediction.network import Network


@bentoml.service(workers=1, traffic={"timeout": 120, "max_concurrency": 10000})
class Poses:
    """A service that gets photos as parts of a form, with adaptive batches."""

    def __init__(self) -> None:
        """Load the model."""
        torch.set_num_threads(2)
        state = replace(load_model_state(os.environ["POSE_MODEL"]), floor=None)  # logits only
        self.network, self.size = Network(state), state.image_size

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=60000, route="/v1/predict")
    def predict(self, photos: list[Path]) -> list[list[float]]:
        """Decode the photos of a batch and give their probabilities."""
        images = np.stack([decode_square(photo.read_bytes(), size_px=self.size) for photo in photos])
        answers: list[list[float]] = self.network.outputs(torch.from_numpy(images)).softmax(1).tolist()
        return answers
