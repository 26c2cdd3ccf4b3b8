"""What the machine gives: CPUs by affinity and quota, folders that can be written or not."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import StorageError
from physiq_ray.labels import ClassMapping
from physiq_ray.machine import check_writable, usable_cpus
from physiq_ray.model import build_model
from physiq_ray.prediction import single

CGROUP = Path("/sys/fs/cgroup/cpu/physiq-test")
CONTAINER_V1 = "9:name=systemd:/\n1:cpu,cpuacct:/docker/3f\n0::/\n"


def cgroup(folder: Path, own: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    """Lay out a cgroup file system; give its root and the file that names the process's own part of it."""
    for name, text in files.items():
        path = folder / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (folder / "own").write_text(own)
    return folder / "fs", folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "270000 100000"}, 2),  # Ray, too, rounds down
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "6400000 100000"}, 16),
        ("0::/\n", {}, 16),
        ("0::/ours/job\n", {"ours/cpu.max": "300000 100000", "ours/job/cpu.max": "max 100000"}, 3),
        ("0::/ours/job\n", {"ours/cpu.max": "300000 100000", "ours/job/cpu.max": "200000 100000"}, 2),
        (CONTAINER_V1, {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        (CONTAINER_V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        (
            CONTAINER_V1,
            {
                "cpu,cpuacct/docker/3f/cpu.cfs_quota_us": "100000",
                "cpu,cpuacct/docker/3f/cpu.cfs_period_us": "50000",
            },
            2,
        ),
    ],
)
def test_a_quota_counts_in_both_versions_of_cgroups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, files: Mapping[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))
    assert usable_cpus(*cgroup(tmp_path, own, files)) == expected


def test_a_process_bound_to_one_cpu_counts_one() -> None:
    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    count = "from physiq_ray.machine import usable_cpus; print(usable_cpus())"
    done = subprocess.run([sys.executable, "-c", bound + count], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_real_quota_counts() -> None:
    try:
        CGROUP.mkdir()
    except OSError:
        pytest.skip("no cgroup of version 1 can be made here")
    try:
        (CGROUP / "cpu.cfs_quota_us").write_text("100000")
        enter = f"open('{CGROUP}/cgroup.procs', 'w').write('0')\n"
        count = "from physiq_ray.machine import usable_cpus; print(usable_cpus())"
        done = subprocess.run(
            [sys.executable, "-c", enter + count], capture_output=True, text=True, check=True
        )
        assert done.stdout == "1\n"
    finally:
        CGROUP.rmdir()


def test_a_prediction_computes_on_no_more_threads_than_it_has_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ModelState(build_model(2).state_dict(), ClassMapping.of_poses([1, 2]), {1: "One", 2: "Two"})
    before = torch.get_num_threads()
    monkeypatch.setattr(single, "usable_cpus", lambda: 1)
    try:
        torch.set_num_threads(2)
        single.Predictor(state)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_folder_that_is_not_there_yet_can_be_written_and_stays_away(tmp_path: Path) -> None:
    check_writable("output", str(tmp_path / "a" / "b"))
    check_writable("output", "s3://bucket/is-not-looked-at")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folder_s_place_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(StorageError) as caught:
        check_writable("output", str(tmp_path / "model" / "deeper"))
    assert str(caught.value) == (
        f"output={tmp_path}/model/deeper: cannot be written: Not a directory; give another folder"
    )
