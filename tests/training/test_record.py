"""The poses' names in a run's record, and what is refused before anything long begins."""

import importlib.util
import io
import json

import pytest
import torch
from rich.console import Console

from physiq_ray.config import Settings, load_settings
from physiq_ray.errors import LabelError, SettingError, WeightsError
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import collect_manifest
from physiq_ray.model import StartingWeights
from physiq_ray.progress import Display
from physiq_ray.training import run as run_module
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.record import RunRecord, describe_head
from physiq_ray.training.run import train

NAMES = {1: "One", 2: "Two"}


class StartedError(Exception):
    """Ray would start now: all checks before it passed."""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Give a function that trains up to the start of Ray with these settings."""
    monkeypatch.chdir(tmp_path)

    def no_ray(**_):
        raise StartedError

    monkeypatch.setattr(run_module, "connect", no_ray)

    def call(*, resume=False, **settings):
        values = load_settings(settings, environment={}, defaults={"weights": "random", "run_name": "run"})
        train(values, Display(Console(file=io.StringIO())), resume=resume)

    return call


@pytest.fixture
def manifest(pose_folders, tmp_path):
    settings = Settings(sources=(str(pose_folders({1: 4, 2: 4})),))
    return collect_manifest(settings, NAMES)


def write_poses(folder, names):
    path = folder / "poses.json"
    path.write_text(json.dumps([{"id": pose_id, "name": name} for pose_id, name in names.items()]))
    return str(path)


def test_a_run_s_record_keeps_its_poses_names(manifest, tmp_path):
    settings = Settings(storage=str(tmp_path / "runs"), weights="random")
    RunFolder(settings.storage, "run").save_record(RunRecord.of_manifest(manifest, NAMES), settings)

    assert RunFolder(settings.storage, "run").load_record().pose_names == {1: "One", 2: "Two"}


def test_a_resumed_run_keeps_the_name_of_a_pose_that_the_poses_file_has_lost(start, manifest, tmp_path):
    settings = Settings(storage=str(tmp_path / "runs"), weights="random")
    RunFolder(settings.storage, "run").save_record(RunRecord.of_manifest(manifest, NAMES), settings)

    with pytest.raises(StartedError):
        start(resume=True)
    with pytest.raises(StartedError):
        start(resume=True, poses=write_poses(tmp_path, {1: "Uno"}))


def test_a_record_without_names_is_checked_against_the_poses_before_the_first_epoch(
    start, manifest, tmp_path
):
    settings = Settings(storage=str(tmp_path / "runs"), weights="random")
    RunFolder(settings.storage, "run").save_record(RunRecord.of_manifest(manifest, NAMES), settings)
    record = tmp_path / "runs" / "run" / "run.json"
    content = json.loads(record.read_text())
    del content["pose_names"]  # as in the records of older versions
    record.write_text(json.dumps(content))

    with pytest.raises(LabelError, match="poses: no name for pose 2, of which the manifest has photos"):
        start(resume=True, poses=write_poses(tmp_path, {1: "One"}))


def test_a_manifest_with_a_pose_that_has_no_name_is_refused_before_ray_starts(start, manifest, tmp_path):
    (tmp_path / "photos.parquet").write_bytes(manifest.to_parquet())

    with pytest.raises(LabelError, match="poses: no name for pose 2, of which the manifest has photos"):
        start(manifest="photos.parquet", poses=write_poses(tmp_path, {1: "One", 7: "Seven"}))
    with pytest.raises(StartedError):
        start(manifest="photos.parquet")  # the package's poses


def test_weights_and_mlflow_are_checked_before_the_listing(start, monkeypatch):
    def no_listing(*_, **__):
        raise AssertionError("listed before it was clear that training can begin")

    monkeypatch.setattr(run_module, "collect_manifest", no_listing)
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        start(sources=["photos"], weights="nowhere.pth")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SettingError, match="MLflow is not installed"):
        start(sources=["photos"], mlflow="http://127.0.0.1:5000")


@pytest.mark.parametrize(
    ("known", "line"),
    [
        ((7, 2), "last layer: 2 of 3 rows kept; new poses: Eleven (11)"),
        ((9,), "last layer: 0 of 3 rows kept; new poses: Eleven (11), Two (2), Seven (7)"),
        ((11, 2, 7, 9), "last layer: 3 of 3 rows kept; no pose is new"),
    ],
)
def test_the_kept_rows_and_the_new_poses_are_named(known, line):
    mapping, names = ClassMapping.of_poses([2, 7, 11]), {2: "Two", 7: "Seven", 11: "Eleven"}
    row = (torch.zeros(2048), torch.zeros(()))

    assert describe_head(StartingWeights({}, dict.fromkeys(known, row)), mapping, names) == line


def test_weights_without_poses_are_named_with_the_reason():
    weights = StartingWeights({}, why_no_head="read class_mapping.json: No such file or directory")

    assert describe_head(weights, ClassMapping.of_poses([1, 2]), NAMES) == (
        "last layer: all 2 rows are new, because no class mapping fits the weights: "
        "read class_mapping.json: No such file or directory"
    )
