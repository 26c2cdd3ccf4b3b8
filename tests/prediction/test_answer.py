import dataclasses

import numpy as np
import pytest
import torch

from physiq_ray.floor import Floor, floor_of_confidence
from physiq_ray.prediction.answer import (
    Answer,
    FloorCheck,
    PoseProbability,
    floor_scores_of,
    make_answer,
    to_probabilities,
    to_table,
)

ANSWER = Answer(
    (PoseProbability(7, "Back Lat Spread", 0.75), PoseProbability(2, "Front Double Biceps", 0.25)),
    model_version="0123456789ab",
    temperature=1.3,
    floor=None,
)


def test_probabilities_are_the_softmax_of_the_logits_divided_by_the_temperature():
    logits = torch.tensor([[0.0, 2 * np.log(3)], [0.0, 0.0]], dtype=torch.float32)
    found = to_probabilities(logits, 2.0)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)


def test_poses_are_ranked_by_probability_and_equal_ones_keep_the_order_of_the_outputs(state):
    # String order: output 0 is pose 11, output 1 pose 2, output 2 pose 7.
    state = dataclasses.replace(state, temperature=2.0)
    ranked = make_answer(torch.tensor([0.0, 1.0, 1.0]), state, None).probabilities
    assert [item.pose_id for item in ranked] == [2, 7, 11]
    assert [item.name for item in ranked] == ["Front Double Biceps", "Back Lat Spread", "Abs & Thighs"]
    top = np.exp(0.5) / (1 + 2 * np.exp(0.5))
    assert [item.probability for item in ranked] == pytest.approx([top, top, 1 - 2 * top])


def test_an_answer_for_json_has_the_pose_the_confidence_all_probabilities_and_the_version():
    assert ANSWER.to_dict() == {
        "pose": {"id": 7, "name": "Back Lat Spread"},
        "confidence": 0.75,
        "floor": None,
        "probabilities": [
            {"id": 7, "name": "Back Lat Spread", "probability": 0.75},
            {"id": 2, "name": "Front Double Biceps", "probability": 0.25},
        ],
        "model": {"version": "0123456789ab"},
    }


@pytest.mark.parametrize(("threshold", "is_known"), [(0.0, True), (0.75, True), (0.751, False)])
def test_below_the_floor_the_pose_is_none_and_the_probabilities_stay(threshold, is_known):
    answer = dataclasses.replace(ANSWER, floor=FloorCheck("probability", 0.75, threshold))
    value = answer.to_dict()
    assert (value.pop("pose") is not None) == is_known
    assert value.pop("floor") == {"score": "probability", "value": 0.75, "threshold": threshold}
    plain = ANSWER.to_dict()
    assert value == {name: plain[name] for name in ("confidence", "probabilities", "model")}


@pytest.mark.parametrize(
    ("floor", "known"),
    [
        (floor_of_confidence(0.65), [True, False, False]),  # the highest probabilities are 0.84, 0.60, 0.5
        (Floor("energy", 1.8), [False, False, True]),  # the energies are the logarithms of 2.4, 5 and 8
        (Floor("distance", 0.5, torch.eye(3)), [True, False, True]),
    ],
)
def test_one_photo_and_a_table_refuse_the_same_photos(state, floor, known):
    outputs = np.array(
        [
            [*np.log([0.2, 0.2, 2.0]), 0.7],
            [*np.log([1.0, 3.0, 1.0]), 0.4999],
            [*np.log([2.0, 4.0, 2.0]), 0.5],
        ],
        np.float32,
    )
    if floor.score != "distance":
        outputs = outputs[:, :3]
    state = dataclasses.replace(state, floor=floor)
    rows = to_table(list("abc"), outputs, state).to_pylist()
    answers = [make_answer(torch.from_numpy(row), state, floor) for row in outputs]
    assert [row["pose_id"] is not None for row in rows] == known
    assert [row["pose"] is not None for row in rows] == known
    assert [answer.pose is not None for answer in answers] == known
    for row, answer in zip(rows, answers, strict=True):
        assert row["confidence"] == pytest.approx(answer.likeliest.probability)
        assert answer.floor.value == pytest.approx(
            float(floor_scores_of(torch.from_numpy(outputs), state, floor)[ord(row["uri"]) - 97])
        )


def test_a_row_and_a_ranking_of_the_same_logits_agree(state):
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for row, numbers in zip(to_table(list("abcde"), logits, state).to_pylist(), logits, strict=True):
        best = make_answer(torch.from_numpy(numbers), state, None).pose
        assert (row["pose_id"], row["pose"]) == (best.pose_id, best.name)
        assert row["confidence"] == pytest.approx(best.probability)


def test_rows_are_named_by_the_class_mapping(state):
    # String order: output 0 is pose 11, output 1 pose 2, output 2 pose 7.
    table = to_table(["a", "b"], np.array([[0, np.log(3), 0], [9, 0, 0]], np.float32), state)
    first, second = table.to_pylist()
    assert (first["pose_id"], first["pose"]) == (2, "Front Double Biceps")
    assert first["confidence"] == first["probability_2"] == pytest.approx(0.6)
    assert first["probability_11"] == first["probability_7"] == pytest.approx(0.2)
    assert (second["pose_id"], second["uri"]) == (11, "b")
