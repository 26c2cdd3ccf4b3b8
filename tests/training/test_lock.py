import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from physiq_ray.errors import StorageError, TrainingError
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.lock import Holder, locked_output


@pytest.fixture(params=["folder", "bucket"])
def storage(request, tmp_path):
    """Give a folder and an s3:// prefix in turn."""
    if request.param == "folder":
        return str(tmp_path / "runs")
    return f"s3://{request.getfixturevalue('make_bucket')({})}/runs"


def leave_lock(folder, holder):
    (folder / "runs" / "first").mkdir(parents=True)
    (folder / "runs" / "first" / "lock-0001.json").write_text(
        holder if isinstance(holder, str) else json.dumps(vars(holder))
    )


def test_a_second_process_may_train_a_run_only_after_the_first_has_ended(storage):
    with (
        RunFolder(storage, "first").locked(),
        pytest.raises(TrainingError) as caught,
        RunFolder(storage, "first").locked(),
    ):
        pass
    assert re.fullmatch(
        rf"run 'first' is being trained by process {os.getpid()} on {socket.gethostname()}, seen \d s ago; "
        r"wait for its end, give another --run-name, or, if it is gone, try again in \d+ s",
        str(caught.value),
    )
    with RunFolder(storage, "first").locked(), RunFolder(storage, "second").locked():
        pass


@pytest.mark.slow
def test_of_many_simultaneous_attempts_one_gets_the_lock(storage):
    entered = []

    def enter(number):
        try:
            with RunFolder(storage, "first").locked():
                entered.append(number)
                time.sleep(1)
        except TrainingError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(enter, range(8)))
    assert len(entered) == 1
    assert sum(answer != "" for answer in answers) == 7


def test_the_lock_of_a_killed_process_on_this_machine_is_ignored(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leave_lock(tmp_path, Holder(socket.gethostname(), gone.pid, time.time()))
    with RunFolder(str(tmp_path / "runs"), "first").locked():
        assert (tmp_path / "runs" / "first" / "lock-0002.json").exists()


@pytest.mark.parametrize(("silent_s", "refused"), [(20, True), (140, False)])
def test_the_lock_of_another_machine_expires_after_two_minutes_without_renewal(
    tmp_path, monkeypatch, silent_s, refused
):
    monkeypatch.setattr("physiq_ray.training.lock.RENEWAL_S", 0.05)
    leave_lock(tmp_path, Holder("another-machine", 1, time.time() - silent_s))
    if refused:
        with pytest.raises(TrainingError, match=r"process 1 on another-machine, seen 20 s.*again in 100 s"):
            RunFolder(str(tmp_path / "runs"), "first").locked().__enter__()
    else:
        with RunFolder(str(tmp_path / "runs"), "first").locked():
            pass


@pytest.mark.slow
def test_a_holder_with_a_slow_clock_keeps_its_lock_by_renewing_it(tmp_path, monkeypatch):
    monkeypatch.setattr("physiq_ray.training.lock.RENEWAL_S", 0.3)
    behind_s = time.time() - 300
    leave_lock(tmp_path, Holder("another-machine", 1, behind_s))
    path, notes = tmp_path / "runs" / "first" / "lock-0001.json", []
    renewal = threading.Timer(
        0.2, lambda: path.write_text(json.dumps(vars(Holder("another-machine", 1, behind_s + 15))))
    )
    renewal.start()
    with (
        pytest.raises(TrainingError, match="process 1 on another-machine, seen 0 s ago"),
        RunFolder(str(tmp_path / "runs"), "first").locked(notes.append),
    ):
        pass
    assert notes == ["run 'first': waiting 0.6 s for a sign of life from another-machine"]


def test_a_holder_whose_lock_was_taken_over_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("physiq_ray.training.lock.RENEWAL_S", 0.05)

    def train():
        with RunFolder(str(tmp_path / "runs"), "first").locked():
            successor = json.dumps(vars(Holder("another-machine", 1, time.time())))
            (tmp_path / "runs" / "first" / "lock-0002.json").write_text(successor)
            time.sleep(10)
            pytest.fail("was not interrupted")

    with pytest.raises(TrainingError, match=r"taken over by the holder of .*lock-0002\.json"):
        train()


def test_a_torn_lock_file_is_ignored(tmp_path):
    leave_lock(tmp_path, '{"host": "her')
    with RunFolder(str(tmp_path / "runs"), "first").locked():
        pass


@pytest.mark.slow
def test_the_holder_renews_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("physiq_ray.training.lock.RENEWAL_S", 0.05)
    path = tmp_path / "runs" / "first" / "lock-0001.json"
    with RunFolder(str(tmp_path / "runs"), "first").locked():
        first = json.loads(path.read_text())["seen_s"]
        time.sleep(0.5)
        assert json.loads(path.read_text())["seen_s"] > first
    assert json.loads(path.read_text())["is_done"] is True


def test_a_second_training_may_write_to_an_output_only_after_the_first_has_ended(storage):
    with (
        locked_output(storage),
        pytest.raises(TrainingError) as caught,
        locked_output(storage),
    ):
        pass
    assert re.fullmatch(
        rf"output={storage} is being written to by a training, process {os.getpid()} on "
        rf"{socket.gethostname()}, seen \d s ago; wait for its end, give another --output, or, if it is "
        r"gone, try again in \d+ s",
        str(caught.value),
    )
    with locked_output(storage), RunFolder(storage, "first").locked():
        pass


def test_a_folder_under_another_name_is_the_same_output(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with (
        locked_output(str(tmp_path / "model")),
        pytest.raises(TrainingError, match="give another --output"),
        locked_output(str(tmp_path / "link")),
    ):
        pass


@pytest.mark.parametrize("name", ["output", "storage"])
def test_a_folder_that_cannot_be_written_is_named_by_its_setting(tmp_path, name):
    (tmp_path / "file").write_text("")
    place = f"{tmp_path}/file/deeper"
    lock = locked_output(place) if name == "output" else RunFolder(place, "first").locked()
    with pytest.raises(StorageError) as caught, lock:
        pass
    assert str(caught.value) == f"{name}={place}: cannot be written: Not a directory; give another folder"


def test_a_second_process_that_trains_into_the_same_output_stops_before_the_listing(tmp_path, run_cli):
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}]')
    (tmp_path / "photos" / "1").mkdir(parents=True)
    with locked_output(str(tmp_path / "model")):
        before = sorted(tmp_path.joinpath("model").rglob("*"))
        flags = ("--poses", "poses.json", "--sources", "photos", "--run-name", "second")
        done = run_cli("train", *flags, "--output", "model", "--storage", "runs")
        assert sorted(tmp_path.joinpath("model").rglob("*")) == before
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(
        "physiq-ray train: output=model is being written to by a training, process "
    )
