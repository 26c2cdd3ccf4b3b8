"""Disks that are full or read-only, by real ones: nothing is mixed, nothing half-written takes room."""

import json

import pytest
import torch
from checkpoints import result_of, save_checkpoint

from physiq_ray.checkpoint import load_model_state
from physiq_ray.config import Settings
from physiq_ray.errors import StorageError, WeightsError
from physiq_ray.manifest import collect_manifest
from physiq_ray.model import build_model, load_starting_weights
from physiq_ray.storage import together
from physiq_ray.training.faults import partial_removed
from physiq_ray.training.finish import finish
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.lock import locked_output
from physiq_ray.training.record import RunRecord

MEGABYTE = 2**20


@pytest.fixture
def sources(pose_folders):
    return [str(pose_folders({1: 6, 5: 6}))]


@pytest.mark.long
def test_an_output_that_fills_up_keeps_the_model_before_and_says_how_to_get_the_new_one(
    run, sources, make_disk
):
    disk, remount = make_disk(40 * MEGABYTE)
    old = {
        "pose_classifier.pth": b"old",
        "pose_classifier_complete.pth": b"old",
        "class_mapping.json": b"old",
    }
    for name, data in old.items():
        (disk / name).write_bytes(data)
    with pytest.raises(StorageError) as caught:
        run(sources=sources, output=str(disk), run_name="full", epochs=1)
    sentence = str(caught.value)
    assert sentence.startswith(
        f"output={disk}: the model files are not written: write {disk}/pose_classifier"
    )
    assert "No space left on device; free space there" in sentence
    assert "physiq-ray train --resume --run-name full --storage " in sentence
    assert {name: (disk / name).read_bytes() for name in old} == old
    assert {path.name for path in disk.iterdir()} <= {*old, "history.json", "tensorboard", ".locks"}

    remount(f"size={700 * MEGABYTE}")
    result, _ = run(resume=True, output=str(disk), run_name="full", epochs=1)
    assert result.best_epoch == 1
    assert load_model_state(str(disk / "pose_classifier.pth")).class_mapping.pose_ids == (1, 5)
    assert load_model_state(str(disk)).best_epoch == 1
    assert len(json.loads((disk / "history.json").read_text())) == 1


@pytest.fixture
def finished(sources, tmp_path):
    """Give a run's settings, record and result as training leaves them, small in all but its layers."""
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 5, "name": "Five"}]')
    (tmp_path / "labels.json").write_text("[]")
    settings = Settings(
        sources=sources,
        poses=str(tmp_path / "poses.json"),
        labels=str(tmp_path / "labels.json"),
        storage=str(tmp_path / "runs"),
    )
    poses = {1: "One", 5: "Five"}
    record = RunRecord.of_manifest(collect_manifest(settings, poses), poses)
    num_rows = record.manifest.split("validation").num_rows
    validation = {
        "rows": torch.arange(num_rows),
        "labels": torch.zeros(num_rows, dtype=torch.int64),
        "logits": torch.tensor([[0.0, 1.0]] * num_rows),  # all wrong, so that there is a picture of mistakes
    }
    result = result_of(save_checkpoint(tmp_path / "epoch", 1, build_model(2).state_dict(), validation))
    return lambda output: finish(settings, record, RunFolder(settings.storage, "first"), result, output)


NEW = {
    *("pose_classifier.pth", "pose_classifier_complete.pth", "class_mapping.json", "history.json"),
    *("report.json", "model_card.md", "confusion.png", "scores.png", "reliability.png", "curves.png"),
    "mistakes.png",
}


