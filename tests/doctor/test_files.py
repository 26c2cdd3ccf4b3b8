"""Labels, poses, weights and models are read for real; a wrong one is the only wrong line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.constants import COMPLETE_FILE
from physiq_ray.doctor import checks, devices
from physiq_ray.doctor.outside import ask_probe
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model

pytestmark = pytest.mark.slow

LABELS = [{"key": "a.jpg", "poseId": 7}, {"key": "b.jpg", "poseId": 7}, {"key": "c.jpg", "poseId": 5}]
POSES = [{"id": 7, "name": "Back Lat Spread"}, {"id": 5, "name": "Back Double Biceps"}]


def test_labels_and_poses_are_counted(doctor: Any, make_bucket: Any, tmp_path: Path) -> None:
    bucket = make_bucket({"labels.json": json.dumps(LABELS).encode()})
    (tmp_path / "poses.json").write_text(json.dumps(POSES))
    report = doctor("--labels", f"s3://{bucket}/labels.json", "--poses", "poses.json")
    assert (report.status, report.problems) == (0, {})
    assert report.of("poses", "poses.json")["finding"] == "2 poses"
    assert report.of("labels", f"s3://{bucket}/labels.json")["finding"] == "3 labels of 2 poses"


def test_odd_labels_are_a_warning(doctor: Any, tmp_path: Path) -> None:
    odd = [*LABELS, {"key": "d.jpg", "poseId": 99}, {"poseId": 7}]
    (tmp_path / "labels.json").write_text(json.dumps(odd))
    report = doctor("--labels", "labels.json")
    assert (report.status, report.problems) == (0, {("labels", "labels.json"): "warning"})
    assert report.of("labels", "labels.json")["finding"] == (
        "3 labels of 2 poses; 1 with errors, 1 with an unknown pose"
    )
    assert report.of("poses", "built in")["finding"] == "8 poses"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (None, "labels.json: no such labels file"),
        (
            "[{]",
            "labels.json: the labels file is not JSON: Expecting property name",
        ),
    ],
)
def test_labels_that_cannot_be_read_are_wrong(
    doctor: Any, tmp_path: Path, text: str | None, finding: str
) -> None:
    if text is not None:
        (tmp_path / "labels.json").write_text(text)
    report = doctor("--labels", "labels.json")
    assert (report.status, report.problems) == (1, {("labels", "labels.json"): "wrong"})
    record = report.of("labels", "labels.json")
    assert record["finding"].startswith(finding)
    assert record["remedy"]


def test_wrong_poses_are_wrong_once(doctor: Any, make_bucket: Any, tmp_path: Path) -> None:
    bucket = make_bucket({"a.txt": b"1"})
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    poses = f"s3://{bucket}/poses.json"
    report = doctor("--labels", "labels.json", "--poses", poses)
    assert report.status == 1
    assert report.problems == {("poses", poses): "wrong", ("labels", "labels.json"): "warning"}
    assert report.of("poses", poses)["finding"] == "read: NoSuchKey"


def test_starting_weights_and_a_manifest_that_do_not_exist_are_wrong(doctor: Any, make_bucket: Any) -> None:
    bucket = make_bucket({"manifest.parquet": b"1"})
    report = doctor("--weights", "my.pth", "--manifest", f"s3://{bucket}/manifest.parquet")
    assert (report.status, report.problems) == (1, {("weights", "my.pth"): "wrong"})
    assert report.of("weights", "my.pth")["remedy"] == "correct it, or give another weights"


@pytest.fixture
def model(tmp_path: Path, make_weights: Any) -> Path:
    names = {7: "Back Lat Spread", 5: "Back Double Biceps"}
    weights = build_model(2).state_dict() | {"fc.bias": torch.zeros(2)}
    save_model_files(
        ModelState(weights, ClassMapping.of_poses(names), names, image_size=64), str(tmp_path / "model")
    )
    return tmp_path / "model"


def test_a_real_process_reads_the_model_and_says_what_torch_has(
    doctor: Any, model: Path, make_bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket({"poses/" + COMPLETE_FILE: (model / COMPLETE_FILE).read_bytes()})
    (model / "torch.py").write_text("raise SystemExit('a module of the working folder was imported')")
    monkeypatch.setattr(devices, "ask_probe", ask_probe)
    monkeypatch.chdir(model)
    monkeypatch.setattr(checks, "DEADLINE_S", 90.0)  # the machine of the tests may be busy
    report = doctor("--model", f"s3://{bucket}/poses", "--weights", "random", limit_s=95)
    assert (report.status, report.problems) == (0, {})
    finding = report.of("model", f"s3://{bucket}/poses")["finding"]
    assert finding.startswith("version ")
    assert finding.endswith(", 2 poses, 64 px")


@pytest.mark.parametrize("on_s3", [False, True])
def test_a_model_that_does_not_exist_is_wrong_once(
    doctor: Any, make_bucket: Any, monkeypatch: pytest.MonkeyPatch, on_s3: bool
) -> None:
    address = f"s3://{make_bucket({})}" if on_s3 else "no-model"
    error = f"model read {address}: NoSuchKey; train one first"
    facts = {"torch": devices_facts(), "model": {"error": error}}
    monkeypatch.setattr(devices, "ask_probe", lambda *_, timeout_s: facts)
    report = doctor("--model", address)
    assert report.status == 1
    assert list(report.problems.values()) == ["wrong"]
    assert [check for check, _ in report.problems] == ["model"]


def devices_facts() -> dict[str, object]:
    from probed import TORCH

    return TORCH
