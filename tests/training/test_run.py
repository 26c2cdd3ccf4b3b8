import json
import sys

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from physiq_ray.checkpoint import load_model_state
from physiq_ray.errors import DataError, SettingError, TrainingError
from physiq_ray.images import decode_square
from physiq_ray.model import normalise
from physiq_ray.storage import read_bytes

pytestmark = pytest.mark.slow


def test_a_run_writes_the_best_epoch_s_model_and_says_what_it_used(run, pose_folders, tmp_path, monkeypatch):
    # Epochs after the best one go on changing the weights: only the best one's give its accuracy again.
    photos = pose_folders({1: 20, 2: 20})
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = f"file:{tmp_path}/mlruns"
    result, shown = run(
        sources=[str(photos)], epochs=4, learning_rate=1e-2, augment="none", mlflow=address, test_share=0.2
    )
    assert [epoch["epoch"] for epoch in result.history] == [1, 2, 3, 4]
    assert {(epoch["train_photos"], epoch["validation_photos"]) for epoch in result.history} == {(24, 8)}
    assert result.num_used == {"train": 24, "validation": 8, "test": 8}
    assert (result.scored_split, result.report.num_photos) == ("test", 8)
    assert result.best_accuracy == max(epoch["validation_accuracy"] for epoch in result.history)
    assert "Epoch  Train Loss  Train Acc  Val Loss   Val Acc      Time  Status" in shown
    assert shown.count("✓ Best Model") >= 1
    assert "(RayTrainWorker" not in shown
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("physiq-ray")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics["accuracy/train"] == result.history[-1]["train_accuracy"]
    for name in ("pose_classifier.pth", "pose_classifier_complete.pth"):
        torch.load(tmp_path / "model" / name, weights_only=True)
    assert json.loads((tmp_path / "model" / "class_mapping.json").read_text())["classes"] == ["1", "2"]

    state = load_model_state(str(tmp_path / "model"))
    assert state.pose_names == {1: "Pose 1", 2: "Pose 2"}
    assert state.best_epoch == result.best_epoch
    assert state.reference is not None
    assert [histogram.num_photos for histogram in state.reference.values().values()] == [8] * 4
    model = state.build()
    correct = 0
    for uri in result.validation_uris:
        image = torch.from_numpy(decode_square(read_bytes(uri), size_px=64))
        with torch.inference_mode():
            index = int(model(normalise(image[None])).argmax())
        correct += ["1", "2"][index] == uri.split("/")[-2]
    assert correct / len(result.validation_uris) == pytest.approx(result.best_accuracy)


@pytest.mark.long
def test_three_workers_stop_together_though_one_has_no_photo_on_either_side(run, pose_folders):
    photos = pose_folders({1: 2, 2: 2})  # two to train on, two to validate with
    result, _ = run(sources=[str(photos)], num_workers=3, epochs=9, patience=1, learning_rate=1e-9)
    assert {(e["train_photos"], e["validation_photos"]) for e in result.history} == {(2, 2)}
    assert all(np.isfinite(e["train_loss"]) and np.isfinite(e["validation_loss"]) for e in result.history)
    assert result.history[-1]["status"] == "Early Stop"
    assert len(result.history) < 9