@pytest.mark.slow
def test_a_disk_that_fills_up_at_the_end_mixes_no_files_and_the_next_try_writes_all(finished, make_disk):
    disk, remount = make_disk(150 * MEGABYTE)  # room for the weights, and not for the complete file
    old = dict.fromkeys(NEW, b"old")
    for name, data in old.items():
        (disk / name).write_bytes(data)
    with pytest.raises(StorageError) as caught:
        finished(str(disk))
    assert str(caught.value) == (
        f"output={disk}: the model files are not written: write {disk}/pose_classifier_complete.pth: No "
        "space left on device; free space there, or see that it can be written; the training is safe, write "
        f"them with: physiq-ray train --resume --run-name first --storage {disk.parent}/runs"
    )
    assert {path.name: path.read_bytes() for path in disk.iterdir()} == old

    remount(f"size={400 * MEGABYTE}")
    result = finished(str(disk))
    assert not any(path.read_bytes() == b"old" for path in disk.iterdir() if path.is_file())
    assert {path.name for path in disk.iterdir()} == {*NEW, "tensorboard"}
    assert set(result.files) == {
        *(f"{disk}/{name}" for name in NEW),
        f"{disk}/tensorboard/events.out.tfevents.first",
    }
    assert load_model_state(str(disk / "pose_classifier.pth")).class_mapping.pose_ids == (1, 5)


@pytest.mark.slow
def test_a_model_in_a_bucket_is_uploaded_after_its_report_and_the_complete_file_last(
    finished, make_bucket, s3_direct, monkeypatch
):
    written = []
    write_file = together.write_file
    monkeypatch.setattr(
        together, "write_file", lambda path, uri: (written.append(uri), write_file(path, uri))
    )
    output = f"s3://{make_bucket({})}/models/first/"
    result = finished(output)
    assert [uri.rpartition("/")[2] for uri in written[-3:]] == [
        "class_mapping.json",
        "pose_classifier.pth",
        "pose_classifier_complete.pth",
    ]
    assert set(written) == set(result.files)
    assert load_model_state(output).best_epoch == 1


def test_a_checkpoint_that_cannot_be_written_leaves_no_part_of_it(make_disk, tmp_path):
    disk, _ = make_disk(MEGABYTE)

    def write(folder):
        with partial_removed(str(folder)):
            folder.mkdir()
            (folder / "state.pt").write_bytes(bytes(2 * MEGABYTE))

    with pytest.raises(OSError, match="No space left"):
        write(disk / "epoch-0001")
    assert list(disk.iterdir()) == []
    (disk / "epoch-0002").mkdir()
    (disk / "epoch-0002" / "state.pt").write_bytes(bytes(MEGABYTE // 2))


@pytest.mark.long
def test_a_checkpoint_that_found_no_room_is_removed_and_the_next_attempt_has_the_room(
    run, sources, make_disk
):
    disk, remount = make_disk(100 * MEGABYTE)  # one checkpoint has 280 MB
    with pytest.raises(StorageError, match=r"checkpoint cannot be written.*No space left.*free space there"):
        run(sources=sources, storage=str(disk), run_name="full", epochs=1, max_failures=0)
    assert list(disk.rglob("epoch-*")) == []
    assert sum(path.stat().st_size for path in disk.rglob("*") if path.is_file()) < MEGABYTE

    remount(f"size={700 * MEGABYTE}")
    result, _ = run(resume=True, storage=str(disk), run_name="full", epochs=1, max_failures=0)
    assert result.best_epoch == 1


@pytest.mark.parametrize("name", ["output", "storage"])
def test_a_read_only_disk_is_named_by_its_setting(make_disk, name):
    disk, remount = make_disk(MEGABYTE)
    remount("ro")
    lock = locked_output(f"{disk}/model") if name == "output" else RunFolder(f"{disk}/runs", "first").locked()
    with pytest.raises(StorageError) as caught, lock:
        pass
    folder = {"output": "model", "storage": "runs"}[name]
    assert str(caught.value) == (
        f"{name}={disk}/{folder}: cannot be written: Read-only file system; give another folder"
    )


def test_a_read_only_folder_for_downloaded_weights_is_named(make_disk, monkeypatch):
    disk, remount = make_disk(MEGABYTE)
    remount("ro")
    monkeypatch.setenv("TORCH_HOME", str(disk))
    with pytest.raises(WeightsError) as caught:
        load_starting_weights("imagenet")
    assert str(caught.value) == (
        f"weights=imagenet: TORCH_HOME={disk}/hub: cannot be written: Read-only file system; set "
        "TORCH_HOME to a writable folder, or "
        "give a file or s3:// address of a state dict, or weights=random"
    )
