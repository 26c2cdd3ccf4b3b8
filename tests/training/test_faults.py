"""Workers killed, stopped, starved of memory, disk and store, in real runs."""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from physiq_ray.config import Settings
from physiq_ray.errors import PhysiqError, StorageError, TrainingError
from physiq_ray.model import read_tensors
from physiq_ray.storage import read_bytes
from physiq_ray.training.events import BatchProgress
from physiq_ray.training.faults import EndWithoutMemory, memory_translated, store_translated
from physiq_ray.training.table import EpochTable
from physiq_ray.training.watchdog import Watchdog

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def photos(pose_folders):
    return str(pose_folders({1: 30, 2: 30}))


class During:
    """Do something to the workers once, as soon as a text was shown."""

    def __init__(self, text, act):
        self.text, self.act, self.done = text, act, False

    def __call__(self, shown):
        if not self.done and self.text in shown:
            self.done = True
            self.act()


def best_is_loadable(folder):
    """Read the newest checkpoint of a run as a resumed run would."""
    newest = max(folder.glob("epoch-*/state.pt"))
    return torch.load(newest, weights_only=True)["progress"]["epoch"]


@pytest.mark.long
def test_a_killed_worker_of_two_costs_no_epoch_and_no_line(run, photos, training_workers, rows):
    seen = []

    def kill_one():
        seen.extend(training_workers())
        time.sleep(0.3)  # into the third epoch
        seen[0].kill()

    result, shown = run(
        sources=[photos], num_workers=2, epochs=4, patience=9, on_text=During("  2/4 ", kill_one)
    )
    assert len(seen) == 2
    assert [epoch["epoch"] for epoch in result.history] == [1, 2, 3, 4]
    table = rows(shown)
    assert shown.count("resumed after epoch") == 1
    again = next(number for number, row in enumerate(table) if number and row[0] == "1/4")
    assert table[again : again + again] == table[:again]  # the lines before the kill, shown again, unchanged
    assert table[-1][0] == "4/4"


@pytest.mark.long
def test_ten_kills_in_one_run_leave_the_losses_of_a_run_without_them(run, photos, training_workers, tmp_path):
    settings = {"sources": [photos], "epochs": 11, "patience": 20, "max_failures": 10}
    straight, _ = run(**settings, run_name="straight")
    kills, in_write = [], 0
    moments = np.random.default_rng(0).uniform(0, 1.5, 10)

    def kill_in_each_epoch(shown):
        """Kill once in each epoch: anywhere in it, or while its checkpoint is written."""
        nonlocal in_write
        if len(kills) < 10 and f"  {len(kills) + 1}/11 " in shown:
            workers = training_workers()
            if workers and {worker.pid for worker in workers}.isdisjoint(kills):
                next_one = tmp_path / "runs" / "killed" / f"epoch-{len(kills) + 2:04d}"
                deadline_s = time.monotonic() + (30 if len(kills) % 2 else moments[len(kills)])
                while time.monotonic() < deadline_s and not next_one.exists():
                    time.sleep(0.001)
                in_write += next_one.exists()
                kills.append(workers[0].pid)
                workers[0].kill()

    killed, shown = run(**settings, run_name="killed", on_text=kill_in_each_epoch)
    assert len(set(kills)) == 10
    assert in_write >= 5
    assert shown.count("resumed after epoch") == 10
    losses = [
        [(epoch["epoch"], epoch["train_loss"], epoch["validation_loss"]) for epoch in result.history]
        for result in (killed, straight)
    ]
    assert losses[0] == losses[1]


@pytest.mark.long
def test_a_stalled_worker_is_given_up_and_the_run_goes_on(run, photos, training_workers):
    stopped = []

    def stop_one():
        stopped.extend(training_workers()[:1])
        stopped[0].suspend()

    started_s = time.monotonic()
    try:
        result, shown = run(
            sources=[photos], num_workers=2, epochs=3, stall_timeout_s=15, on_text=During("  1/3 ", stop_one)
        )
    finally:
        for process in stopped:
            if psutil.pid_exists(process.pid):
                process.kill()
    assert [epoch["epoch"] for epoch in result.history] == [1, 2, 3]
    assert "resumed after epoch" in shown
    assert time.monotonic() - started_s < 150


