import dataclasses

import numpy as np
import pytest
import torch

from physiq_ray.evaluation import Answers, Facts, score
from physiq_ray.evaluation.card import ScoredPhotos, TrainingPhotos, wilson_interval, write_card
from physiq_ray.labels import ClassMapping

MAPPING = ClassMapping.of_poses([1, 2, 7])
NAMES = {1: "Front Lat Spread", 2: "Front Double Biceps", 7: "Back Lat Spread"}
HISTORY = [
    {
        "epoch": number,
        "train_loss": 2 / number,
        "validation_loss": 2.5 / number,
        "train_accuracy": 1 - 0.5 / number,
        "validation_accuracy": 0.9 - 0.5 / number,
    }
    for number in range(1, 6)
]
FACTS = Facts(
    run_name="first",
    image_size=224,
    settings={
        **{"sources": ["s3://checkins"], "manifest": None, "image_size": 224, "learning_rate": 1e-4},
        **{"storage": "runs", "train_sizes": [128, 224], "group_pattern": None},
    },
    versions={"torch": "2.15.0"},
    best_epoch=4,
    num_epochs=5,
    trained=TrainingPhotos({1: (40, 30), 2: (38, 30), 7: (11, 3)}, num_skipped=4, num_quarantined=1),
    scored=ScoredPhotos(num_trained_on=0, num_validated_with=63),
)


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    labels = torch.tensor([0] * 30 + [1] * 30 + [2] * 3)
    logits = torch.from_numpy(rng.normal(0, 1, (63, 3)).astype(np.float32))
    logits[torch.arange(63), labels] += 1.5
    return Answers(tuple(f"s3://b/{n}.jpg" for n in range(63)), labels, logits)


def card_of(answers, **changed):
    report = score(answers, MAPPING, NAMES, temperature=1.3)
    return write_card(report, dataclasses.replace(FACTS, **changed))


NEW = "the photos of `s3://new`"


@pytest.mark.parametrize(
    ("scored", "sentence"),
    [
        (
            ScoredPhotos("the training photos", 63, 0),
            "All 63 scored photos were training photos: the scores show how well the model learned them, and "
            "say nothing about new photos.",
        ),
        (
            ScoredPhotos("all photos of the training", 50, 13),
            "50 of the 63 scored photos were training photos and 13 were validation photos, so the scores "
            "are too high.",
        ),
        (
            ScoredPhotos(NEW, 0, 7),
            "The epoch and the temperature were chosen on 7 of the 63 scored photos, so the scores are too "
            "high.",
        ),
        (
            ScoredPhotos(NEW, 0, 0),
            "None of the photos of `s3://new` has the address of a photo of the training, so the scores are "
            "valid for similar photos.",
        ),
        (
            ScoredPhotos(NEW),
            "It is not known whether the model was trained on any of the photos of `s3://new`. If it was, "
            "the scores are too high; if not, they are valid for similar photos.",
        ),
    ],
)
def test_the_card_promises_of_new_photos_what_the_photos_scored_allow(answers, scored, sentence):
    card = card_of(answers, scored=scored)
    assert f"- {sentence}\n" in card
    assert f"The model was scored on {scored.words}, 63 in total:" in card
    assert card.count("too high") + card.count("valid for similar") + card.count("nothing about new") == (
        sentence.count("too high") + sentence.count("valid for similar") + sentence.count("nothing about new")
    )


def test_a_card_of_an_unknown_training_counts_none_of_its_photos(answers):
    card = card_of(answers, trained=None, scored=ScoredPhotos(NEW, num_unreadable=2, num_unknown=1))
    assert (
        "The model was trained on photos of `s3://checkins`. Their number is not known, because the manifest "
        "of the run was not found. Some of the photos of `s3://new` were not scored: 2 unreadable, 1 with "
        "poses that the model does not know.\n"
    ) in card
    assert "| id | pose | precision | recall | F1 | photos scored |\n" in card
    assert "skipped" not in card
    assert "training photos and" not in card


def test_a_card_by_the_run_s_manifest_says_nothing_of_what_that_does_not_hold(answers):
    card = card_of(answers, trained=TrainingPhotos({1: (40, 30), 2: (38, 30), 7: (11, 3)}))
    assert (
        "The model was trained on photos of `s3://checkins`. The manifest of the run names 89 training "
        "photos and 63 validation photos.\n"
    ) in card
    assert "skipped" not in card
    assert "nreadable" not in card


def test_a_card_of_a_file_that_tells_nothing_makes_nothing_up(answers):
    unknown = {"settings": {}, "versions": {}, "best_epoch": 0, "num_epochs": 0, "trained": None}
    card = card_of(answers, **unknown, scored=ScoredPhotos(NEW))
    assert "in photos of 224 × 224 pixels.\n" in card
    assert "The model was trained on photos that its file does not name. Their number is not known" in card
    assert "The model file contains no settings.\n" in card
    assert "The model file does not name the versions of the software that made it.\n" in card
    assert "same athlete" not in card


def test_a_card_of_a_training_on_a_manifest_does_not_judge_that_manifest_s_split(answers):
    card = card_of(answers, settings={**FACTS.settings, "sources": [], "manifest": "s3://m/old.parquet"})
    assert "trained on photos of the manifest `s3://m/old.parquet`: 89 training photos" in card
    assert "same athlete" not in card


def test_the_interval_of_a_share_is_wilson_s():
    # Brown, Cai and DasGupta 2001 and any table: 8 of 10.
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 5)[0] == 0
    assert wilson_interval(5, 5)[1] == 1
