import numpy as np
import pytest

from physiq_ray.suspects.rank import find_likely_wrong, rank, thresholds

LABELS = np.array([0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [
        [0.90, 0.06, 0.04],
        [0.20, 0.70, 0.10],
        [0.10, 0.80, 0.10],
        [0.31, 0.40, 0.29],
        [0.10, 0.30, 0.60],
    ]
)


def test_a_threshold_is_the_mean_probability_of_the_photos_labelled_so():
    assert thresholds(PROBABILITIES, LABELS) == pytest.approx([0.55, 0.6, 0.6])


def test_photos_are_ranked_by_the_margin_between_their_label_and_the_most_probable_other_pose():
    ranking = rank(PROBABILITIES, LABELS)
    assert ranking.margin == pytest.approx([0.92, 0.25, 0.85, 0.545, 0.65])
    assert ranking.suggested.tolist() == [1, 1, 0, 0, 1]
    assert ranking.order.tolist() == [1, 3, 4, 2, 0]
    assert ranking.is_likely_wrong.tolist() == [False, True, False, False, False]


def test_likely_wrong_labels_come_before_photos_with_a_smaller_margin():
    # Photo 2 is closest to pose 1, but those labelled 1 have 0.95, so its 0.9 does not count.
    labels = np.array([1, 2, 0, 0])
    probabilities = np.array([[0.0, 0.95, 0.05], [0.3, 0.2, 0.5], [0.1, 0.9, 0.0], [0.4, 0.1, 0.5]])
    ranking = rank(probabilities, labels)
    assert ranking.is_likely_wrong.tolist() == [False, False, False, True]
    assert ranking.margin.tolist() == pytest.approx([0.95, 0.6, 0.1, 0.45])
    assert ranking.order.tolist() == [3, 2, 1, 0]


def test_of_several_poses_above_their_thresholds_the_most_probable_one_counts():
    # Both poses reach their thresholds, 0.5 and 0.3; the label is the more probable one.
    labels, probabilities = np.array([0, 1, 1]), np.array([[0.5, 0.4, 0.1], [0.4, 0.3, 0.3], [0.4, 0.3, 0.3]])
    assert find_likely_wrong(probabilities, labels).tolist() == [False, False, False]


def test_a_label_with_the_highest_probability_is_not_called_wrong():
    # The first photo is below the threshold of its pose, 0.75, and above that of pose 1, 0.35.
    labels, probabilities = np.array([0, 0, 1]), np.array([[0.5, 0.4, 0.1], [1.0, 0, 0], [0.2, 0.35, 0.45]])
    assert find_likely_wrong(probabilities, labels).tolist() == [False, False, False]


def test_a_photo_that_reaches_no_threshold_is_not_called_wrong():
    # The thresholds are 0.9, 0.6 and 0.8; the last photo, labelled 1, has 0.4, 0.3 and 0.3.
    labels = np.array([0, 1, 2, 1])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.1, 0.1, 0.8], [0.4, 0.3, 0.3]])
    assert find_likely_wrong(probabilities, labels).tolist() == [False, False, False, False]


def test_equal_probabilities_reach_their_mean_in_spite_of_rounding():
    labels = np.array([1] * 10 + [0])
    probabilities = np.tile([0.3, 0.7], (11, 1))
    assert thresholds(probabilities, labels)[1] > 0.7  # by rounding
    assert find_likely_wrong(probabilities, labels).tolist() == [False] * 10 + [True]


def test_a_pose_without_photos_is_suggested_but_makes_no_label_wrong():
    labels, probabilities = np.array([0, 1]), np.array([[0.2, 0.1, 0.7], [0.3, 0.6, 0.1]])
    assert thresholds(probabilities, labels).tolist() == [0.2, 0.6, np.inf]
    ranking = rank(probabilities, labels)
    assert ranking.suggested.tolist() == [2, 0]
    assert not ranking.is_likely_wrong.any()
