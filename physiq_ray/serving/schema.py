"""What requests and answers look like, for the OpenAPI document; the answers are built as plain dicts."""

from typing import Any

from pydantic import BaseModel


class Pose(BaseModel):
    """A pose by its id in the label file and its name."""

    id: int
    name: str


class PoseProbability(Pose):
    """A pose's share of the answer; all shares add up to 1."""

    probability: float


class AnsweringModel(BaseModel):
    """The model that gave an answer."""

    version: str
    temperature: float


class Answer(BaseModel):
    """What one photo shows; pose is null where confidence is below min_confidence."""

    pose: Pose | None
    confidence: float
    min_confidence: float
    probabilities: list[PoseProbability]
    model: AnsweringModel


class ErrorDetail(BaseModel):
    """A code for programs and a sentence for people."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """What is answered in place of a prediction."""

    error: ErrorDetail


class NamedAnswer(Answer):
    """One of several answers; name: the part's file name, or the uri."""

    name: str | None


class NamedError(ErrorAnswer):
    """What is answered for one of several photos that has no answer."""

    name: str | None


class Answers(BaseModel):
    """Answers to several photos, in their order."""

    answers: list[NamedAnswer | NamedError]


class Role(BaseModel):
    """A model that answers, and how often it did since it was loaded into this replica."""

    version: str
    image_size: int
    temperature: float
    poses: list[Pose]
    num_answers: int


class ModelAnswer(Role):
    """The model that answers; canary: the second one, with its share of the requests."""

    min_confidence: float
    canary: Role | None
    canary_share: float
    refused: str | None


class Health(BaseModel):
    """That the service answers."""

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
    400: {"model": ErrorAnswer, "description": "Empty, or not what its type or encoding says"},
    401: {"model": ErrorAnswer, "description": "The bearer token is missing or wrong"},
    431: {"model": ErrorAnswer, "description": "The headers are too large"},
    408: {"model": ErrorAnswer, "description": "The upload took too long, or there were too many slow ones"},
    413: {"model": ErrorAnswer, "description": "Too many bytes, pixels or photos"},
    415: {"model": ErrorAnswer, "description": "No image of a format read here, or an encoding besides gzip"},
    422: {"model": ErrorAnswer, "description": "A damaged photo, or a uri that may not or cannot be read"},
    429: {"model": ErrorAnswer, "description": "Too many requests of this client; Retry-After says when"},
    503: {"model": ErrorAnswer, "description": "No room just now; Retry-After says when"},
}
