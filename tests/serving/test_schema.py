"""The JSON of answers as text: programs may compare it, and people read the keys in their order."""

import json

import pytest

from physiq_ray.prediction import answer as predicted
from physiq_ray.serving.refusals import RequestError
from physiq_ray.serving.schema import Answer, Answers, NamedAnswer, NamedError

ANSWER = predicted.Answer(
    (
        predicted.PoseProbability(7, "Back Lat Spread", 0.75),
        predicted.PoseProbability(11, "Abs & Thighs", 0.25),
    ),
    model_version="7d3d1d26144e",
    temperature=1.3,
)
POSE = '{"id": 7, "name": "Back Lat Spread"}'
REST = (
    '"confidence": 0.75, "min_confidence": %s, "probabilities": '
    '[{"id": 7, "name": "Back Lat Spread", "probability": 0.75}, '
    '{"id": 11, "name": "Abs & Thighs", "probability": 0.25}], '
    '"model": {"version": "7d3d1d26144e", "temperature": 1.3}}'
)


@pytest.mark.parametrize(("min_confidence", "pose"), [(0.5, POSE), (0.75, POSE), (0.9, "null")])
def test_the_json_of_one_answer(min_confidence: float, pose: str) -> None:
    answer = Answer.of(ANSWER, min_confidence=min_confidence)

    assert json.dumps(answer.model_dump()) == '{"pose": ' + pose + ", " + REST % min_confidence


def test_the_json_of_several_answers_has_the_name_first() -> None:
    answer = Answer.of(ANSWER, min_confidence=0.5)
    error = RequestError(422, "unreadable", "the photo cannot be decoded").to_answer()
    answers = Answers(
        answers=[NamedAnswer(name="a.jpg", **dict(answer)), NamedError(name=None, **dict(error))]
    )

    assert json.dumps(answers.model_dump()) == (
        '{"answers": [{"name": "a.jpg", "pose": ' + POSE + ", " + REST % 0.5 + ", "
        '{"name": null, "error": {"code": "unreadable", "message": "the photo cannot be decoded"}}]}'
    )
