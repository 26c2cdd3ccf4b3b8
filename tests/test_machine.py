"""What the machine gives: CPUs by affinity and quota, folders that can be written or not."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import StorageError
from physiq_ray.labels import ClassMapping
from physiq_ray.machine import check_writable, usable_cpus
from physiq_ray.model import build_model
from physiq_ray.prediction import single

MakeDisk = Callable[[int], tuple[Path, Callable[[str], None]]]
RunCli = Callable[..., subprocess.CompletedProcess[str]]
CGROUP = Path("/sys/fs/cgroup/cpu/physiq-test")
ALL = os.sched_getaffinity(0)
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


@pytest.fixture
def read_only(make_disk: MakeDisk, tmp_path: Path) -> Path:
    """Give a folder of a disk that takes no writes."""
    disk, remount = make_disk(100_000)
    remount("ro")
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}]')
    (tmp_path / "labels.json").write_text("[]")
    return disk


@pytest.mark.parametrize(
    ("command", "name", "deeper"),
    [
        ("train --sources photos --storage runs --output {place}", "output", "/a"),
        ("train --sources photos --output model --storage {place}", "storage", "/a"),
        ("audit --sources s3://unreachable --sheet {place}", "--sheet", "/a.png"),
        ("audit --sources s3://unreachable --manifest {place}", "--manifest", "/a.parquet"),
        ("cleanse --sources s3://unreachable --delete --journals {place}", "--journals", ""),
        ("cleanse --sources s3://unreachable --plan {place}", "--plan", "/a.jsonl"),
        ("evaluate --model nowhere --report {place}", "--report", "/a"),
        ("predict photos --model nowhere --output {place}", "--output", "/a"),
        ("demo --folder {place}", "--folder", "/a"),
        ("sync {place} --sources s3://unreachable", "FOLDER", "/a"),
    ],
)
def test_a_read_only_place_is_named_before_any_work(
    run_cli: RunCli, read_only: Path, command: str, name: str, deeper: str
) -> None:
    place = f"{read_only}{deeper}"
    words = command.format(place=place).split()
    if words[0] in ("train", "audit", "cleanse"):
        words += ["--poses", "poses.json", "--labels", "labels.json"]
    started_s = time.monotonic()
    done = run_cli(*words)
    attempt = f"write {place}: " if name == "FOLDER" else ""
    assert done.stderr == (
        f"physiq-ray {words[0]}: {attempt}{name}={place}: cannot be written: Read-only file system; "
        "give another folder\n"
    )
    assert done.returncode == 1
    assert time.monotonic() - started_s < 60  # on a busy machine, too
