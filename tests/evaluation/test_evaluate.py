"""A model scored on labelled photos, by the command."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from models import save_constant_model
from photosets import save_manifest

from physiq_ray.checkpoint import ModelState
from physiq_ray.cli import main
from physiq_ray.config import Settings
from physiq_ray.errors import SettingError
from physiq_ray.evaluation import Answers
from physiq_ray.evaluation import evaluate as evaluation
from physiq_ray.evaluation.candidates import Candidates, find_training_manifest
from physiq_ray.evaluation.card import ScoredPhotos, TrainingPhotos
from physiq_ray.evaluation.facts import facts_of_evaluation, facts_of_training
from physiq_ray.evaluation.scores import Evaluation
from physiq_ray.floor import floor_of_confidence
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import VALIDATION, Manifest
from physiq_ray.prediction.batch import AnsweredBatch
from physiq_ray.quarantine import Unreadable
from physiq_ray.training.record import stored_settings

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path, make_photo):
    """Lay six photos of pose 1, four of pose 2 and one of pose 5 into folders named so, one broken."""
    for pose_id, count in {1: 6, 2: 4, 5: 1}.items():
        folder = tmp_path / "photos" / str(pose_id)
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.jpeg").write_bytes(make_photo(10 * pose_id + number))
    (tmp_path / "photos" / "1" / "5.jpeg").write_bytes(b"no photo")
    poses = [{"id": number, "name": f"Pose {number}"} for number in (1, 2, 5)]
    (tmp_path / "poses.json").write_text(json.dumps(poses))
    (tmp_path / "labels.json").write_text("[]")
    return ("--sources", "photos", "--poses", "poses.json", "--labels", "labels.json")


@pytest.fixture
def model(tmp_path):
    """Save a model of poses 1 and 2 that predicts Pose 1 for every photo, with a chance of 3 : 1."""
    save_constant_model(tmp_path, [3.0, 1.0], str(tmp_path / "output"))


def test_all_photos_are_scored_and_what_was_left_out_is_named(ray_local, run_here, photos, model, tmp_path):
    done = run_here("evaluate", *photos, "--split", "all", "--behaviour", "--json")
    assert done.returncode == 1, done.stderr  # a photo is broken
    report = json.loads(done.stdout)
    assert (report["num_photos"], report["confusion"]) == (9, [[5, 0], [4, 0]])
    assert report["accuracy"] == pytest.approx(5 / 9)
    assert report["poses"][0]["recall"] == 1
    assert report["calibration"]["temperature"] == 2.0
    share = 3**0.5 / (3**0.5 + 1)  # of 3 : 1 at temperature 2
    assert report["calibration"]["error_before"] == pytest.approx(0.75 - 5 / 9, abs=1e-3)
    assert report["calibration"]["error_after"] == pytest.approx(share - 5 / 9, abs=1e-3)
    slices = {(item["dimension"], item["name"]): item for item in report["slices"]["all"]}
    assert slices["pose", "Pose 2"]["accuracy"] == 0
    assert {name for name, _ in slices} == {"pose", "size", "brightness"}
    assert report["behaviour"]["num_photos"] == 9
    assert [item["unchanged"] for item in report["behaviour"]["changes"]] == [1.0] * 6
    assert {mistake["truth"] for mistake in report["mistakes"]} == {"Pose 2"}
    assert "left out: 1 photos of pose 5, which the model does not know" in done.stderr
    assert "photos/1/5.jpeg: not an image of a supported format" in done.stderr
    files = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert files == {
        "report.json",
        "confusion.png",
        "scores.png",
        "reliability.png",
        "mistakes.png",
        "model_card.md",
    }
    assert [(item["uri"].split("/")[-2:], item["step"]) for item in report["unreadable"]] == [
        (["1", "5.jpeg"], "decode")
    ]
    assert report["unknown_poses"] == [{"id": 5, "photos": 1}]
    assert report["failed_sources"] == []
    card = (tmp_path / "evaluation" / "model_card.md").read_text()
    assert "The model was scored on the photos of `photos`, 9 in total:" in card
    assert "The model was trained on photos of `s3://checkins`. Their number is not known" in card
    assert "were not scored: 1 unreadable, 1 with poses that the model does not know" in card
    assert "The model was made with torch 2.14.7." in card
    assert "9 of the scored photos were also predicted with changes that keep the pose." in card


def make_manifest(tmp_path, make_photo, splits):
    """Write photos and the manifest of a run of them: (pose id or None, split) a photo."""
    saved = save_manifest(tmp_path / "old", [make_photo(number) for number in range(len(splits))], splits)
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    shutil.move(saved, folder)


@pytest.fixture
def run_photos(tmp_path, make_photo):
    """Lay down a run's manifest: three photos trained on, two validated with."""
    make_manifest(
        tmp_path, make_photo, [(1, "train"), (2, "train"), (1, "train"), (1, VALIDATION), (2, VALIDATION)]
    )


