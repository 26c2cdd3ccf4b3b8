"""A batch killed or interrupted for real, and the same command again."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from physiq_ray.checkpoint import save_model_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

NUM_PHOTOS = 240


@pytest.fixture
def command(state, tmp_path):
    """Give the command that answers all photos, 16 a part."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(NUM_PHOTOS):
        pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:03d}.jpeg")
    save_model_files(state, str(tmp_path / "output"))
    arguments = "predict photos --output answers --part-rows 16 --precision fp32"
    return [sys.executable, "-m", "physiq_ray.cli", *arguments.split()]


def start(command, folder):
    """Start it with a Ray of its own: the tests' shared one must survive; wait for its first part."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline_s = time.monotonic() + 120
    while not (folder / "answers" / "part-00000.parquet").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return process


def kill_all(process):
    """SIGKILL the driver and all of Ray's processes: what a power cut leaves."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(timeout=30)
    process.stdout.close()
    process.stderr.close()


def parts(folder):
    return {path.name: path.read_bytes() for path in (folder / "answers").glob("part-*.parquet")}


def finish(command, folder):
    """Run the same command to its end and see every photo answered exactly once."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    uris = pq.read_table(folder / "answers", columns=["uri"])["uri"].to_pylist()
    assert sorted(uris) == [str(folder / "photos" / f"{number:03d}.jpeg") for number in range(NUM_PHOTOS)]
    return done


@pytest.mark.long
def test_a_killed_batch_goes_on_and_answers_every_photo_exactly_once(command, tmp_path):
    kill_all(start(command, tmp_path))
    before = parts(tmp_path)
    assert 1 <= len(before) < NUM_PHOTOS // 16
    done = finish(command, tmp_path)
    assert f"{NUM_PHOTOS - 16 * len(before)} predicted, {16 * len(before)} already done" in done.stdout
    after = parts(tmp_path)
    assert {name: after[name] for name in before} == before


@pytest.mark.long
def test_an_interrupted_batch_keeps_what_it_has_and_says_how_to_go_on(command, tmp_path):
    process = start(command, tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the driver and to its children
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (stdout, stderr.splitlines()) == (
        "",
        [
            "physiq-ray predict: interrupted; answers keeps the answers so far; run the same command again "
            "to continue"
        ],
    )
    before = parts(tmp_path)
    finish(command, tmp_path)
    after = parts(tmp_path)
    assert {name: after[name] for name in before} == before
