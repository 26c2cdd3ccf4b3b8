import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from physiq_ray.syncing.partial import MAX_AGE_S, name_machine, partial_folder, remove_abandoned


def leave_partial(folder: Path, machine: str, process: int) -> Path:
    """Create a temporary folder with an incomplete photo, as a killed sync leaves it."""
    path = folder / f".partial-{machine}-{process}-abcd_123"
    path.mkdir(parents=True)
    (path / "0").write_bytes(b"half")
    return path


@pytest.fixture
def ended_process() -> int:
    """Give the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_partial_files_of_a_running_process_are_not_removed(tmp_path: Path) -> None:
    with partial_folder(tmp_path) as first:
        (first / "0").write_bytes(b"half")
        with partial_folder(tmp_path) as second:
            assert remove_abandoned(tmp_path, now_s=time.time() + 2 * MAX_AGE_S) == 0
            assert first != second
        assert (first / "0").read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_partial_files_of_another_process_are_removed_after_it_has_ended(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from physiq_ray.syncing.partial import partial_folder\n"
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


def test_partial_files_of_another_machine_are_removed_after_a_day_without_a_change(
    tmp_path: Path, ended_process: int
) -> None:
    here = leave_partial(tmp_path, name_machine(), ended_process)
    there = leave_partial(tmp_path, "01234567", ended_process)
    os.utime(there, (0, 0))  # the file in it changed just now
    assert remove_abandoned(tmp_path, now_s=time.time() + MAX_AGE_S - 60) == 1
    assert not here.exists()
    assert remove_abandoned(tmp_path, now_s=time.time() + MAX_AGE_S + 60) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_place_of_partial_files_is_not_followed_and_its_target_is_not_removed(
    tmp_path: Path, ended_process: int
) -> None:
    folder, outside = tmp_path / "f", tmp_path / "outside"
    kept = leave_partial(outside, name_machine(), ended_process)
    folder.mkdir()
    (folder / kept.name).symlink_to(kept)
    (folder / ".partial").symlink_to(outside)
    assert remove_abandoned(folder, now_s=time.time() + 2 * MAX_AGE_S) == 0
    assert (kept / "0").read_bytes() == b"half"
    with partial_folder(folder) as partial:
        assert partial.parent == folder
    assert [path.name for path in outside.iterdir()] == [kept.name]


def test_files_that_no_sync_has_made_are_not_removed(tmp_path: Path) -> None:
    names = (".partial-mine", ".partial", "bucket", f".partial-{name_machine()}-x-abcdefgh")
    for name in names:
        (tmp_path / name).mkdir()
    assert remove_abandoned(tmp_path, now_s=time.time() + 2 * MAX_AGE_S) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(names)
