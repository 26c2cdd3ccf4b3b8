"""Checkpoints that a thread saves while the next epoch trains."""

import datetime
import threading
import time

import pytest
import torch

from physiq_ray.errors import StorageError
from physiq_ray.training.plan import EarlyStopping
from physiq_ray.training.saving import HostCopy, Saver
from physiq_ray.training.state import TrainingState, read_state, saved_state

CPU = torch.device("cpu")


def refuse():
    raise StorageError("storage=s3://runs: the store is away")


def test_a_copy_holds_the_state_at_the_time_of_the_copy():
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    progress = TrainingState(EarlyStopping(3), epoch=1, history=[{"epoch": 1}])
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moment = optimizer.state_dict()["state"][0]["exp_avg"].clone()

    copy = HostCopy(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "progress": progress.to_plain(),
        },
        CPU,
    )
    optimizer.step()  # the next epoch trains while the copy is written
    progress.history.append({"epoch": 2})
    progress.epoch = 2

    with saved_state(copy.wait()) as checkpoint:
        saved = read_state(checkpoint)
    for name, value in before.items():
        assert torch.equal(saved["model"][name], value)
        assert not torch.equal(model.state_dict()[name], value)
    assert torch.equal(saved["optimizer"]["state"][0]["exp_avg"], moment)
    assert saved["optimizer"]["state"][0]["step"] == 1
    assert saved["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert saved["progress"]["epoch"] == 1
    assert saved["progress"]["history"] == [{"epoch": 1}]


def test_a_copy_keeps_the_layout_of_its_tensors():
    weight = torch.randn(8, 3, 3, 3).to(memory_format=torch.channels_last)
    copied = HostCopy({"weight": weight}, CPU).wait()["weight"]
    assert copied.stride() == weight.stride()
    assert torch.equal(copied, weight)


def test_the_next_epoch_does_not_wait_for_the_checkpoint_but_the_next_checkpoint_does():
    may_end, events = threading.Event(), []

    def write(name):
        may_end.wait(30)
        events.append(name)

    with Saver() as saver:
        saver.save(lambda: write("first"))
        saver.check()
        assert events == []  # training does not wait
        threading.Timer(0.2, may_end.set).start()
        saver.wait()
        saver.save(lambda: write("second"))
        assert events[0] == "first"
    assert events == ["first", "second"]  # the run ends with its last checkpoint saved


def test_an_error_in_saving_is_raised_in_the_next_epoch():
    def train_on(saver):
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            saver.check()
            time.sleep(0.01)

    saver = Saver()
    saver.save(refuse)
    with pytest.raises(StorageError, match="the store is away"):
        train_on(saver)


def test_an_error_in_saving_the_last_checkpoint_is_raised_at_the_end():
    saver = Saver()
    saver.save(refuse)
    with pytest.raises(StorageError, match="the store is away"):
        saver.__exit__(None, None, None)


def test_an_error_of_the_training_hides_an_error_in_saving():
    saver = Saver()
    saver.save(refuse)
    saver.__exit__(
        RuntimeError, RuntimeError("shapes differ"), None
    )  # nothing is raised, so the error of the training stays


def save_twice(rank, folder):
    """Save on two ranks whose collectives end after 6 s, rank 0 in 9; both must start within 6 s."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=6),
    )
    with Saver() as saver:
        saver.save(lambda: time.sleep(9 if rank == 0 else 0))
        saver.wait()
        saver.save(lambda: None)
        torch.distributed.all_reduce(torch.ones(1))  # a step of the next epoch
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_an_upload_may_take_longer_than_the_timeout_of_a_step(tmp_path):
    torch.multiprocessing.spawn(save_twice, (str(tmp_path),), nprocs=2)
