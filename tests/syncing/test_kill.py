"""Killed and simultaneous syncs leave no incomplete file, and the last sync completes the folder."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "physiq_ray.cli", "sync", "f", "--transfers", "3", "--sources")


def start(bucket: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (*COMMAND, f"s3://{bucket}"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def make_files(num_files: int) -> dict[str, bytes]:
    return {f"{n % 7}/{n:03d}.jpg": os.urandom(20_000 + 500 * n) for n in range(num_files)}


def kill_and_run_again(
    bucket: str, wanted: dict[str, bytes], folder: Path, read_folder: Any, wait_s: float
) -> int:
    """Kill a sync wait_s after its first download started; return the number of files that it completed."""
    folder.mkdir()
    process = start(bucket, folder)
    while not list((folder / "f").glob(".partial-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    time.sleep(wait_s)
    process.kill()
    process.communicate()
    found = {
        path: data for path, data in read_folder(folder / "f").items() if not path.startswith(".partial-")
    }
    assert all(wanted[path] == data for path, data in found.items())
    out, err = start(bucket, folder).communicate(timeout=60)
    assert err == "", err
    assert f"{len(found)} skipped, 0 failed" in out
    assert read_folder(folder / "f") == wanted
    assert not list((folder / "f").glob(".partial-*"))
    return len(found)


def kill_often(make_bucket: Any, read_folder: Any, tmp_path: Path, num_kills: int, files: Any) -> None:
    bucket = make_bucket(files)
    wanted = {f"{bucket}/{key}": data for key, data in files.items()}
    waits = random.Random(num_kills)
    done = [
        kill_and_run_again(bucket, wanted, tmp_path / str(number), read_folder, waits.uniform(0, 0.25))
        for number in range(num_kills)
    ]
    assert any(0 < count < len(files) for count in done), done


def test_a_killed_sync_leaves_no_incomplete_file_and_is_completed_by_the_next(
    make_bucket: Any, read_folder: Any, tmp_path: Path
) -> None:
    kill_often(make_bucket, read_folder, tmp_path, 3, make_files(150))


@pytest.mark.long
def test_twenty_kills_at_random_moments_leave_the_folder_equal_to_the_bucket(
    make_bucket: Any, read_folder: Any, tmp_path: Path
) -> None:
    files = make_files(250) | {"large.jpg": os.urandom(18_000_000)}
    kill_often(make_bucket, read_folder, tmp_path, 20, files)


def test_two_syncs_into_one_folder_do_not_disturb_each_other(
    make_bucket: Any, read_folder: Any, tmp_path: Path
) -> None:
    files = make_files(150)
    bucket = make_bucket(files)
    processes = [start(bucket, tmp_path) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    assert read_folder(tmp_path / "f") == {f"{bucket}/{key}": data for key, data in files.items()}
    assert not list((tmp_path / "f").glob(".partial-*"))
