"""The JSON of requests and answers, as pydantic models.

The models build the answers and describe them in the OpenAPI document, so that the two cannot differ. The
order of the fields is the order of the keys in an answer.
"""

from typing import Any

from pydantic import BaseModel

from physiq_ray import floor as stored
from physiq_ray.prediction import answer as predicted


class Pose(BaseModel):
    """A pose: its id in the label file, and its name."""

    id: int
    name: str


class PoseProbability(Pose):
    """The probability of one pose; the sum over all poses is 1."""

    probability: float


class AnsweringModel(BaseModel):
    """The model that computed an answer."""

    version: str
    temperature: float


class FloorCheck(BaseModel):
    """The score of a photo and its threshold; score: probability, energy or distance."""

    score: str
    value: float
    threshold: float


class Answer(BaseModel):
    """The pose in one photo; pose is null if the floor's value is below its threshold.

    min_confidence is the threshold if it is one of the confidence, else null.
    """

    pose: Pose | None
    confidence: float
    floor: FloorCheck
    min_confidence: float | None
    probabilities: list[PoseProbability]
    model: AnsweringModel

    @classmethod
    def of(cls, answer: predicted.Answer) -> "Answer":
        """Build the answer that HTTP gives: the one of `predict --json`, with two more keys."""
        value = answer.to_dict()
        value["model"]["temperature"] = answer.temperature
        return cls.model_validate({**value, "min_confidence": min_confidence_of(answer.floor)})


def min_confidence_of(floor: predicted.FloorCheck | stored.Floor | None) -> float | None:
    """Give the threshold of the confidence, or None if another score decides."""
    return floor.threshold if floor is not None and floor.score == "probability" else None


class ErrorDetail(BaseModel):
    """A code for programs and a sentence for people."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """The answer if there is no prediction."""

    error: ErrorDetail


class Named(BaseModel):
    """One of several answers; name: the file name of the part, or the uri."""

    name: str | None


class NamedAnswer(Answer, Named):
    """One of several answers; name: the file name of the part, or the uri."""


class NamedError(ErrorAnswer, Named):
    """The error for one of several photos; name: the file name of the part, or the uri."""


class Answers(BaseModel):
    """The answers to several photos, in the order of the photos."""

    answers: list[NamedAnswer | NamedError]


class FloorRule(BaseModel):
    """The floor of a model: the score, and the threshold below which a photo shows no known pose."""

    score: str
    threshold: float


class Role(BaseModel):
    """A model that answers, and the number of its answers since this replica loaded it."""

    version: str
    image_size: int
    temperature: float
    floor: FloorRule
    poses: list[Pose]
    num_answers: int


class DriftDistance(BaseModel):
    """How far the last photos are from the validation photos; a value above the limit is no accident."""

    value: float
    limit: float


class DriftAnswer(BaseModel):
    """The distances of the last photos of this replica by what is compared; none before there are enough."""

    num_photos: int
    distances: dict[str, DriftDistance]


class ModelAnswer(Role):
    """The model that answers; canary: the second model; refused: why the latest change was not made.

    drift: null if the model's file does not say what its validation photos were like.
    """

    min_confidence: float | None
    canary: Role | None
    canary_share: float
    refused: str | None
    drift: DriftAnswer | None


class Health(BaseModel):
    """The service answers."""

    status: str


BINARY = {"schema": {"type": "string", "format": "binary"}}
BASE64 = {
    "type": "string",
    "contentEncoding": "base64",
    "description": "A photo in base64, of either alphabet, or as data:image/jpeg;base64,…",
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": BINARY,
            "application/octet-stream": BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photo"],
                    "properties": {
                        "photo": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            "application/json": {
                "schema": {
                    "oneOf": [
                        {
                            "type": "object",
                            "required": ["image"],
                            "additionalProperties": False,
                            "properties": {"image": BASE64},
                        },
                        {
                            "type": "object",
                            "required": ["images"],
                            "additionalProperties": False,
                            "properties": {"images": {"type": "array", "items": BASE64, "minItems": 1}},
                        },
                        {
                            "type": "object",
                            "required": ["uri"],
                            "additionalProperties": False,
                            "properties": {"uri": {"type": "string"}},
                        },
                        {
                            "type": "object",
                            "required": ["uris"],
                            "additionalProperties": False,
                            "properties": {"uris": {"type": "array", "items": {"type": "string"}}},
                        },
                    ]
                }
            },
        },
    }
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
        (400, "The request is empty, or is not what its type or encoding says"),
        (401, "The bearer token is missing or wrong"),
        (403, "The bearer token is for other requests"),
        (431, "The headers are too large"),
        (408, "The upload took too long, or too many slow uploads were in progress"),
        (413, "Too many bytes, pixels or photos"),
        (415, "Not an image of a format that is read here, or an encoding other than gzip"),
        (422, "A damaged photo, or a uri that is not allowed or cannot be read"),
        (429, "Too many requests of this client; Retry-After says when to try again"),
        (503, "No room at the moment; Retry-After says when to try again"),
    )
}
