import json
from pathlib import Path
from typing import Any

import pytest

from physiq_ray.errors import LabelError
from physiq_ray.labels import load_poses

MANDATORY_POSES = Path(__file__).parents[2] / "mappings" / "poses.json"


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


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


def test_a_pose_id_that_stands_twice_is_refused(poses_file: Path) -> None:
    write(poses_file, [{"id": 7, "name": "A"}, {"id": "7", "name": "B"}])

    with pytest.raises(LabelError, match=r"poses\.json: record 2: pose id 7 stands there twice"):
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


def test_no_poses_at_all_are_refused(poses_file: Path) -> None:
    write(poses_file, [])

    with pytest.raises(LabelError, match=r"poses\.json: no poses in it"):
        load_poses(poses_file)
