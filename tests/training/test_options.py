"""Settings of the training itself, in real runs.

Where the number of workers does not matter, the run is in this process: Ray Train needs twenty seconds to
start, and `test_run` shows that both give the same.
"""

import json

import numpy as np
import pytest
import torch

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.errors import TrainingError
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_all_that_practitioners_add_works_together_on_two_workers(run, pose_folders):
    photos = pose_folders({1: 24, 2: 12})  # 29 to train on in steps of 2 × 2 × 4, 7 to validate with
    result, _ = run(
        sources=[str(photos)],
        num_workers=2,
        epochs=4,
        head_epochs=1,
        backbone_rate=0.5,
        schedule="cosine",
        label_smoothing=0.1,
        class_weights="balanced",
        augment="strong",
        mixup=0.4,
        train_sizes=[64, 96],
        image_size=96,
        gradient_accumulation=2,
        max_gradient_norm=1.0,
        ema_decay=0.9,
        patience=1,
    )
    assert [epoch["train_size"] for epoch in result.history] == [64, 64, 96, 96][: len(result.history)]
    assert len(result.history) >= 3  # at 64 pixels no epoch takes of the patience
    assert {(e["train_photos"], e["validation_photos"]) for e in result.history} == {(29, 7)}
    assert all(np.isfinite(e["train_loss"]) and np.isfinite(e["validation_loss"]) for e in result.history)


@pytest.mark.long
def test_one_worker_and_two_with_the_same_global_batch_have_the_same_losses(run, pose_folders):
    photos = pose_folders({1: 20, 2: 20})
    common = {"sources": [str(photos)], "augment": "none", "epochs": 2, "learning_rate": 1e-4}
    one, _ = run(**common, batch_size=8, num_workers=1)
    two, _ = run(**common, batch_size=4, num_workers=2, batch_norm="sync")
    for left, right in zip(one.history, two.history, strict=True):
        assert left["train_photos"] == right["train_photos"] == 32
        assert left["train_loss"] == pytest.approx(right["train_loss"], abs=1e-3)
        assert left["validation_loss"] == pytest.approx(right["validation_loss"], abs=1e-3)


@pytest.mark.timeout(600)  # three trainings: 300 s do not suffice next to other tests on a slow machine
@pytest.mark.long
def test_three_interrupted_epochs_and_three_resumed_give_the_weights_of_six(
    run, pose_folders, training_workers, rows, tmp_path
):
    photos = pose_folders({1: 10, 2: 10})
    common = {"schedule": "cosine", "ema_decay": 0.9, "mixup": 0.2, "patience": 9, "epochs": 6}
    whole, whole_shown = run(
        **common, sources=[str(photos)], run_name="whole", output=str(tmp_path / "whole")
    )
    killed = []

    def kill_after_three(shown):
        if "  3/6 " in shown and not killed:
            killed.extend(training_workers())
            for worker in killed:
                worker.kill()

    with pytest.raises(TrainingError, match="--resume --run-name halves"):
        run(**common, sources=[str(photos)], run_name="halves", max_failures=0, on_text=kill_after_three)
    second, second_shown = run(**common, run_name="halves", resume=True, output=str(tmp_path / "halves"))

    assert len(killed) == 1
    assert "resumed after epoch 3" in second_shown or "resumed after epoch 4" in second_shown
    assert rows(second_shown) == rows(whole_shown)
    # The last epoch's state, not the best one's, which may be from before the interruption.
    left, right = (
        torch.load(tmp_path / "runs" / name / "epoch-0006" / "state.pt", weights_only=True)
        for name in ("whole", "halves")
    )
    for part in ("model", "averaged"):
        for key, value in left[part].items():
            assert torch.equal(value, right[part][key]), key
    for number, moments in left["optimizer"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(value, right["optimizer"]["state"][number][key]), (number, key)
    assert [e["train_loss"] for e in whole.history] == [e["train_loss"] for e in second.history]


def test_a_loss_that_is_no_number_ends_the_run_with_the_batch_and_its_photos(run, pose_folders, tmp_path):
    weights = build_model(1000).state_dict()
    weights["layer3.0.conv1.weight"][0, 0] = float("nan")
    torch.save(weights, tmp_path / "broken.pth")
    photos = pose_folders({1: 10, 2: 10})
    with pytest.raises(TrainingError) as caught:
        run(sources=[str(photos)], weights=str(tmp_path / "broken.pth"), run_name="broken", num_workers=0)
    message = str(caught.value)
    assert message.startswith("the loss of epoch 1, batch 1 of 4 is not finite, with ")
    assert message.count(str(photos)) == 4
    assert "lower learning_rate=0.001 or set max_gradient_norm" in message
    assert "physiq-ray train --resume --run-name broken" in message
    assert json.loads((tmp_path / "runs" / "broken" / "run.json").read_text())["settings"]["batch_size"] == 4


def test_a_retrained_model_keeps_the_rows_of_the_poses_it_knows_and_names_the_new_ones(
    run, pose_folders, tmp_path
):
    names = {5: "Pose 5", 2: "Pose 2", 16: "Pose 16"}
    old = ModelState(build_model(3).state_dict(), ClassMapping.of_poses(names), names)
    save_model_files(old, str(tmp_path / "old"))
    photos = pose_folders({1: 6, 2: 6, 5: 6})

    _, shown = run(
        sources=[str(photos)],
        weights=str(tmp_path / "old" / "pose_classifier_complete.pth"),
        num_workers=0,
        epochs=2,
        head_epochs=1,
        learning_rate=1e-9,  # what is trained is what it started with
    )

    assert "last layer: 2 of 3 rows kept; new poses: Pose 1 (1)" in shown
    new = torch.load(tmp_path / "model" / "pose_classifier.pth", weights_only=True)
    for new_row, old_row in ((1, 1), (2, 2)):  # classes 1, 2, 5 and 16, 2, 5
        for part in ("fc.weight", "fc.bias"):
            torch.testing.assert_close(new[part][new_row], old.state_dict[part][old_row], rtol=0, atol=1e-6)
    assert (new["fc.weight"][0] - old.state_dict["fc.weight"][0]).abs().mean() > 1e-3
    name = "layer3.2.conv2.weight"
    torch.testing.assert_close(new[name], old.state_dict[name], rtol=0, atol=1e-6)
