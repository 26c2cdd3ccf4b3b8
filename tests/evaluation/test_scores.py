import json

import numpy as np
import pytest
import torch

from physiq_ray.errors import DataError
from physiq_ray.evaluation import Answers, score
from physiq_ray.evaluation.intervals import wilson_interval
from physiq_ray.labels import ClassMapping

MAPPING = ClassMapping.of_poses([1, 2, 7])
NAMES = {1: "Front", 2: "Double", 7: "Back"}


@pytest.fixture
def answers():
    """Give five photos: three Fronts, of which two are right, two Doubles, of which one is; no Back."""
    logits = torch.tensor(
        [[3.0, 1.0, 0.0], [2.0, 0.0, 1.0], [0.0, 4.0, 1.0], [5.0, 1.0, 0.0], [0.0, 2.0, 1.0]]
    )
    labels = torch.tensor([0, 0, 0, 1, 1])
    return Answers(tuple(f"s3://b/{n}.jpg" for n in range(5)), labels, logits)


def test_scores_are_those_of_a_small_example_done_by_hand(answers):
    report = score(answers, MAPPING, NAMES, temperature=1.0)
    assert report.confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert report.accuracy == pytest.approx(3 / 5)
    assert report.top2_accuracy == pytest.approx(4 / 5)  # the third photo's truth came last
    front, double, back = report.poses
    assert (front.precision, front.recall, front.count, front.predicted) == (
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        3,
        3,
    )
    assert (double.precision, double.recall, double.f1) == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert (back.precision, back.recall, back.f1, back.count) == (0, 0, 0, 0)
    assert report.recall == pytest.approx((2 / 3 + 1 / 2) / 2)  # of the two poses that have photos


def test_mistakes_are_sorted_by_confidence_and_have_names(answers):
    first, second = score(answers, MAPPING, NAMES, temperature=1.0).mistakes
    assert (first.uri, first.truth, first.answer) == ("s3://b/3.jpg", "Double", "Front")
    assert first.confidence == pytest.approx(np.exp(5) / (np.exp(5) + np.exp(1) + 1))
    assert (second.uri, second.truth, second.answer) == ("s3://b/2.jpg", "Front", "Double")
    assert (first.answer_id, second.answer_id) == (1, 2)


def test_a_temperature_changes_the_confidence_and_not_the_predicted_pose(answers):
    cold, hot = (score(answers, MAPPING, NAMES, temperature=value) for value in (1.0, 4.0))
    assert np.array_equal(cold.confusion, hot.confusion)
    assert hot.mistakes[0].confidence < cold.mistakes[0].confidence
    assert hot.error_before == cold.error_before
    assert hot.error_after != cold.error_after


def test_the_report_is_json_without_nan(answers):
    plain = json.loads(json.dumps(score(answers, MAPPING, NAMES, temperature=2.0).to_dict(), allow_nan=False))
    assert plain["poses"][1] == {
        "pose_id": 2,
        "name": "Double",
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        "count": 2,
        "predicted": 2,
        "precision_interval": list(wilson_interval(1, 2)),
        "recall_interval": list(wilson_interval(1, 2)),
        "f1_interval": pytest.approx([0.1159, 0.8841], abs=1e-4),  # of one in three: 0.0615 to 0.7923
    }
    assert plain["accuracy_interval"] == pytest.approx(wilson_interval(3, 5))
    assert plain["num_groups"] == 5
    assert plain["calibration"]["temperature"] == 2.0
    assert plain["mistakes"][0]["truth"] == "Double"


def test_no_readable_photo_is_an_error():
    with pytest.raises(DataError, match="nothing to evaluate"):
        score(
            Answers((), torch.empty(0, dtype=torch.int64), torch.empty(0, 3)), MAPPING, NAMES, temperature=1
        )
