"""The one shape of an answer: from the network's outputs to what HTTP, JSON and Parquet contain.

    content            HTTP                predict --json, jsonl   Parquet
    pose               pose                pose                    pose_id, pose
    confidence         confidence          confidence              confidence
    floor              floor               floor                   –
    min_confidence     min_confidence      –                       –
    all probabilities  probabilities       probabilities           probability_<pose id>
    model's version    model.version       model.version           metadata of the schema
    temperature        model.temperature   –                       –

The pose is null if the photo's score is below the floor: it shows no known pose. The confidence is still the
highest probability. HTTP adds its two keys in `physiq_ray/serving/schema.py`; `Prediction` adds what is known
of the photo.
Computing an answer from outputs takes some microseconds.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from physiq_ray.checkpoint import ModelState
from physiq_ray.floor import Floor

if TYPE_CHECKING:
    import pyarrow as pa

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
class FloorCheck:
    """The score of one photo, next to the threshold; score: the name of a score in `physiq_ray.floor`."""

    score: str
    value: float
    threshold: float


@dataclass(frozen=True)
class Answer:
    """The answer of a model for one photo.

    probabilities: of all poses, the highest first; their sum is 1. floor: None if every photo gets a pose.
    """

    probabilities: tuple[PoseProbability, ...]
    model_version: str
    temperature: float
    floor: FloorCheck | None

    @property
    def likeliest(self) -> PoseProbability:
        """The pose with the highest probability, which is the confidence."""
        return self.probabilities[0]

    @property
    def pose(self) -> PoseProbability | None:
        """The likeliest pose, or None if the photo shows no known pose."""
        is_below = self.floor is not None and self.floor.value < self.floor.threshold
        return None if is_below else self.likeliest

    def to_dict(self) -> dict[str, Any]:
        """Give the answer for JSON."""
        return {
            "pose": _named(self.pose) if self.pose is not None else None,
            "confidence": self.likeliest.probability,
            "floor": asdict(self.floor) if self.floor is not None else None,
            "probabilities": [
                _named(item) | {"probability": item.probability} for item in self.probabilities
            ],
            "model": {"version": self.model_version},
        }


def to_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits (B, C) by the temperature and return float64 (B, C) whose rows have the sum 1."""
    return torch.softmax(logits.double() / temperature, dim=1)


def make_answer(outputs: Tensor, state: ModelState, floor: Floor | None) -> Answer:
    """Turn the network's outputs (C,) or (C + 1,) for one photo into its answer.

    floor: the model's own, or one that the user set.
    """
    probabilities = to_probabilities(logits_of(outputs[None], state), state.temperature)[0].tolist()
    poses = [
        PoseProbability(pose_id, state.pose_names[pose_id], probability)
        for pose_id, probability in zip(state.class_mapping.pose_ids, probabilities, strict=True)
    ]
    ranked = tuple(sorted(poses, key=lambda item: -item.probability))
    check = None
    if floor is not None:
        value = float(floor_scores_of(outputs[None], state, floor)[0])
        check = FloorCheck(floor.score, value, floor.threshold)
    return Answer(ranked, state.version, state.temperature, check)


def logits_of(outputs: Tensor, state: ModelState) -> Tensor:
    """Give the logits (B, C) among a network's outputs (B, C) or (B, C + 1)."""
    return outputs[:, : len(state.class_mapping.classes)]


def answer_schema(state: ModelState) -> "pa.Schema":
    """Give the columns of a model's answers in Parquet, with the model in the metadata.

    uri string, pose_id int32, pose string, confidence float32, error string, and probability_<pose id>
    float32 for each pose in the order of the network's outputs.
    """
    import pyarrow as pa  # imported here: an answer for one photo needs no table

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


def to_table(uris: Sequence[str], outputs: Float32Array, state: ModelState) -> "pa.Table":
    """Turn outputs float32 (B, C) or (B, C + 1) into B rows of `answer_schema`; their error is null.

    The pose is null for photos below the model's floor.
    """
    import pyarrow as pa

    given = torch.from_numpy(outputs)
    probabilities = to_probabilities(logits_of(given, state), state.temperature).numpy()  # (B, C)
    is_known = are_known(given, state)
    pose_ids = [
        state.class_mapping.pose_ids[index] if known else None
        for index, known in zip(probabilities.argmax(axis=1), is_known.tolist(), strict=True)
    ]
    columns = [
        uris,
        pose_ids,
        [state.pose_names[pose_id] if pose_id is not None else None for pose_id in pose_ids],
        probabilities.max(axis=1),
        [None] * len(pose_ids),
        *probabilities.T,
    ]
    schema = answer_schema(state)
    arrays = [pa.array(column).cast(kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def are_known(outputs: Tensor, state: ModelState) -> Tensor:
    """Say, bool (B,), which of the photos reach the model's floor."""
    if state.floor is None:
        return torch.ones(len(outputs), dtype=torch.bool)
    return floor_scores_of(outputs, state, state.floor) >= state.floor.threshold


def floor_scores_of(outputs: Tensor, state: ModelState, floor: Floor) -> Tensor:
    """Give the scores, float64 (B,), that a floor compares; outputs: of the model's network."""
    num_classes = len(state.class_mapping.classes)
    return floor.scores(outputs, num_classes=num_classes, temperature=state.temperature)


def _named(pose: PoseProbability) -> dict[str, Any]:
    return {"id": pose.pose_id, "name": pose.name}
