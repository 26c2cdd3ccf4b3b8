"""The usable CPUs of a machine by affinity and quota, and whether folders are writable."""

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
from physiq_ray.machine import available_memory, check_writable, usable_cpus, usable_memory
from physiq_ray.model import build_model
from physiq_ray.prediction import network, single

CGROUP = Path("/sys/fs/cgroup/cpu/physiq-test")
CONTAINER_V1 = "9:name=systemd:/\n1:cpu,cpuacct:/docker/3f\n0::/\n"


def write_cgroups(folder: Path, own: str, files: Mapping[str, str]) -> tuple[Path, Path]:
    """Write a cgroup file system; give its root and the file that names the group of the process."""
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
        ("0::/\n", {"cpu.max": "270000 100000"}, 2),  # Ray rounds down too
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
def test_the_quotas_of_both_versions_of_cgroups_limit_the_cpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, files: Mapping[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))
    assert usable_cpus(*write_cgroups(tmp_path, own, files)) == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1073741824"}, 2**30),
        ("0::/\n", {"memory.max": "max"}, 2**33),
        ("0::/\n", {}, 2**33),
        ("0::/ours/job\n", {"ours/memory.max": "2147483648", "ours/job/memory.max": "max"}, 2**31),
        ("4:memory:/docker/3f\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 2**33),
        ("4:memory:/docker/3f\n", {"memory/docker/3f/memory.limit_in_bytes": "1073741824"}, 2**30),
        ("4:cpu:/a\n", {"cpu/a/memory.limit_in_bytes": "1"}, 2**33),
    ],
)
def test_the_limits_of_both_versions_of_cgroups_limit_the_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, files: Mapping[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2**21, "SC_PAGE_SIZE": 2**12}.__getitem__)
    assert usable_memory(*write_cgroups(tmp_path, own, files)) == expected


def test_the_available_memory_is_the_system_s_own_figure(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  16 kB\nMemAvailable:    8 kB\nHugePages: 0\n")
    assert available_memory(tmp_path / "meminfo") == 8192
    assert available_memory(tmp_path / "missing") is None


def test_a_process_bound_to_one_cpu_has_one_usable_cpu() -> None:
    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    count = "from physiq_ray.machine import usable_cpus; print(usable_cpus())"
    done = subprocess.run([sys.executable, "-c", bound + count], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_real_quota_limits_the_cpus() -> None:
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


@pytest.mark.slow
def test_a_prediction_uses_at_most_as_many_threads_as_usable_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ModelState(build_model(2).state_dict(), ClassMapping.of_poses([1, 2]), {1: "One", 2: "Two"})
    before = torch.get_num_threads()
    monkeypatch.setattr(network, "usable_cpus", lambda: 1)
    try:
        torch.set_num_threads(2)
        single.Predictor(state)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_missing_folder_is_writable_and_is_not_created(tmp_path: Path) -> None:
    check_writable("output", str(tmp_path / "a" / "b"))
    check_writable("output", "s3://bucket/is-not-looked-at")
    assert list(tmp_path.iterdir()) == []


def test_a_file_instead_of_the_folder_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(StorageError) as caught:
        check_writable("output", str(tmp_path / "model" / "deeper"))
    assert str(caught.value) == (
        f"output={tmp_path}/model/deeper: cannot be written: Not a directory; give another folder"
    )
