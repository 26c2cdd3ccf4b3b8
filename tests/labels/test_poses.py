import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from label_files import write

from physiq_ray import labels
from physiq_ray.config import load_settings
from physiq_ray.errors import LabelError
from physiq_ray.labels import load_configured_poses, load_poses

MANDATORY_POSES = Path(__file__).parents[2] / "mappings" / "poses.json"


@pytest.fixture
def poses_file(tmp_path: Path) -> Path:
    return tmp_path / "poses.json"


def test_the_mandatory_poses_are_eight() -> None:
    assert load_poses(MANDATORY_POSES) == {
        1: "Front Lat Spread",
        2: "Front Double Biceps",
        5: "Back Double Biceps",
        6: "Most Muscular",
        7: "Back Lat Spread",
        11: "Abs & Thighs",
        14: "Side Chest",
        16: "Side Triceps",
    }


def test_poses_keep_their_accents_and_may_quote_their_ids(poses_file: Path) -> None:
    write(poses_file, '[{"id": "21", "name": " Pose de côté "}, {"id": 0, "name": "Rest", "more": 1}]')

    assert load_poses(poses_file) == {21: "Pose de côté", 0: "Rest"}


def test_a_repeated_pose_id_is_refused(poses_file: Path) -> None:
    write(poses_file, [{"id": 7, "name": "A"}, {"id": "7", "name": "B"}])

    with pytest.raises(LabelError, match=r"poses\.json: record 2: pose id 7 occurs twice"):
        load_poses(poses_file)


@pytest.mark.parametrize(
    "record",
    [
        {"id": 7},
        {"name": "Back Lat Spread"},
        {"id": 7, "name": " "},
        {"id": 7, "name": 7},
        {"id": -7, "name": "A"},
        {"id": True, "name": "A"},
        {"id": 7.5, "name": "A"},
        {"id": 2**31, "name": "A"},
        {"id": "seven", "name": "A"},
        {"id": "", "name": "A"},
        {"id": "9" * 5000, "name": "A"},
        {"id": 7, "name": "\ud800"},
        "Back Lat Spread",
        None,
        [7, "Back Lat Spread"],
    ],
)
def test_a_malformed_pose_is_refused_by_its_number(poses_file: Path, record: Any) -> None:
    write(poses_file, [{"id": 1, "name": "A"}, record])

    with pytest.raises(LabelError, match=r'poses\.json: record 2: expected {"id": 7, "name": ".*got '):
        load_poses(poses_file)


def test_a_poses_file_without_poses_is_refused(poses_file: Path) -> None:
    write(poses_file, [])

    with pytest.raises(LabelError, match=r"poses\.json: it lists no pose"):
        load_poses(poses_file)


def test_the_package_contains_the_poses_of_the_repository(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)  # this folder has no mappings/poses.json
    shipped = Path(labels.__file__).with_name("poses.json")

    assert shipped.read_bytes() == MANDATORY_POSES.read_bytes()
    assert load_configured_poses(load_settings({}, environment={})) == load_poses(MANDATORY_POSES)


def test_poses_of_the_working_directory_take_precedence_over_those_of_the_package(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mappings").mkdir()
    write(tmp_path / "mappings" / "poses.json", [{"id": 21, "name": "Own"}])

    assert load_configured_poses(load_settings({}, environment={})) == {21: "Own"}


@pytest.mark.parametrize("address", ["nowhere.json", "mappings/poses.json"])
def test_a_poses_file_named_in_the_settings_must_exist(
    tmp_path: Path, monkeypatch: Any, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabelError, match=rf"{address}: no such poses file"):
        load_configured_poses(load_settings({"poses": address}, environment={}))


@pytest.mark.slow
def test_the_installed_package_contains_the_poses(tmp_path: Path) -> None:
    # The wheel contains only the package's folder, without the rest of the repository.
    package = Path(labels.__file__).parents[1]
    shutil.copytree(package, tmp_path / "site" / "physiq_ray", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "from physiq_ray import config, labels; "
        "print(labels.__file__, labels.load_configured_poses(config.load_settings({}, environment={}))[14])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{tmp_path}/site/physiq_ray/labels/__init__.py Side Chest"
