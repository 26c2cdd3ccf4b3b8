"""The JSON of answers as text: programs may compare it, and people read the keys in their order."""

import json
from dataclasses import replace

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
    floor=predicted.FloorCheck("probability", 0.75, 0.5),
)
POSE = '{"id": 7, "name": "Back Lat Spread"}'
REST = (
    '"confidence": 0.75, "floor": {"score": "%s", "value": 0.75, "threshold": %s}, '
    '"min_confidence": %s, "probabilities": '
    '[{"id": 7, "name": "Back Lat Spread", "probability": 0.75}, '
    '{"id": 11, "name": "Abs & Thighs", "probability": 0.25}], '
    '"model": {"version": "7d3d1d26144e", "temperature": 1.3}}'
)


@pytest.mark.parametrize(
    ("score", "threshold", "pose", "min_confidence"),
    [
        ("probability", 0.5, POSE, "0.5"),
        ("probability", 0.75, POSE, "0.75"),
        ("probability", 0.9, "null", "0.9"),
        ("energy", 0.9, "null", "null"),
    ],
)
def test_the_json_of_one_answer(score: str, threshold: float, pose: str, min_confidence: str) -> None:
    answer = Answer.of(replace(ANSWER, floor=predicted.FloorCheck(score, 0.75, threshold)))

    expected = '{"pose": ' + pose + ", " + REST % (score, threshold, min_confidence)
    assert json.dumps(answer.model_dump()) == expected


def test_the_json_of_several_answers_has_the_name_first() -> None:
    answer = Answer.of(ANSWER)
    error = RequestError(422, "unreadable", "the photo cannot be decoded").to_answer()
    answers = Answers(
        answers=[NamedAnswer(name="a.jpg", **dict(answer)), NamedError(name=None, **dict(error))]
    )

    assert json.dumps(answers.model_dump()) == (
        '{"answers": [{"name": "a.jpg", "pose": ' + POSE + ", " + REST % ("probability", 0.5, 0.5) + ", "
        '{"name": null, "error": {"code": "unreadable", "message": "the photo cannot be decoded"}}]}'
    )