def test_a_model_is_scored_on_the_validation_photos_of_its_own_run(
    run_cli, model, run_photos, photos, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # As left over from the training: listed and split again, photos trained on would be scored.
    leftover = {"PHYSIQ_SOURCES": str(tmp_path / "photos"), "PHYSIQ_MANIFEST": "gone.parquet"}
    done = run_cli("evaluate", "--model", tmp_path / "output", "--json", env=leftover, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["confusion"] == [[1, 0], [1, 0]]
    assert [Path(mistake["uri"]).name for mistake in report["mistakes"]] == ["4.jpeg"]
    assert (report["unreadable"], report["unknown_poses"], report["failed_sources"]) == ([], [], [])
    card = (elsewhere / "evaluation" / "model_card.md").read_text()
    assert "The model was scored on the validation photos of the training, 2 in total:" in card
    assert (
        "photos of `s3://checkins`. The manifest of the run names 3 training photos and 2 validation photos."
    ) in card
    assert "| 1 | Pose 1 | 2 | 1 |" in card
    assert "chosen on the validation photos of the training, so the scores are too high." in card


def test_a_model_that_is_significantly_worse_on_a_pose_than_an_older_one_gives_status_3(
    ray_local, run_here, model, tmp_path, make_photo
):
    make_manifest(tmp_path, make_photo, [(1, VALIDATION)] * 12 + [(2, VALIDATION)] * 4 + [(1, "train")])
    save_constant_model(tmp_path, [1.0, 3.0], str(tmp_path / "new"))
    done = run_here("evaluate", "--model", "new", "--against", "output")
    assert done.returncode == 3, done.stderr
    table = [line.split() for line in done.stdout.splitlines() if line.startswith("  Pose ")][-2:]
    assert table == [
        ["Pose", "1", "100.0%", "0.0%", "-100.0", "0.001", "12"],
        ["Pose", "2", "0.0%", "100.0%", "+100.0", "0.154", "4"],
    ]
    assert "16 of the 16 photos chose the epoch of the new model" in done.stdout
    assert done.stdout.splitlines()[-1] == "The new model is significantly worse on Pose 1."


def test_photos_of_no_known_pose_score_the_floor_and_nothing_else(ray_local, run_here, tmp_path, make_photo):
    # Here and among all photos, two with a pose stand against one without, so that each counts the same.
    poses = [(1, VALIDATION)] * 3 + [(2, VALIDATION), (1, "train"), (2, "train")]
    make_manifest(tmp_path, make_photo, [*poses, *[(None, VALIDATION)] * 2, (None, "test")])
    # At temperature 2, each photo has the probability √3 / (√3 + 1) = 0.634 of Pose 1.
    save_constant_model(tmp_path, [3.0, 1.0], str(tmp_path / "output"), floor_of_confidence(0.63))
    save_constant_model(tmp_path, [3.0, 1.0], str(tmp_path / "strict"), floor_of_confidence(0.64))
    done = run_here("evaluate", "--against", "strict", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["num_photos"], report["confusion"]) == (4, [[3, 0], [1, 0]])
    scores = report["floor"]["scores"]
    assert (scores["num_photos"], scores["num_null"], scores["coverage"], scores["refused"]) == (4, 2, 1, 0)
    assert scores["precision"] == pytest.approx(3 / 6)
    assert (scores["auroc"], report["floor"]["choice"]) == (0.5, None)
    *_, nulls = report["comparison"]["poses"]
    assert (nulls["name"], nulls["photos"], nulls["new"], nulls["old"]) == ("no known pose", 2, 0, 1)
    card = (tmp_path / "evaluation" / "model_card.md").read_text()
    assert "on the scored photos: precision 50.0% " in card
    assert "0.0% (0.0% to 65.8%) of 2 others refused" in card


def test_models_of_one_image_size_read_each_photo_once(monkeypatch, tmp_path, make_photo):
    def state(poses, image_size):
        return ModelState({}, ClassMapping.of_poses(poses), {}, image_size=image_size)

    def predict_table(table, states, **_options):
        uris = table["uri"].to_pylist()
        read.append((stems(uris), [model.image_size for model in states]))
        gone = Unreadable(uris[-1], "fetch", "gone")
        # The first class is the answer of all models for all photos.
        outputs = (np.eye(1, len(model.class_mapping.pose_ids), dtype=np.float32) for model in states)
        answers = tuple(np.repeat(row, len(uris) - 1, axis=0) for row in outputs)
        yield AnsweredBatch(tuple(uris[:-1]), answers, (gone,), (0.5,) * (len(uris) - 1))

    def stems(uris):
        return [Path(uri).stem for uri in uris]

    read = []
    monkeypatch.setattr(evaluation, "predict_table", predict_table)
    monkeypatch.setattr(evaluation, "connect", lambda **_options: None)
    make_manifest(tmp_path, make_photo, [*((pose, VALIDATION) for pose in (1, 1, 2, 3, None)), (1, "train")])
    saved = (tmp_path / "runs" / "first" / "manifest.parquet").read_bytes()
    old, new, large = state([1, 2], 64), state([1, 2, 3], 64), state([1, 2], 128)
    found = evaluation.evaluate(Manifest.from_parquet(saved, name="saved"), [old, large, new])
    assert read == [(list("01243"), [64, 64]), (list("0124"), [128])]
    # The last photo of each reading is unreadable: 3, whose pose only the new model knows, and 4.
    assert [stems(each.answers.uris) for each in found] == [["0", "1", "2"]] * 3
    assert [each.answers.labels.tolist() for each in found] == [[0, 0, 1]] * 3
    assert [stems(item.uri for item in each.unreadable) for each in found] == [[], ["4"], ["3"]]
    assert [stems(each.brightness) for each in found] == [list("0124"), list("012"), list("0124")]
    assert [each.answers.logits.shape[1] for each in found] == [2, 2, 3]
    assert [dict(each.num_unknown) for each in found] == [{3: 1}, {3: 1}, {}]


@pytest.mark.long
def test_other_photos_win_over_the_environment_s_and_are_compared_with_the_run_s(
    run_cli, model, run_photos, photos, tmp_path
):
    leftover = {"PHYSIQ_MANIFEST": "gone.parquet", "PHYSIQ_SOURCES": "s3://gone"}
    done = run_cli("evaluate", *photos, "--split", "all", env=leftover)
    assert done.returncode == 1, done.stderr  # a photo is broken
    card = (tmp_path / "evaluation" / "model_card.md").read_text()
    assert "None of the photos of `photos` has the address of a photo of the training" in card
    assert "The manifest of the run names 3 training photos" in card
    assert "| 1 | Pose 1 | 2 | 1 |" in card


@pytest.mark.long
def test_a_flag_wins_over_the_config_s_other_photos(ray_local, run_here, model, run_photos, photos, tmp_path):
    (tmp_path / "train.toml").write_text('sources = ["s3://gone"]')
    done = run_here(
        *("evaluate", "--config", "train.toml", "--manifest", "runs/first/manifest.parquet"),
        *("--split", "train", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_photos"] == 3
    card = (tmp_path / "evaluation" / "model_card.md").read_text()
    assert (
        "scored on split 'train' of the photos of the manifest `runs/first/manifest.parquet`, 3 in total:"
    ) in card
    assert "All 3 scored photos were training photos" in card


@pytest.mark.long
def test_where_nothing_can_be_read_the_reasons_are_named(ray_local, run_here, model, photos, tmp_path):
    for path in (tmp_path / "photos").rglob("*.jpeg"):
        path.write_bytes(b"no photo " + str(path).encode())
    done = run_here("evaluate", *photos, "--split", "all")
    assert done.returncode == 1
    assert "nothing to evaluate: none of the 10 photos could be read: " in done.stderr
    assert "photos/1/0.jpeg: not an image of a supported format" in done.stderr
    assert "; and 7 more" in done.stderr


def test_what_ray_prints_meanwhile_and_while_it_ends_stays_off_the_json(
    model, run_photos, tmp_path, monkeypatch, capsys
):
    def evaluate(manifest, *_, **__):
        sys.stdout.write("(raylet) a warning of a node")
        return [Evaluation(Answers(("a.jpeg",), torch.tensor([0]), torch.tensor([[2.0, 1.0]])), (), {})]

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(ray, "shutdown", lambda: sys.stdout.write("the last words"))
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_photos"] == 1


def test_a_run_of_the_same_name_with_other_poses_is_not_the_model_s(tmp_path, make_photo):
    make_manifest(tmp_path, make_photo, [(1, "train"), (2, VALIDATION)])
    settings = {"run_name": "first", "storage": str(tmp_path / "runs")}
    other = ModelState({}, ClassMapping.of_poses([1, 2, 5]), {}, settings=settings)
    with pytest.raises(
        SettingError, match=r"has poses 1, 2, but the model has 1, 2, 5: it is of another run"
    ):
        find_training_manifest(other)


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("", VALIDATION, "the validation photos of the training"),
        ("", "train", "the training photos"),
        ("", "all", "all photos of the training"),
        ("`s3://new`", "all", "the photos of `s3://new`"),
        ("`s3://new`", VALIDATION, "split 'validation' of the photos of `s3://new`"),
    ],
)
def test_photos_are_called_what_they_are(name, split, words):
    assert Candidates(None, name, None).words(split) == words


def test_a_model_whose_run_is_gone_asks_for_sources(run_here, model):
    done = run_here("evaluate")
    assert done.returncode == 2
    assert "runs/first/manifest.parquet" in done.stderr
    assert "give --sources or --manifest" in done.stderr


def test_a_trained_model_s_file_names_its_run_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored = stored_settings(Settings(sources=("photos", "s3://checkins"), storage="runs"), "first")
    assert stored["run_name"] == "first"
    assert stored["storage"] == str(tmp_path / "runs")
    assert stored["sources"] == [str(tmp_path / "photos"), "s3://checkins"]
    assert stored["manifest"] is None


@pytest.fixture
def five_photos(tmp_path, make_photo, run_photos):
    data = (tmp_path / "runs" / "first" / "manifest.parquet").read_bytes()
    return Manifest.from_parquet(data, name="manifest"), [
        str(tmp_path / "old" / f"{n}.jpeg") for n in range(5)
    ]


def test_a_training_s_card_counts_what_it_could_read(five_photos):
    manifest, uris = five_photos
    state = ModelState({}, manifest.class_mapping, {}, versions={"torch": "2.14.7"})
    answers = Answers((uris[3],), torch.tensor([0]), torch.zeros(1, 2))
    unreadable = (Unreadable(uris[4], "decode", "cut off"), Unreadable(uris[0], "fetch", "gone"))
    facts = facts_of_training(
        state, manifest, answers, run_name="first", num_skipped=7, unreadable=unreadable
    )
    assert facts.trained == TrainingPhotos({1: (1, 1), 2: (1, 0)}, num_skipped=7, num_quarantined=2)
    assert facts.scored == ScoredPhotos("the validation photos", 0, 1)
    assert facts.versions == {"torch": "2.14.7"}


def test_an_evaluation_s_card_counts_what_the_training_had_of_the_photos_scored(five_photos):
    manifest, uris = five_photos
    state = ModelState({}, manifest.class_mapping, {})
    answers = Answers((*uris[1:], "/new.jpeg"), torch.zeros(5, dtype=torch.int64), torch.zeros(5, 2))
    found = Evaluation(answers, (Unreadable(uris[0], "fetch", "gone"),), {5: 3, 6: 1})
    for training, counts in ((manifest, (2, 2)), (None, (None, None))):
        candidates = Candidates(manifest, "`s3://new`", training)
        facts = facts_of_evaluation(state, candidates, found, split="all", model="output")
        assert facts.scored == ScoredPhotos(
            "the photos of `s3://new`", *counts, num_unreadable=1, num_unknown=4
        )
        assert (facts.trained is None) == (training is None)
        assert facts.run_name == "output"
