"""Kills at any moment, and two syncs at once: no half file ever, and in the end all that the bucket has."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from physiq_ray.sync.partial import MAX_AGE_S, name_machine, partial_folder, remove_abandoned

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


def kill_and_go_on(bucket: str, wanted: dict[str, bytes], folder: Path, contents: Any, wait_s: float) -> int:
    """Kill a sync wait_s after its first download began; tell how many files it had done."""
    folder.mkdir()
    process = start(bucket, folder)
    while not list((folder / "f").glob(".partial-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    time.sleep(wait_s)
    process.kill()
    process.communicate()
    found = {path: data for path, data in contents(folder / "f").items() if not path.startswith(".partial-")}
    assert all(wanted[path] == data for path, data in found.items())
    out, err = start(bucket, folder).communicate(timeout=60)
    assert err == "", err
    assert f"{len(found)} skipped, 0 failed" in out
    assert contents(folder / "f") == wanted
    assert not list((folder / "f").glob(".partial-*"))
    return len(found)


def kill_often(make_bucket: Any, contents: Any, tmp_path: Path, num_kills: int, files: Any) -> None:
    bucket = make_bucket(files)
    wanted = {f"{bucket}/{key}": data for key, data in files.items()}
    waits = random.Random(num_kills)
    done = [
        kill_and_go_on(bucket, wanted, tmp_path / str(number), contents, waits.uniform(0, 0.25))
        for number in range(num_kills)
    ]
    assert any(0 < count < len(files) for count in done), done


def test_a_killed_sync_leaves_no_half_file_and_goes_on(
    make_bucket: Any, contents: Any, tmp_path: Path
) -> None:
    kill_often(make_bucket, contents, tmp_path, 3, make_files(150))


@pytest.mark.long
def test_twenty_kills_at_random_moments_leave_the_folder_equal_to_the_bucket(
    make_bucket: Any, contents: Any, tmp_path: Path
) -> None:
    files = make_files(250) | {"large.jpg": os.urandom(18_000_000)}
    kill_often(make_bucket, contents, tmp_path, 20, files)


def test_two_syncs_into_one_folder_do_no_harm(make_bucket: Any, contents: Any, tmp_path: Path) -> None:
    files = make_files(150)
    bucket = make_bucket(files)
    processes = [start(bucket, tmp_path) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
    assert contents(tmp_path / "f") == {f"{bucket}/{key}": data for key, data in files.items()}
    assert not list((tmp_path / "f").glob(".partial-*"))


def leave(folder: Path, machine: str, process: int) -> Path:
    """Leave a temporary folder with half a photo, as a killed sync does."""
    path = folder / f".partial-{machine}-{process}-abcd_123"
    path.mkdir(parents=True)
    (path / "0").write_bytes(b"half")
    return path


@pytest.fixture
def ended() -> int:
    """Give the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_living_process_has_begun_is_not_removed(tmp_path: Path) -> None:
    with partial_folder(tmp_path) as first:
        (first / "0").write_bytes(b"half")
        with partial_folder(tmp_path) as second:
            assert remove_abandoned(tmp_path, now_s=time.time() + 2 * MAX_AGE_S) == 0
            assert first != second
        assert (first / "0").read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_has_begun_is_removed_when_it_has_ended(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from physiq_ray.sync.partial import partial_folder\n"
        "with partial_folder(Path(sys.argv[1])) as path:\n"
        "    (path / '0').write_bytes(b'half'); print(path, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    begun = Path(process.stdout.readline().strip())
    assert remove_abandoned(tmp_path, now_s=time.time() + 2 * MAX_AGE_S) == 0
    assert (begun / "0").read_bytes() == b"half"
    process.kill()
    process.communicate()
    assert remove_abandoned(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_of_another_machine_a_day_without_a_change_decides(tmp_path: Path, ended: int) -> None:
    here = leave(tmp_path, name_machine(), ended)
    there = leave(tmp_path, "01234567", ended)
    os.utime(there, (0, 0))  # the file in it changed just now
    assert remove_abandoned(tmp_path, now_s=time.time() + MAX_AGE_S - 60) == 1
    assert not here.exists()
    assert remove_abandoned(tmp_path, now_s=time.time() + MAX_AGE_S + 60) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_partial_files_is_not_followed_and_nothing_behind_it_removed(
    tmp_path: Path, ended: int
) -> None:
    folder, outside = tmp_path / "f", tmp_path / "outside"
    kept = leave(outside, name_machine(), ended)
    folder.mkdir()
    (folder / kept.name).symlink_to(kept)
    (folder / ".partial").symlink_to(outside)
    assert remove_abandoned(folder, now_s=time.time() + 2 * MAX_AGE_S) == 0
    assert (kept / "0").read_bytes() == b"half"
    with partial_folder(folder) as partial:
        assert partial.parent == folder
    assert [path.name for path in outside.iterdir()] == [kept.name]


def test_what_no_sync_has_made_is_left_alone(tmp_path: Path) -> None:
    names = (".partial-mine", ".partial", "bucket", f".partial-{name_machine()}-x-abcdefgh")
    for name in names:
        (tmp_path / name).mkdir()
    assert remove_abandoned(tmp_path, now_s=time.time() + 2 * MAX_AGE_S) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(names)