@pytest.mark.long
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(run, photos, training_workers, tmp_path):
    folder = tmp_path / "runs" / "torn"

    def kill_in_write():
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            partial = list(folder.glob("epoch-0002/*"))
            if partial and partial[0].stat().st_size > 0:
                training_workers()[0].kill()
                return
            time.sleep(0.001)

    with pytest.raises(TrainingError, match="--resume --run-name torn"):
        run(
            sources=[photos],
            epochs=3,
            run_name="torn",
            max_failures=0,
            on_text=During("  1/3 ", kill_in_write),
        )
    snapshot = json.loads((folder / "checkpoint_manager_snapshot.json").read_text())
    assert [r["checkpoint_dir_name"] for r in snapshot["checkpoint_results"]] == ["epoch-0001"]
    # The list of checkpoints may be torn as well: its writer overwrites it in place.
    (folder / "checkpoint_manager_snapshot.json").write_text('{"ray_version": "2.')
    result, shown = run(epochs=3, run_name="torn", resume=True)
    assert "resumed after epoch 1" in shown
    assert [epoch["epoch"] for epoch in result.history] == [1, 2, 3]


@pytest.mark.long
def test_a_lack_of_memory_is_said_with_its_remedy(run, photos, training_workers, tmp_path):
    def starve():
        worker = training_workers()[0]
        used = worker.memory_info().vms
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (used, used))

    with pytest.raises(TrainingError) as caught:
        run(
            sources=[photos],
            epochs=9,
            patience=20,
            run_name="starved",
            max_failures=0,
            batch_size=24,
            image_size=96,
            on_text=During("  1/9 ", starve),
        )
    assert "out of memory in training with batch_size=24, image_size=96: lower batch_size" in str(
        caught.value
    )
    assert "resume with: physiq-ray train --resume --run-name starved" in str(caught.value)
    assert best_is_loadable(tmp_path / "runs" / "starved") >= 1


@pytest.mark.long
def test_a_lack_of_memory_before_an_epoch_is_done_ends_the_run_at_once(
    run, photos, training_workers, monkeypatch
):
    handle, starved = EpochTable.handle, set()

    def starve(table, event):
        if isinstance(event, BatchProgress) and event.epoch == 1:
            for worker in training_workers():
                if worker.pid not in starved:
                    starved.add(worker.pid)
                    used = worker.memory_info().vms
                    resource.prlimit(worker.pid, resource.RLIMIT_AS, (used, used))
        handle(table, event)

    monkeypatch.setattr(EpochTable, "handle", starve)
    with pytest.raises(TrainingError, match="out of memory in training with batch_size=4") as e:
        run(sources=[photos], run_name="small", max_failures=3, image_size=224)
    assert "--resume --run-name small" in str(e.value)
    assert len(starved) == 1  # it was not started again


@pytest.mark.long
def test_a_full_disk_is_said_with_its_remedy(run, photos, training_workers, tmp_path):
    # A limit on the size of files is refused by the same calls as a full disk is.
    def fill():
        resource.prlimit(training_workers()[0].pid, resource.RLIMIT_FSIZE, (50_000_000, 50_000_000))

    with pytest.raises(StorageError) as caught:
        run(
            sources=[photos],
            epochs=9,
            patience=20,
            run_name="full",
            max_failures=0,
            on_text=During("  1/9 ", fill),
        )
    assert "checkpoint cannot be written" in str(caught.value)
    assert "free space there" in str(caught.value)
    assert "resume with: physiq-ray train --resume --run-name full" in str(caught.value)
    assert best_is_loadable(tmp_path / "runs" / "full") >= 1


@pytest.mark.long
def test_a_thread_that_hangs_is_given_up_and_said(run, photos, tmp_path):
    hung = Path(photos) / "1" / "1-3.jpeg"

    def hang():
        hung.unlink()
        os.mkfifo(hung)  # whoever reads it waits for a writer, as on a file system that is gone

    def let_go():
        with contextlib.suppress(OSError):
            os.close(os.open(hung, os.O_WRONLY | os.O_NONBLOCK))

    try:
        with pytest.raises(TrainingError, match="with: physiq-ray train --resume --run-name hung") as e:
            run(
                sources=[photos],
                cache="none",
                run_name="hung",
                max_failures=0,
                stall_timeout_s=10,
                epochs=3,
                on_text=During("  1/3 ", hang),
            )
    finally:
        let_go()
    assert "training worker 0 failed" in str(e.value)
    assert best_is_loadable(tmp_path / "runs" / "hung") >= 1


def test_the_watchdog_barks_only_when_nothing_is_done():
    barks = []
    watchdog = Watchdog(0.4, lambda: barks.append(time.monotonic()))
    with watchdog.watching():
        for _ in range(8):
            time.sleep(0.1)
            watchdog.beat()
    time.sleep(0.6)  # nobody is watched between two phases
    assert barks == []
    with watchdog.watching():
        time.sleep(1)
    assert len(barks) == 1


