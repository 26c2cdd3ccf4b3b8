import dataclasses

import pytest
import torch
from reports import FACTS, MAPPING, NAMES

from physiq_ray.evaluation import Answers, score
from physiq_ray.evaluation.card import ScoredPhotos, TrainingPhotos, write_card
from physiq_ray.evaluation.intervals import wilson_interval


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
def test_the_card_says_what_the_scores_mean_for_new_photos(answers, scored, sentence):
    card = card_of(answers, scored=scored)
    assert f"- {sentence}\n" in card
    assert f"The model was scored on {scored.words}, 63 in total:" in card
    assert card.count("too high") + card.count("valid for similar") + card.count("nothing about new") == (
        sentence.count("too high") + sentence.count("valid for similar") + sentence.count("nothing about new")
    )


def test_a_card_of_an_unknown_training_gives_no_numbers_of_its_photos(answers):
    card = card_of(answers, trained=None, scored=ScoredPhotos(NEW, num_unreadable=2, num_unknown=1))
    assert (
        "The model was trained on photos of `s3://checkins`. Their number is not known, because the manifest "
        "of the run was not found. Some of the photos of `s3://new` were not scored: 2 unreadable, 1 with "
        "poses that the model does not know.\n"
    ) in card
    assert "| id | pose | precision | recall | F1 | 95 % interval of F1 | photos scored |\n" in card
    assert "skipped" not in card
    assert "training photos and" not in card


def test_a_card_from_the_manifest_of_the_run_does_not_mention_skipped_or_unreadable_photos(answers):
    card = card_of(answers, trained=TrainingPhotos({1: (40, 30), 2: (38, 30), 7: (11, 3)}))
    assert (
        "The model was trained on photos of `s3://checkins`. The manifest of the run names 89 training "
        "photos and 63 validation photos.\n"
    ) in card
    assert "skipped" not in card
    assert "nreadable" not in card


def test_a_card_of_a_model_file_without_facts_says_that_they_are_missing(answers):
    unknown = {"settings": {}, "versions": {}, "best_epoch": 0, "num_epochs": 0, "trained": None}
    card = card_of(answers, **unknown, scored=ScoredPhotos(NEW))
    assert "in photos of 224 × 224 pixels.\n" in card
    assert "The model was trained on photos that its file does not name. Their number is not known" in card
    assert "The model file contains no settings.\n" in card
    assert "The model file does not name the versions of the software that made it.\n" in card
    assert "same athlete" not in card


def test_a_card_of_a_training_on_a_manifest_does_not_judge_the_split_of_the_manifest(answers):
    card = card_of(answers, settings={**FACTS.settings, "sources": [], "manifest": "s3://m/old.parquet"})
    assert "trained on photos of the manifest `s3://m/old.parquet`: 89 training photos" in card
    assert "same athlete" not in card


@pytest.mark.parametrize(("count", "is_few"), [(19, True), (20, False)])
def test_only_poses_with_fewer_than_twenty_scored_photos_are_called_uncertain(count, is_few):
    labels = torch.tensor([0] * 30 + [1] * 30 + [2] * count)
    scored = Answers(
        tuple(map(str, range(len(labels)))), labels, 9.0 * torch.nn.functional.one_hot(labels).float()
    )
    card = card_of(scored)
    assert (f"Few photos were scored for Back Lat Spread ({count})" in card) is is_few
    assert ("very uncertain" in card) is is_few


def test_a_card_names_the_groups_that_widen_the_intervals(answers):
    in_groups = dataclasses.replace(answers, groups=tuple(f"athlete-{row % 9}" for row in range(63)))
    assert "63 in total from 9 groups of photos that belong together, which widen the intervals:" in card_of(
        in_groups
    )


def test_a_card_of_a_training_with_groups_does_not_warn_of_shared_athletes(answers):
    assert "same athlete" not in card_of(answers, settings={**FACTS.settings, "group_pattern": "(.*)/"})


def test_a_pose_without_training_photos_has_zeros_in_the_table(answers):
    card = card_of(answers, trained=TrainingPhotos({1: (40, 30), 2: (38, 30)}))
    assert "| 7 | Back Lat Spread | 0 | 0 |" in card


def test_the_results_are_the_report_s_with_the_interval_of_the_accuracy(answers):
    report = score(answers, MAPPING, NAMES, temperature=1.3)
    row = (
        f"| {report.accuracy:.1%} | {report.accuracy_interval} | {report.top2_accuracy:.1%} "
        f"| {report.precision:.1%} | {report.recall:.1%} | {report.f1:.1%} | {report.f1_interval} |\n"
    )
    assert report.accuracy_interval == pytest.approx(wilson_interval(round(report.accuracy * 63), 63))
    assert row in write_card(report, FACTS)


def test_all_versions_are_named(answers):
    card = card_of(answers, versions={"python": "3.12.1", "torch": "2.15.0"})
    assert "The model was made with python 3.12.1, torch 2.15.0.\n" in card
