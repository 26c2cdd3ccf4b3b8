"""The end of a run on what training left, without Ray Train and without a real network."""

import json

import pytest
import torch
from checkpoints import result_of, save_checkpoint

from physiq_ray.checkpoint import load_model_state
from physiq_ray.config import Settings
from physiq_ray.evaluation.scores import Answers, Evaluation
from physiq_ray.floor import Choice, Floor
from physiq_ray.manifest import collect_manifest
from physiq_ray.quarantine import Unreadable
from physiq_ray.training.finish import finish
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.record import RunRecord
from physiq_ray.training.text import describe_result, result_as_dict

pytestmark = pytest.mark.slow

POSES = {1: "One", 5: "Five"}


@pytest.fixture
def finish_run(pose_folders, tmp_path, make_weights):
    """Give a function that finishes a run with these validation logits and test logits, one row a photo."""
    photos = pose_folders({1: 20, 5: 20})
    poses = [{"id": pose_id, "name": name} for pose_id, name in POSES.items()]
    (tmp_path / "poses.json").write_text(json.dumps(poses))
    (tmp_path / "labels.json").write_text("[]")
    settings = Settings(
        sources=(str(photos),),
        poses=str(tmp_path / "poses.json"),
        labels=str(tmp_path / "labels.json"),
        storage=str(tmp_path / "runs"),
        test_share=0.2,
    )
    record = RunRecord.of_manifest(collect_manifest(settings, POSES), POSES)

    def labels_of(split):
        return torch.from_numpy(record.manifest.split(split)["class_index"].to_numpy().astype("int64"))

    def run(validation, test, unreadable=(), find_floor=lambda *_: None):
        model = {name: value.clone() for name, value in make_weights(2).items()}
        answers = {"rows": torch.arange(8), "labels": labels_of("validation"), "logits": validation}
        result = result_of(save_checkpoint(tmp_path / "epoch", 1, model, answers))
        uris = record.manifest.split("test")["uri"].to_pylist()
        kept = len(uris) - len(unreadable)
        gone = tuple(Unreadable(uris[row], "fetch", "gone") for row in unreadable)
        tested = Evaluation(Answers(tuple(uris[:kept]), labels_of("test")[:kept], test[:kept]), gone, {})
        output = str(tmp_path / "output")
        return finish(
            settings,
            record,
            RunFolder(settings.storage, "first"),
            result,
            output,
            find_floor=find_floor,
            score_test=lambda _: tested,
        )

    return run


def logits(seed):
    return torch.randn(8, 2, generator=torch.Generator().manual_seed(seed))


# Of four photos of One and four of Five: right answers with little confidence, and five wrong ones with much:
# then each half of the photos has a wrong one.
TOO_CAREFUL = torch.tensor([[0.5, 0.0]] * 4 + [[0.0, 0.5]] * 4)
TOO_BOLD = torch.tensor([[9.0, 0.0]] + [[0.0, 9.0]] * 3 + [[9.0, 0.0]] * 2 + [[0.0, 9.0]] * 2)


def test_the_scores_are_those_of_the_test_photos_if_there_are_any(finish_run, tmp_path):
    perfect = torch.tensor([[4.0, 0.0]] * 4 + [[0.0, 4.0]] * 4)
    result = finish_run(logits(0), perfect)
    assert (result.scored_split, result.report.num_photos, result.report.accuracy) == ("test", 8, 1.0)
    assert result.num_used == {"train": 24, "validation": 8, "test": 8}
    report = json.loads((tmp_path / "output" / "report.json").read_text())
    assert (report["scored_on"], report["accuracy"]) == ("the test photos", 1.0)
    card = (tmp_path / "output" / "model_card.md").read_text()
    assert "The model was scored on the test photos, 8 in total:" in card
    assert "None of the test photos has the address of a photo of the training, so the scores" in card
    lines = describe_result(result)
    assert lines[1] == "Scores on the test photos, which chose nothing:"
    assert "Photos: 24 train + 8 validation + 8 test used" in "\n".join(lines)
    assert result_as_dict(result)["scored_split"] == "test"
    assert report["slices"] == json.loads(json.dumps(result_as_dict(result)["slices"]))
    poses = [item for item in report["slices"]["all"] if item["dimension"] == "pose"]
    assert [(item["num_photos"], item["accuracy"]) for item in poses] == [(4, 1.0), (4, 1.0)]
    assert "Slices: 0 tested; none is significantly below the other photos" in lines


