"""Versions, memory, disks and devices: the right line, with the right state, from made-up facts."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from probed import TORCH

from physiq_ray.doctor import resources
from physiq_ray.doctor.devices import judge_devices, judge_model
from physiq_ray.doctor.finding import State
from physiq_ray.doctor.resources import judge_shared_memory
from physiq_ray.doctor.versions import compare_versions

GIB = 2**30
H100 = {"name": "NVIDIA H100", "memory_bytes": 80 * GIB, "precision": "bfloat16"}
OURS = ["torch>=2.14", "torchvision>=0.29", "ray[data,train]<3,>=2.60", "imagehash>=4; extra == 'audit'"]


def problems_of_versions(**versions: str | None) -> dict[str, tuple[str, str]]:
    installed = {"ray": "2.60.0", "torch": "2.14.1+cu130", "torchvision": "0.29.1", **versions}
    requirements = {"physiq-ray": OURS, "torchvision": ["numpy", "torch (==2.14.1)"]}
    found = compare_versions("3.11.7", ">=3.11", installed, requirements)
    return {one.subject: (one.finding, one.remedy) for one in found if one.state == State.WRONG}


def test_versions_that_fit_are_ok() -> None:
    assert problems_of_versions() == {}


@pytest.mark.parametrize(
    ("versions", "problems"),
    [
        ({"ray": "2.59.1"}, {"ray": ("2.59.1, but physiq-ray requires <3,>=2.60", "'ray<3,>=2.60'")}),
        ({"ray": None}, {"ray": ("not installed, but physiq-ray requires <3,>=2.60", "'ray<3,>=2.60'")}),
        (
            {"torch": "2.15.0"},
            {"torch": ("2.15.0, but torchvision requires ==2.14.1", "'torch>=2.14' 'torchvision>=0.29'")},
        ),
    ],
)
def test_a_version_that_does_not_fit_is_wrong(
    versions: dict[str, str | None], problems: dict[str, tuple[str, str]]
) -> None:
    assert problems_of_versions(**versions) == {
        name: (finding, f"pip install --upgrade {packages}") for name, (finding, packages) in problems.items()
    }


def test_an_old_python_is_wrong() -> None:
    (found,) = compare_versions("3.10.4", ">=3.11", {}, {})
    assert (found.state, found.finding) == (State.WRONG, "3.10.4, but physiq-ray requires >=3.11")


@pytest.mark.parametrize(
    ("free_gib", "available_gib", "state", "store", "size"),
    [
        (12, 32, State.OK, "9.6 GiB", ""),
        (9.5, 30, State.OK, "9.0 GiB", ""),
        (0.0625, 24, State.WARNING, "7.2 GiB", "--shm-size=8g"),  # Docker's default
        (4, 100, State.WARNING, "9.3 GiB", "--shm-size=11g"),  # at most 10 GB without room for more
        (0.0625, 1, State.WARNING, "0.3 GiB", "--shm-size=1g"),
        (100, 200, State.OK, "60.0 GiB", ""),
        (50, 200, State.OK, "47.5 GiB", ""),
    ],
)
def test_shared_memory_that_is_smaller_than_the_object_store_is_a_warning(
    free_gib: float, available_gib: float, state: State, store: str, size: str
) -> None:
    found = judge_shared_memory(int(free_gib * GIB), int(available_gib * GIB))
    assert found.state == state
    assert f"object store takes {store}" in found.finding
    assert size in found.remedy


def test_a_small_shared_memory_is_the_only_problem_of_a_run(
    doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage
    small = SimpleNamespace(total=2**26, used=0, free=2**26)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: small if path == resources.SHARED_MEMORY else real(path)
    )
    report = doctor()
    assert (report.status, report.problems) == (0, {("machine", "/dev/shm"): "warning"})


@pytest.mark.parametrize(("flags", "state"), [((), "warning"), (("--storage", "full"), "wrong")])
def test_a_full_disk_is_wrong_only_if_the_folder_was_asked_for(
    doctor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], state: str
) -> None:
    real = shutil.disk_usage
    full = SimpleNamespace(total=2**40, used=2**40 - 2**29 - 1, free=2**29 + 1)  # enough for output
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full if path == tmp_path else real(path))
    report = doctor(*flags)
    assert report.problems == {("disk", "storage"): state}
    assert report.status == int(state == "wrong")


@pytest.mark.slow
def test_an_output_that_cannot_be_written_is_wrong_with_its_reason(doctor: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    report = doctor("--output", "file/models")
    assert (report.status, report.problems) == (1, {("disk", "output"): "wrong"})
    assert report.of("disk", "output")["finding"] == "output=file/models: cannot be written: Not a directory"


@pytest.mark.slow
def test_little_memory_is_a_warning(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "usable_memory", lambda: GIB)
    report = doctor()
    assert (report.status, report.problems) == (0, {("machine", "memory"): "warning"})
    assert report.of("machine", "memory")["finding"] == "1.0 GiB available of 1.0 GiB"


@pytest.mark.parametrize(
    ("facts", "drivers", "needs_gpu", "state", "finding"),
    [
        ({"torch": TORCH}, [], False, State.OK, "none; CPUs compute in bf16"),
        ({"torch": TORCH}, [], True, State.WRONG, "none; CPUs compute in bf16"),
        (
            {"torch": {**TORCH, "gpus": [H100, H100]}},
            [["NVIDIA H100", "550.54"]],
            True,
            State.OK,
            "2 × NVIDIA H100, 80 GiB, bf16, driver 550.54",
        ),
        (
            {"torch": {**TORCH, "why_none": "The driver is too old"}},
            [["Tesla T4", "450.1"]],
            False,
            State.WARNING,
            "1 × Tesla T4, driver 450.1; torch 2.14.1 has none: The driver is too old",
        ),
        (
            {"broken": {"reason": "operator torchvision::nms does not exist"}},
            [],
            False,
            State.WRONG,
            "torch cannot be imported: operator torchvision::nms does not exist",
        ),
        ({}, [], False, State.WARNING, "torch was not imported in time"),
    ],
)
def test_devices_are_judged_by_what_torch_and_the_driver_say(
    facts: dict[str, Any], drivers: list[list[str]], needs_gpu: bool, state: State, finding: str
) -> None:
    found = judge_devices(facts, drivers, needs_gpu=needs_gpu)
    assert (found.state, found.finding) == (state, finding)


def test_a_model_that_was_not_read_in_time_is_wrong() -> None:
    found = judge_model("m", {"torch": TORCH}, 14.0)
    assert (found.state, found.finding) == (State.WRONG, "did not answer within 14 s")


@pytest.mark.slow
def test_weights_that_cannot_be_downloaded_are_a_warning(
    doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TORCH, "has_weights", False)
    report = doctor()
    assert (report.status, report.problems) == (0, {("weights", "imagenet"): "warning"})
    assert doctor("--weights", "random").problems == {}
