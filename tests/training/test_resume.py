"""A run killed for real, and one started again under its name."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from drain import drain, find_own_node
from PIL import Image

from physiq_ray.checkpoint import load_model_state
from physiq_ray.errors import SettingError
from physiq_ray.model import build_model
from physiq_ray.training.text import describe_result

pytestmark = [pytest.mark.long, pytest.mark.timeout(280)]


@pytest.fixture
def command(tmp_path):
    rng = np.random.default_rng(0)
    for pose_id in (1, 2):
        folder = tmp_path / "photos" / str(pose_id)
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{pose_id}-{number}.jpeg")
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}]')
    # A rate of nearly nothing: the accuracy stays where it is, and every epoch after the first one waits.
    settings = (
        "--weights random --image-size 64 --batch-size 8 --epochs 3 --patience 10 --learning-rate 1e-9 "
        "--precision fp32 --augment none --run-name killed --sources photos --poses poses.json"
    )
    return [sys.executable, "-m", "physiq_ray.cli", "train", *settings.split()]


def environment():
    # A Ray of its own: the tests' shared one must survive the killing.
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "PYTHONUNBUFFERED": "1"
    }


def kill_all(process):
    """SIGKILL the driver and all of Ray's processes: what a power cut leaves."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(timeout=30)


def resume(command, folder, *flags):
    """Go on with the run, to its end."""
    done = subprocess.run(
        [*command[:3], "train", "--resume", "--run-name", "killed", *flags],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_ctrl_c_before_the_first_checkpoint_says_how_to_start_again_from_the_given_weights(command, tmp_path):
    start = build_model(1000).state_dict()
    torch.save(start, tmp_path / "start.pth")
    command[command.index("random")] = "start.pth"
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith("run killed:"):
            break
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the driver and to its children
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.splitlines() == [
        "physiq-ray train: interrupted before the first epoch was done; start again with: "
        "physiq-ray train --resume --run-name killed"
    ]
    assert not list((tmp_path / "runs" / "killed").glob("epoch-*"))

    resumed = resume(command, tmp_path, "--epochs", "1")
    assert f"from {tmp_path / 'start.pth'} weights" in resumed.stdout
    trained = torch.load(tmp_path / "output" / "pose_classifier.pth", weights_only=True)
    name = "layer3.2.conv2.weight"
    torch.testing.assert_close(trained[name], start[name], rtol=0, atol=1e-6)


def test_a_killed_run_goes_on_at_the_next_epoch_with_its_best_and_its_patience(
    command, ray_local, run_here, rows, tmp_path
):
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = ""
    deadline_s = time.monotonic() + 150
    for line in process.stdout:
        output += line
        if re.match(r" *2/3 ", line) or time.monotonic() > deadline_s:
            break
    kill_all(process)
    process.stdout.close()
    before = rows(output)
    assert [row[0] for row in before] == ["1/3", "2/3"], output
    assert [row[5] for row in before] == ["✓ Best Model", "Wait 1/10"]

    resumed = run_here("train", "--resume", "--run-name", "killed")
    assert resumed.returncode == 0, resumed.stderr
    after = rows(resumed.stdout)
    assert "resumed after epoch 2" in resumed.stdout
    assert after[:2] == before
    assert [(row[0], row[5]) for row in after[2:]] == [("3/3", "Wait 2/10")]
    assert f"Best validation accuracy {before[0][4]} in epoch 1" in resumed.stdout


@pytest.mark.timeout(500)  # three trainings
def test_a_run_killed_after_a_notice_of_preemption_resumes_in_the_epoch_to_the_last_bit(
    run, pose_folders, tmp_path
):
    same = {
        "sources": [str(pose_folders({1: 20, 2: 20}))],
        "batch_size": 2,
        "patience": 9,
        "augment": "strong",
        "mixup": 0.2,
        "schedule": "cosine",
        "ema_decay": 0.9,
    }
    whole, _ = run(**same, run_name="whole")
    given = {
        **{"epochs": 2, "image-size": 64, "weights": "random", "precision": "fp32", "learning-rate": 1e-3},
        **{"storage": tmp_path / "runs", "labels": tmp_path / "labels.json", "output": tmp_path / "killed"},
        **{"poses": tmp_path / "poses.json", "run-name": "killed", "sources": same["sources"][0]},
        **{name.replace("_", "-"): value for name, value in same.items() if name != "sources"},
    }
    watching = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2"}
    process = subprocess.Popen(
        [sys.executable, "-m", "physiq_ray.cli", "train", *(f"--{name}={given[name]}" for name in given)],
        cwd=tmp_path,
        env=environment() | watching,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = ""
    try:
        for line in process.stdout:
            output += line
            if re.match(r" *1/2 ", line):
                drain(*find_own_node(process.pid))
            if "is saved" in line or re.match(r" *2/2 ", line):
                break
    finally:
        kill_all(process)
        process.stdout.close()
    found = re.search(
        r"^a node is about to be taken away: .* after (\d+) photos of epoch 2 is saved$", output, re.M
    )
    assert found, output
    assert 0 < int(found[1]) < 32

    resumed, shown = run(**same, resume=True, run_name="killed", output=str(tmp_path / "killed"))
    assert f"resumed after epoch 1 and {found[1]} photos of epoch 2" in shown
    times = {"seconds", "train_seconds", "time"}
    for epoch, expected in zip(resumed.history, whole.history, strict=True):
        assert {name: epoch[name] for name in epoch.keys() - times} == {
            name: expected[name] for name in expected.keys() - times
        }
    states = [
        torch.load(tmp_path / "runs" / name / "epoch-0002" / "state.pt", weights_only=True)
        for name in ("whole", "killed")
    ]
    for part in ("model", "averaged"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), (part, name)


def test_a_run_out_of_time_writes_its_model_and_is_resumed(run, pose_folders, tmp_path):
    photos = pose_folders({1: 20, 2: 20})
    first, shown = run(sources=[str(photos)], run_name="short", epochs=3, max_hours=1e-6, limit=8)
    assert "limit=8: 16 of these 40 photos are used" in shown
    assert [epoch["epoch"] for epoch in first.history] == [1]
    assert first.stopped == (
        "Stopped after epoch 1 of 3: max_hours=1e-06 leaves no time for another; continue with: "
        f"physiq-ray train --resume --run-name short --storage {tmp_path / 'runs'}"
    )
    assert first.stopped in describe_result(first)
    assert load_model_state(str(tmp_path / "model")).best_epoch == 1

    second, _ = run(run_name="short", resume=True, epochs=3, max_hours=1.0)

    assert [epoch["epoch"] for epoch in second.history] == [1, 2, 3]
    assert second.history[0] == first.history[0]
    assert second.stopped is None
    assert sum(second.num_used.values()) == 16
    with pytest.raises(SettingError, match="limit=9: the run was started with limit=8"):
        run(run_name="short", resume=True, limit=9)