def test_the_temperature_does_not_depend_on_the_test_photos_nor_the_accuracy_on_the_validation_photos(
    finish_run, tmp_path
):
    def temperature():
        return load_model_state(str(tmp_path / "output")).temperature

    first = finish_run(TOO_BOLD, logits(1))
    first_temperature = temperature()
    finish_run(TOO_BOLD, logits(2))
    assert temperature() == first_temperature
    other = finish_run(TOO_CAREFUL, logits(1))
    assert temperature() < 1 < first_temperature
    assert other.report.accuracy == first.report.accuracy
    assert other.report.confusion.tolist() == first.report.confusion.tolist()


def test_unreadable_test_photos_are_quarantined_and_named_on_the_card(finish_run, tmp_path):
    result = finish_run(logits(0), logits(1), unreadable=(6, 7))
    assert result.num_used["test"] == 6
    lines = (tmp_path / "output" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["error"] for line in lines] == ["gone", "gone"]
    card = (tmp_path / "output" / "model_card.md").read_text()
    assert "Some of the test photos were not scored: 2 unreadable." in card


@pytest.mark.long
def test_the_photos_that_choose_the_floor_do_not_choose_the_temperature(finish_run, tmp_path):
    """Make each validation photo a sure mistake in turn: it changes the temperature, or is for the floor."""
    chosen = []

    def keep(model, uris):
        chosen.append((model.temperature, set(uris)))

    right = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 4)
    # Five mistakes, so that each half has one: the floor is looked for only if there are some.
    right[[0, 1, 2, 4, 5]] = 0.5 * right[[0, 1, 2, 4, 5]].flip(1)
    for_floor = set()
    for row in range(8):
        changed = right.clone()
        changed[row] = changed[row].flip(0) * 5
        finish_run(right, logits(1), find_floor=keep)
        finish_run(changed, logits(1), find_floor=keep)
        (before, uris), (after, same_uris) = chosen[-2:]
        assert uris == same_uris
        if before == after:
            for_floor.add(row)
    rows = sorted(uris)
    assert len(rows) == len(for_floor) == 4
    result = finish_run(right, logits(1), find_floor=keep)
    assert set(rows) == {result.validation_uris[row] for row in for_floor}


def test_the_floor_is_in_the_model_file_the_report_and_the_card(finish_run, tmp_path):
    choice = Choice(0.95, 0.96, 0.75, None, 8, 0, {"energy": 0.9, "probability": 0.8}, ((0.5, 0.96, 0.75),))
    result = finish_run(TOO_BOLD, logits(1), find_floor=lambda *_: Floor("energy", 0.5, None, choice))
    assert load_model_state(str(tmp_path / "output")).floor.choice == choice
    report = json.loads((tmp_path / "output" / "report.json").read_text())
    assert (report["floor"]["score"], report["floor"]["choice"]["coverage"]) == ("energy", 0.75)
    lines = describe_result(result)
    assert "No known pose below energy 0.5 (AUROC: energy 0.900, probability 0.800)" in lines
    card = (tmp_path / "output" / "model_card.md").read_text()
    assert "the model never saw a photo labelled as no known pose" in card
    assert (tmp_path / "output" / "coverage.png").exists()


def test_without_mistakes_and_without_photos_of_no_pose_no_floor_is_looked_for(finish_run, tmp_path):
    perfect = torch.tensor([[4.0, 0.0]] * 4 + [[0.0, 4.0]] * 4)
    finish_run(perfect, logits(1), find_floor=lambda *_: pytest.fail("it was looked for"))
    assert load_model_state(str(tmp_path / "output")).floor is None