@pytest.mark.long
def test_three_percent_unreadable_are_quarantined_once_and_all_others_count_on_three_workers(
    run, pose_folders, tmp_path
):
    photos = pose_folders({1: 19, 2: 15})  # 27 to train on, one of them bad, 7 to validate with
    (photos / "1" / "1-3.jpeg").write_bytes(b"not a photo")
    result, _ = run(sources=[str(photos)], num_workers=3, cache="none", batch_size=1)
    assert [item.uri for item in result.unreadable] == [str(photos / "1" / "1-3.jpeg")]
    assert sum(result.num_used.values()) == 33
    lines = (tmp_path / "model" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == ["decode"]
    seen = result.history[1]["train_photos"] + result.history[1]["validation_photos"]
    assert seen == 33


@pytest.mark.parametrize("cache", ["memory", "disk", pytest.param("none", marks=pytest.mark.long)])
def test_six_percent_unreadable_end_the_run_with_the_list(run, pose_folders, tmp_path, cache):
    photos = pose_folders({1: 28, 2: 22})
    for number in (1, 2, 4):
        (photos / "2" / f"2-{number}.jpeg").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 50 photos cannot be read"):
        run(sources=[str(photos)], cache=cache, cache_dir=str(tmp_path / "cache"))
    assert len((tmp_path / "model" / "quarantine.jsonl").read_text().splitlines()) == 3


@pytest.mark.long
def test_two_workers_learn_the_same_from_every_kind_of_cache_and_the_next_run_decodes_nothing(
    run, pose_folders, tmp_path
):
    photos, folder = pose_folders({1: 20, 2: 20}), tmp_path / "cache"
    kept = {"sources": [str(photos)], "cache_dir": str(folder)}
    histories = {}
    for cache in ("memory", "none", "disk"):
        result, _ = run(**kept, cache=cache, num_workers=2, run_name=cache)
        histories[cache] = [
            {name: value for name, value in epoch.items() if "loss" in name or "accuracy" in name}
            for epoch in result.history
        ]
    assert histories["none"] == histories["memory"]
    assert histories["disk"] == histories["memory"]
    shards = {path: path.stat().st_ino for path in folder.rglob("*.arrow")}
    assert shards
    run(**kept, cache="disk", run_name="again")
    assert {path: path.stat().st_ino for path in folder.rglob("*.arrow")} == shards


@pytest.mark.long
def test_a_finished_run_goes_on_until_its_patience_ends_and_its_name_is_taken(run, pose_folders):
    photos = pose_folders({1: 10, 2: 10})
    first, _ = run(sources=[str(photos)], run_name="again", epochs=1)
    with pytest.raises(TrainingError, match=r"run 'again' exists.*--resume"):
        run(sources=[str(photos)], run_name="again", epochs=1)
    second, shown = run(run_name="again", epochs=9, patience=2, learning_rate=1e-9, resume=True)
    assert second.history[0] == first.history[0]
    assert [epoch["epoch"] for epoch in second.history] == list(range(1, len(second.history) + 1))
    assert [epoch["status"] for epoch in second.history][-2:] == ["Wait 1/2", "Early Stop"]
    assert len(second.history) < 9
    assert "resumed after epoch 1" in shown
    assert "Early Stop" in shown
    with pytest.raises(SettingError, match="image_size=96: the run was started with image_size=64"):
        run(run_name="again", image_size=96, resume=True)


def test_a_run_in_this_process_equals_that_of_one_worker_and_errors_reach_the_caller(
    run, pose_folders, tmp_path, monkeypatch
):
    same = {"sources": [str(pose_folders({1: 10, 2: 10}))], "learning_rate": 1e-2}
    worker, _ = run(**same, run_name="worker", output=str(tmp_path / "of worker"))
    here, shown = run(**same, run_name="here", num_workers=0, output=str(tmp_path / "here"))

    def without_time(history):
        times = ("seconds", "train_seconds", "time")
        return [{name: value for name, value in epoch.items() if name not in times} for epoch in history]

    assert without_time(here.history) == without_time(worker.history)
    states = [load_model_state(str(tmp_path / name)) for name in ("here", "of worker")]
    assert states[0].best_epoch == states[1].best_epoch
    for name, value in states[0].state_dict.items():
        assert torch.equal(value, states[1].state_dict[name]), name
    assert "run here: in this process on CPU" in shown
    assert " 2/2 " in shown

    with pytest.raises(SettingError, match="num_workers=0: a training in this process keeps no checkpoint"):
        run(run_name="here", num_workers=0, resume=True)

    def stop(*_args, **_more):
        raise ZeroDivisionError("as a bug would")

    monkeypatch.setattr("physiq_ray.training.loop.make_change", stop)
    with pytest.raises(ZeroDivisionError, match="as a bug would"):
        run(**same, run_name="stopped", num_workers=0)


@pytest.mark.long
def test_near_duplicates_stay_on_one_side_and_a_resumed_run_does_not_read_them_again(
    run, make_photo, tmp_path, monkeypatch
):
    photos = tmp_path / "photos"
    for pose_id in (1, 2):
        (photos / str(pose_id)).mkdir(parents=True)
        for number in range(10):
            for name, quality in (("", 90), ("copy of ", 60)):
                data = make_photo(seed=100 * pose_id + number, quality=quality)
                (photos / str(pose_id) / f"{name}{pose_id}-{number}.jpeg").write_bytes(data)
    grouped = {"run_name": "near", "group_near_duplicates": "yes"}
    result, shown = run(sources=[str(photos)], epochs=1, **grouped)
    assert "40 photos are near-duplicates, joined into 20 groups" in shown
    validated = {uri.rpartition("/")[2].removeprefix("copy of ") for uri in result.validation_uris}
    assert len(result.validation_uris) == 2 * len(validated) == 8

    monkeypatch.setitem(sys.modules, "imagehash", None)
    again, _ = run(epochs=2, resume=True, **grouped)
    assert sorted(again.validation_uris) == sorted(result.validation_uris)
    with pytest.raises(SettingError, match="group_near_duplicates=no: the run was started with"):
        run(run_name="near", group_near_duplicates="no", resume=True)


def test_resuming_what_never_was_is_refused(run):
    with pytest.raises(TrainingError, match=r"run .nothing.: nothing to resume"):
        run(run_name="nothing", resume=True)
    with pytest.raises(SettingError, match="--resume needs --run-name"):
        run(resume=True)


def test_a_gpu_that_is_not_there_is_said_before_training(run, pose_folders):
    photos = pose_folders({1: 5, 2: 5})
    with pytest.raises(TrainingError, match="the cluster has 0"):
        run(sources=[str(photos)], use_gpu="yes")