def test_the_watchdog_waits_longer_for_what_may_take_longer():
    barks = []
    watchdog = Watchdog(0.2, lambda: barks.append(time.monotonic()))
    started_s = time.monotonic()
    with watchdog.watching():
        watchdog.beat(allow_s=1.0)  # a first compile
        time.sleep(2)
    assert len(barks) == 1
    assert barks[0] - started_s > 1.1


def test_faults_of_other_kinds_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="shapes"), memory_translated(Settings()):
        raise RuntimeError("shapes differ")
    with pytest.raises(TrainingError, match="out of memory"), memory_translated(Settings()):
        torch.empty(2**50)
    with pytest.raises(TrainingError, match="lower batch_size"), memory_translated(Settings()):
        raise torch.OutOfMemoryError("CUDA out of memory")  # which no CPU can show
    with (
        pytest.raises(StorageError, match=r"storage=runs: .*No space left on device; free space"),
        store_translated(Settings()),
        Path("/dev/full").open("wb", buffering=0) as file,
    ):
        file.write(b"x")


@pytest.fixture
def lose_a_node(tmp_path):
    """Give a function that trains on two nodes, loses one in the third epoch, and gives result and output."""

    def call(photos, *options):
        script = Path(__file__).parents[1] / "helpers" / "lose_a_node.py"
        (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}]')
        done = subprocess.run(
            [sys.executable, script, photos, tmp_path / "poses.json", tmp_path, *options],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["lost"]
        assert [epoch["epoch"] for epoch in result["history"]] == [1, 2, 3, 4]
        return result, done.stdout

    return call


@pytest.mark.long
def test_a_lost_node_with_its_worker_and_its_decoded_photos_costs_no_epoch(lose_a_node, photos, rows):
    result, shown = lose_a_node(photos)
    assert "resumed after epoch" in shown
    table = rows(shown)
    again = next(number for number, row in enumerate(table) if number and row[0] == "1/4")
    assert table[again : again + again] == table[:again]
    assert {epoch["train_photos"] for epoch in result["history"]} == {48}


@pytest.mark.long
def test_a_node_that_is_announced_to_go_costs_no_photo_of_the_epoch(lose_a_node, pose_folders):
    result, shown = lose_a_node(pose_folders({1: 150, 2: 150}), "announced")
    saved = re.search(r"a checkpoint after (\d+) photos of epoch (\d) is saved", shown)
    assert saved, shown
    assert 0 < int(saved[1]) < 240
    # The epoch may have ended before the node was taken away.
    assert re.search(r"resumed after epoch \d", shown)
    assert {epoch["train_photos"] for epoch in result["history"]} == {240}


@pytest.mark.long
def test_a_checkpoint_store_that_is_away_for_a_while_costs_no_epoch(run, photos, s3, make_bucket):
    def restart():
        s3.stop()
        time.sleep(10)
        s3.start()

    result, _ = run(
        sources=[photos],
        epochs=4,
        patience=9,
        storage=f"s3://{make_bucket({})}/runs",
        on_text=During("  1/4 ", restart),
    )
    assert [epoch["epoch"] for epoch in result.history] == [1, 2, 3, 4]


@pytest.mark.long
def test_a_checkpoint_store_that_stays_away_is_named_and_keeps_what_it_has(run, photos, s3, make_bucket):
    storage = f"s3://{make_bucket({})}/runs"
    try:
        with pytest.raises(PhysiqError) as caught:
            run(
                sources=[photos],
                epochs=9,
                patience=20,
                run_name="alone",
                max_failures=1,
                storage=storage,
                on_text=During("  1/9 ", s3.stop),
            )
    finally:
        s3.start()
    assert storage in str(caught.value)
    assert f"physiq-ray train --resume --run-name alone --storage {storage}" in str(caught.value)
    state = read_tensors(read_bytes(f"{storage}/alone/epoch-0001/state.pt"), name="state.pt")
    assert state["progress"]["epoch"] == 1


def test_only_a_lack_of_memory_before_the_first_epoch_is_certain_to_repeat():
    lack, other = {1: TrainingError("out of memory in training")}, {0: RuntimeError("CUDA out of memory")}
    ends = EndWithoutMemory(Settings())
    ends.after_exception(None, other)  # killed from outside, or by a library: it may go well next time
    with pytest.raises(TrainingError, match="lower batch_size"):
        ends.after_exception(None, lack)
    ends = EndWithoutMemory(Settings())
    ends.after_report(None, [], None)
    ends.after_exception(None, lack)  # there was enough for an epoch
    with pytest.raises(TrainingError, match="lower batch_size"):
        ends.after_exception(None, lack)  # started again, there no longer is
