"""The one shape of an answer: from the network's logits to what HTTP, JSON and Parquet contain.

    content            HTTP                        predict --json, jsonl   Parquet
    pose               null below min_confidence   always a pose           pose_id, pose
    confidence         confidence                  confidence              confidence
    min_confidence     min_confidence              –                       –
    all probabilities  probabilities               probabilities           probability_<pose id>
    model's version    model.version               model.version           metadata of the schema
    temperature        model.temperature           –                       –

HTTP adds its two keys in `physiq_ray/serving/schema.py`; `Prediction` adds what is known of the photo.
Computing an answer from logits takes some microseconds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from physiq_ray.checkpoint import ModelState

Float32Array = npt.NDArray[np.float32]

# Finite weights may still be so large that sums of their products are not finite.
NOT_FINITE = "the network's output is not a number: its weights are damaged, or too large for its precision"
VERSION_KEY, CLASSES_KEY = b"physiq_ray.model_version", b"physiq_ray.classes"


@dataclass(frozen=True)
class PoseProbability:
    """The probability of one pose, 0 … 1."""

    pose_id: int
    name: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """The answer of a model for one photo.

    probabilities: of all poses, the highest first; their sum is 1.
    """

    probabilities: tuple[PoseProbability, ...]
    model_version: str
    temperature: float

    @property
    def pose(self) -> PoseProbability:
        """The pose with the highest probability, which is the confidence."""
        return self.probabilities[0]

    def to_dict(self, *, min_confidence: float = 0.0) -> dict[str, Any]:
        """Give the answer for JSON; its pose is None if the confidence is below min_confidence."""
        best = self.pose
        return {
            "pose": _named(best) if best.probability >= min_confidence else None,
            "confidence": best.probability,
            "probabilities": [
                _named(item) | {"probability": item.probability} for item in self.probabilities
            ],
            "model": {"version": self.model_version},
        }


def to_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits (B, C) by the temperature and return float64 (B, C) whose rows have the sum 1."""
    return torch.softmax(logits.double() / temperature, dim=1)


def rank_poses(logits: Tensor, state: ModelState) -> tuple[PoseProbability, ...]:
    """Turn the logits (C,) of one photo into the probabilities of all poses, the highest first."""
    probabilities = to_probabilities(logits[None], state.temperature)[0].tolist()
    poses = [
        PoseProbability(pose_id, state.pose_names[pose_id], probability)
        for pose_id, probability in zip(state.class_mapping.pose_ids, probabilities, strict=True)
    ]
    return tuple(sorted(poses, key=lambda item: -item.probability))


def answer_schema(state: ModelState) -> pa.Schema:
    """Give the columns of a model's answers in Parquet, with the model in the metadata.

    uri string, pose_id int32, pose string, confidence float32, error string, and probability_<pose id>
    float32 for each pose in the order of the network's outputs.
    """
    mapping = state.class_mapping
    return pa.schema(
        [
            ("uri", pa.string()),
            ("pose_id", pa.int32()),
            ("pose", pa.string()),
            ("confidence", pa.float32()),
            ("error", pa.string()),
            *((f"probability_{pose_id}", pa.float32()) for pose_id in mapping.pose_ids),
        ],
        metadata={VERSION_KEY: state.version.encode(), CLASSES_KEY: json.dumps(mapping.classes).encode()},
    )


def to_table(uris: Sequence[str], logits: Float32Array, state: ModelState) -> pa.Table:
    """Turn logits float32 (B, C) into B rows of `answer_schema`; their error is null."""
    probabilities = to_probabilities(torch.from_numpy(logits), state.temperature).numpy()  # (B, C)
    pose_ids = [state.class_mapping.pose_ids[index] for index in probabilities.argmax(axis=1)]
    columns = [
        uris,
        pose_ids,
        [state.pose_names[pose_id] for pose_id in pose_ids],
        probabilities.max(axis=1),
        [None] * len(pose_ids),
        *probabilities.T,
    ]
    schema = answer_schema(state)
    arrays = [pa.array(column).cast(kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _named(pose: PoseProbability) -> dict[str, Any]:
    return {"id": pose.pose_id, "name": pose.name}
