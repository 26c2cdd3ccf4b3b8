import pytest

from physiq_ray.errors import DataError
from physiq_ray.labels import ClassMapping
from physiq_ray.suspects.found import Predicted, Suspect, find_suspects


def test_photos_are_ranked_with_both_poses_and_counted_by_bucket_and_pair(two_wrong):
    suspects = find_suspects(two_wrong)
    assert [(photo.rank, photo.uri[-5], photo.is_likely_wrong) for photo in suspects.ranked] == [
        (1, "c", True),
        (2, "d", True),
        (3, "b", False),
        (4, "a", False),
        (5, "e", False),
    ]
    assert suspects.ranked[1] == Suspect(
        rank=2,
        uri="s3://training/d.jpg",
        bucket="training",
        group="group of s3://training/d.jpg",
        pose_id=7,
        probability=0.2,
        suggested_pose_id=1,
        suggested_probability=0.7,
        is_likely_wrong=True,
        fold=2,
    )
    assert suspects.num_likely_wrong == 2
    assert suspects.agreement == 0.6
    assert suspects.to_dict() == {
        "num_ranked": 5,
        "num_likely_wrong": 2,
        "agreement": 0.6,
        "buckets": [
            {"bucket": "checkins", "ranked": 3, "likely_wrong": 1},
            {"bucket": "training", "ranked": 2, "likely_wrong": 1},
        ],
        "pairs": [
            {"pose_id": 1, "suggested_pose_id": 2, "likely_wrong": 1},
            {"pose_id": 7, "suggested_pose_id": 1, "likely_wrong": 1},
        ],
        "limits": ["A limit."],
        "unreadable": [],
        "failed_sources": ["s3://gone: no such bucket"],
    }


def test_the_most_frequent_pair_of_poses_comes_first(predict):
    wrong = [(f"s3://checkins/{number}.jpg", 7, [0.1, 0.8, 0.1]) for number in range(3)]
    right = [
        (f"s3://checkins/right-{pose}.jpg", pose, chances)
        for pose, chances in (
            (1, [0.8, 0.1, 0.1]),
            (2, [0.1, 0.8, 0.1]),
            (7, [0.0, 0.1, 0.9]),
        )
    ]
    other = ("s3://checkins/other.jpg", 1, [0.1, 0.8, 0.1])
    assert find_suspects(predict(other, *wrong, *right)).pairs == [(7, 2, 3), (1, 2, 1)]


def test_a_model_of_one_pose_can_suggest_nothing(two_wrong):
    one = Predicted(
        two_wrong.photos.slice(0, 1),
        two_wrong.probabilities[:1, :1],
        two_wrong.folds[:1],
        ClassMapping.of_poses([1]),
        {},
    )
    with pytest.raises(DataError, match=r"^nothing to rank: the model knows only one pose"):
        find_suspects(one)
