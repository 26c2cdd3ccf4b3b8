import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.errors import LabelError
from physiq_ray.labels import ClassMapping, Labels, load_labels, load_poses

POSES = {1: "Front Lat Spread", 7: "Back Lat Spread"}
MANDATORY_POSES = Path(__file__).parents[1] / "mappings" / "poses.json"


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.fixture
def poses_file(tmp_path: Path) -> Path:
    return tmp_path / "poses.json"


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    return tmp_path / "db_labels.json"


def labels_of(path: Path, *records: Any) -> Labels:
    return load_labels(write(path, list(records)), POSES)


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


def test_a_missing_file_is_named_with_the_setting_that_gives_it(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"none\.json: no such poses file; .*--poses or PHYSIQ_POSES"):
        load_poses(tmp_path / "none.json")
    with pytest.raises(LabelError, match=r"none\.json: no such labels file; .*--labels or PHYSIQ_LABELS"):
        load_labels(tmp_path / "none.json", POSES)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="the labels file cannot be read: Is a directory"):
        load_labels(tmp_path, POSES)


@pytest.mark.parametrize("content", [b"", b"[", b"poses: []", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_refused(labels_file: Path, content: bytes) -> None:
    labels_file.write_bytes(content)

    with pytest.raises(LabelError, match=r"db_labels\.json: the labels file is not JSON: "):
        load_labels(labels_file, POSES)


def test_json_that_is_no_list_is_refused(labels_file: Path) -> None:
    write(labels_file, {"labels": []})

    with pytest.raises(LabelError, match=r"db_labels\.json: expected a JSON list of labels, got a dict"):
        load_labels(labels_file, POSES)


def test_labels_become_a_table(labels_file: Path) -> None:
    labels = labels_of(
        labels_file,
        {"source": "checkins", "poseId": 7, "s3Filename": "1757471824350-IMG1813.jpeg"},
        {"poseId": 1, "s3Filename": "a.jpg", "comment": "of no matter"},
        {"source": None, "poseId": "7", "s3Filename": "b.jpg"},
    )

    assert labels.table.schema.names == ["name", "source", "pose_id", "group", "split"]
    assert [str(kind) for kind in labels.table.schema.types] == [
        "string",
        "string",
        "int32",
        "string",
        "string",
    ]
    assert labels.table.drop_columns(["group", "split"]).to_pylist() == [
        {"name": "1757471824350-IMG1813.jpeg", "source": "checkins", "pose_id": 7},
        {"name": "a.jpg", "source": None, "pose_id": 1},
        {"name": "b.jpg", "source": None, "pose_id": 7},
    ]
    assert labels.malformed == labels.unknown_poses == ()


def test_a_name_is_kept_as_it_is_written(labels_file: Path) -> None:
    names = ["2024/spring/a b.jpg", unicodedata.normalize("NFD", "séance.jpg"), " a%20b.jpg"]
    labels = labels_of(labels_file, *({"poseId": 7, "s3Filename": name} for name in names))

    assert labels.table["name"].to_pylist() == names


@pytest.mark.parametrize(
    "record",
    [
        {"poseId": 7},
        {"s3Filename": "a.jpg"},
        {"poseId": True, "s3Filename": "a.jpg"},
        {"poseId": 7.0, "s3Filename": "a.jpg"},
        {"poseId": -7, "s3Filename": "a.jpg"},
        {"poseId": 2**31, "s3Filename": "a.jpg"},
        {"poseId": "seven", "s3Filename": "a.jpg"},
        {"poseId": "7 ", "s3Filename": "a.jpg"},
        {"poseId": "٧", "s3Filename": "a.jpg"},
        {"poseId": "9" * 5000, "s3Filename": "a.jpg"},
        {"poseId": [7], "s3Filename": "a.jpg"},
        {"poseId": 7, "s3Filename": None},
        {"poseId": 7, "s3Filename": ""},
        {"poseId": 7, "s3Filename": "folder/"},
        {"poseId": 7, "s3Filename": 5},
        {"poseId": 7, "s3Filename": "\ud800.jpg"},
        {"poseId": 7, "s3Filename": "a.jpg", "source": 3},
        {"poseId": 7, "s3Filename": "a.jpg", "source": "\ud800"},
        {},
        [],
        None,
        "a.jpg",
        7,
    ],
)
def test_a_malformed_label_is_kept_by_its_number_and_the_others_go_on(labels_file: Path, record: Any) -> None:
    good = {"poseId": 7, "s3Filename": "good.jpg"}

    labels = labels_of(labels_file, good, record, good)

    assert labels.table["name"].to_pylist() == ["good.jpg", "good.jpg"]
    assert labels.malformed == (
        f'record 2: expected {{"poseId": 7, "s3Filename": "…"}}, got {json.dumps(record)[:200]}',
    )
    assert labels.unknown_poses == ()


def test_a_label_of_an_unknown_pose_is_named(labels_file: Path) -> None:
    labels = labels_of(
        labels_file, {"poseId": 7, "s3Filename": "a.jpg"}, {"poseId": 99, "s3Filename": "x/b.jpg"}
    )

    assert labels.table["name"].to_pylist() == ["a.jpg"]
    assert labels.unknown_poses == ("record 2: x/b.jpg: pose 99 is not among the known poses",)


def test_photos_that_only_unusable_records_name_are_kept_by_name_and_source(labels_file: Path) -> None:
    labels = labels_of(
        labels_file,
        {"poseId": 7, "s3Filename": "usable.jpg"},
        {"poseId": 99, "s3Filename": "x/unknown.jpg", "source": "checkins"},
        {"poseId": "seven", "s3Filename": "x/malformed.jpg", "source": "checkins"},
        {"poseId": 7, "s3Filename": "source.jpg", "source": 3},
        {"s3Filename": "no pose.jpg"},
        {"poseId": 7, "s3Filename": 5},
        "no record",
    )

    assert labels.unusable.to_pylist() == [
        {"name": "x/unknown.jpg", "source": "checkins"},
        {"name": "x/malformed.jpg", "source": "checkins"},
        {"name": "source.jpg", "source": None},
        {"name": "no pose.jpg", "source": None},
    ]


def test_an_empty_label_file_gives_an_empty_table(labels_file: Path) -> None:
    assert labels_of(labels_file).table.num_rows == 0


def test_the_class_mapping_counts_in_string_order_as_image_folder_would() -> None:
    mapping = ClassMapping.of_poses([16, 14, 11, 7, 6, 5, 2, 1, 1])

    assert mapping.to_dict() == {
        "class_to_idx": {"1": 0, "11": 1, "14": 2, "16": 3, "2": 4, "5": 5, "6": 6, "7": 7},
        "idx_to_class": {"0": "1", "1": "11", "2": "14", "3": "16", "4": "2", "5": "5", "6": "6", "7": "7"},
        "classes": ["1", "11", "14", "16", "2", "5", "6", "7"],
    }
    assert mapping.pose_ids == (1, 11, 14, 16, 2, 5, 6, 7)


def test_the_class_mapping_numbers_folders_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision.datasets.folder import find_classes

    pose_ids = [1, 2, 5, 6, 7, 10, 11, 14, 16, 100, 21]
    for pose_id in pose_ids:
        (tmp_path / str(pose_id)).mkdir()

    assert find_classes(tmp_path)[1] == ClassMapping.of_poses(pose_ids).class_to_idx


@given(st.sets(st.integers(0, 2**31 - 1), min_size=1))
def test_a_class_mapping_survives_its_file(pose_ids: set[int]) -> None:
    mapping = ClassMapping.of_poses(pose_ids)

    assert ClassMapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping


def test_a_mapping_of_the_two_dictionaries_only_is_read() -> None:
    value = {"class_to_idx": {"2": 1, "11": 0}, "idx_to_class": {"0": "11", "1": "2"}}

    assert ClassMapping.from_dict(value).classes == ("11", "2")


def test_a_mapping_with_numbers_for_ids_is_read() -> None:
    value = {"class_to_idx": {11: 0, 2: 1}, "idx_to_class": {0: 11, 1: 2}, "classes": [11, 2]}

    assert ClassMapping.from_dict(value).classes == ("11", "2")


@pytest.mark.parametrize(
    "changed",
    [
        {"class_to_idx": {"1": 1, "11": 0}},
        {"class_to_idx": {"1": 0}},
        {"class_to_idx": {"1": 0, "11": 2}},
        {"class_to_idx": {"1": 0, "11": "one"}},
        {"class_to_idx": {"1": 0, "11": float("inf")}},
        {"class_to_idx": None},
        {"idx_to_class": {"0": "11", "1": "1"}},
        {"idx_to_class": {"0": "1"}},
        {"idx_to_class": []},
        {"classes": ["11", "1"]},
        {"classes": ["1", "11", "11"]},
        {"classes": []},
        {"classes": 2},
        {"classes": ["1", "eleven"], "class_to_idx": {"1": 0, "eleven": 1}},
        {"classes": ["1", "9" * 5000], "class_to_idx": {"1": 0, "9" * 5000: 1}},
    ],
)
def test_a_mapping_that_contradicts_itself_is_refused(changed: dict[str, Any]) -> None:
    value = {"class_to_idx": {"1": 0, "11": 1}, "idx_to_class": {"0": "1", "1": "11"}, "classes": ["1", "11"]}

    with pytest.raises(LabelError, match=r'class mapping: expected {"class_to_idx": .* in agreement, got {'):
        ClassMapping.from_dict({**value, **changed})


@pytest.mark.parametrize("value", [None, [], "1", {}, {"classes": ["1"]}, {"idx_to_class": {"0": "1"}}])
def test_what_is_no_mapping_is_refused(value: Any) -> None:
    with pytest.raises(LabelError, match="class mapping: expected"):
        ClassMapping.from_dict(value)
