import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from physiq_ray.sync.partial import MAX_AGE_S, name_machine, partial_folder, remove_abandoned


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
