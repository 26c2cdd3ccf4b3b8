import errno
import io

import pytest
import ray.train
import torch

from physiq_ray.errors import CheckpointError, StorageError
from physiq_ray.quarantine import Unreadable
from physiq_ray.training.plan import EarlyStopping
from physiq_ray.training.state import STATE_FILE, PartialEpoch, TrainingState, read_state, saved_state

BROKEN = Unreadable("s3://b/broken.jpeg", "decode", "not an image")
GONE = Unreadable("s3://b/gone.jpeg", "gone", "NoSuchKey")


def make_state():
    return TrainingState(
        EarlyStopping(3, epoch=2, best_accuracy=0.5, best_epoch=1, waited=1),
        epoch=2,
        partial=PartialEpoch(frozenset({7, 4}), 64, loss_sum=1.1, num_correct=30.0, num_read=63, seconds=2.5),
        history=[{"epoch": 1, "status": "✓ Best Model"}, {"epoch": 2, "status": "Wait 1/3"}],
        excluded={"train": {4: BROKEN}, "validation": {0: GONE}},
    )


def test_a_new_run_has_no_epoch_and_no_unreadable_photo():
    state = TrainingState(EarlyStopping(3))
    assert (state.epoch, state.history, state.unreadable()) == (0, [], ())
    assert TrainingState(EarlyStopping(3)).excluded["train"] is not state.excluded["train"]


def test_the_unreadable_photos_are_those_of_both_splits():
    assert make_state().unreadable() == (BROKEN, GONE)


def test_a_state_is_restored_from_a_file_that_holds_plain_values_only():
    file = io.BytesIO()
    torch.save(make_state().to_plain(), file)
    file.seek(0)
    plain = torch.load(file, weights_only=True)
    assert TrainingState.from_plain(plain, patience=3) == make_state()


def test_a_checkpoint_of_a_version_that_saved_complete_epochs_only_is_read():
    plain = make_state().to_plain()
    del plain["partial"]
    state = TrainingState.from_plain(plain, patience=3)
    assert state.partial is None
    assert state.history == make_state().history


def test_the_patience_is_that_of_the_resumed_run():
    plain = make_state().to_plain()
    assert not TrainingState.from_plain(plain, patience=3).early_stopping.is_finished
    resumed = TrainingState.from_plain(plain, patience=1).early_stopping
    assert resumed == EarlyStopping(1, epoch=2, best_accuracy=0.5, best_epoch=1, waited=1)
    assert resumed.is_finished


def test_plain_values_do_not_change_with_the_state():
    state = make_state()
    plain = state.to_plain()
    state.history.append({"epoch": 3})
    state.excluded["train"][5] = GONE
    assert plain == make_state().to_plain()


def test_a_checkpoint_is_read_as_it_was_saved():
    weight = torch.arange(6.0).reshape(2, 3)
    with saved_state({"model": {"fc.weight": weight}, "progress": make_state().to_plain()}) as checkpoint:
        state = read_state(checkpoint)
    assert torch.equal(state["model"]["fc.weight"], weight)
    assert state["progress"] == make_state().to_plain()


def test_a_full_disk_is_an_error_of_the_storage(monkeypatch):
    def save(_state, _file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with (
        pytest.raises(
            StorageError, match=r"checkpoint cannot be written .*: No space left on device; free space"
        ),
        saved_state({}),
    ):
        pass


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, make_hostile):
    torch.save({"model": make_hostile(tmp_path / "ran")}, tmp_path / STATE_FILE)
    with pytest.raises(CheckpointError, match=rf"{STATE_FILE}: "):
        read_state(ray.train.Checkpoint.from_directory(tmp_path))
    assert not (tmp_path / "ran").exists()
