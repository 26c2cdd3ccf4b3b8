"""A training on one machine listens only where it must."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from physiq_ray.cluster import LOOPBACK_VARIABLE
from physiq_ray.machine import is_loopback

SETTINGS = (
    "--weights random --image-size 64 --batch-size 4 --epochs 50 --patience 50 --sources photos "
    "--poses poses.json --run-name open"
)


def open_ports(process: psutil.Process) -> set[tuple[str, int]]:
    """Find the ports of a process and its children that other machines reach, with the process's name."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            connections, name = one.net_connections(), one.cmdline()[0]
        except (psutil.Error, IndexError):  # it ended meanwhile
            continue
        found |= {
            (name, c.laddr.port)
            for c in connections
            if c.status == psutil.CONN_LISTEN and not is_loopback(c.laddr.ip.removeprefix("::ffff:"))
        }
    return found


@pytest.mark.slow
@pytest.mark.long
def test_of_a_training_on_one_machine_only_the_workers_meeting_point_is_open(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for pose_id in (1, 2):
        (tmp_path / "photos" / str(pose_id)).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / str(pose_id) / f"{number}.jpeg")
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}]')
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", LOOPBACK_VARIABLE)
    }
    with (tmp_path / "shown.txt").open("w") as shown:
        process = psutil.Popen(
            [sys.executable, "-m", "physiq_ray.cli", "train", *SETTINGS.split()],
            cwd=tmp_path,
            env=environment,
            stdout=shown,
            stderr=subprocess.STDOUT,
        )
    try:
        end_s = time.monotonic() + 200
        while "  1/50 " not in (text := (tmp_path / "shown.txt").read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < end_s, text
            time.sleep(0.5)
        found = open_ports(process)
    finally:
        for child in process.children(recursive=True):
            child.kill()
        process.kill()
        process.wait(timeout=30)
    # torch listens on all networks, whatever address it is given.
    assert [name for name, _ in found] == ["ray::RayTrainWorker"]
