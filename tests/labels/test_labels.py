import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from physiq_ray.errors import LabelError
from physiq_ray.labels import Labels, load_labels, load_poses

POSES = {1: "Front Lat Spread", 7: "Back Lat Spread"}


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
    return load_labels([write(path, list(records))], POSES)


def test_a_missing_file_is_named_with_the_setting_that_gives_it(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"none\.json: no such poses file; .*--poses or PHYSIQ_POSES"):
        load_poses(tmp_path / "none.json")
    with pytest.raises(LabelError, match=r"none\.json: no such labels file; .*--labels or PHYSIQ_LABELS"):
        load_labels([tmp_path / "none.json"], POSES)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="the labels file cannot be read: Is a directory"):
        load_labels([tmp_path], POSES)


@pytest.mark.parametrize("content", [b"", b"[", b"poses: []", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_refused(labels_file: Path, content: bytes) -> None:
    labels_file.write_bytes(content)

    with pytest.raises(LabelError, match=r"db_labels\.json: the labels file is not JSON: "):
        load_labels([labels_file], POSES)


def test_json_that_is_no_list_is_refused(labels_file: Path) -> None:
    write(labels_file, {"labels": []})

    with pytest.raises(LabelError, match=r"db_labels\.json: expected a JSON list of labels, got a dict"):
        load_labels([labels_file], POSES)


def test_a_bucket_column_names_the_bucket_itself_and_counts_before_a_source(labels_file: Path) -> None:
    labels = labels_of(
        labels_file,
        {"poseId": 7, "key": "a.jpg", "bucket": "checkin-poses"},
        {"poseId": 7, "key": "b.jpg", "bucket": "checkin-poses", "source": "checkins"},
        {"poseId": 7, "key": "c.jpg", "bucket": "Not A Bucket"},
        {"poseId": 7, "key": "d.jpg", "bucket": None},
        {"poseId": 7, "key": "e.jpg", "source": "checkin-poses"},
    )

    assert labels.table["source"].to_pylist() == [
        *("s3://checkin-poses", "s3://checkin-poses", "Not A Bucket", None, "checkin-poses")
    ]


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
    none = {"group": None, "split": None}
    assert labels.table.to_pylist() == [
        {"name": "1757471824350-IMG1813.jpeg", "source": "checkins", "pose_id": 7, **none},
        {"name": "a.jpg", "source": None, "pose_id": 1, **none},
        {"name": "b.jpg", "source": None, "pose_id": 7, **none},
    ]
    assert labels.malformed == labels.unknown_poses == ()


def test_names_are_kept_exactly_as_they_are_written(labels_file: Path) -> None:
    names = ["2024/spring/a b.jpg", " a%20b.JPG ", unicodedata.normalize("NFD", "séance.jpg"), "séance.jpg"]

    labels = labels_of(labels_file, *({"poseId": 7, "s3Filename": name} for name in names))

    assert labels.table["name"].to_pylist() == [
        "2024/spring/a b.jpg",
        " a%20b.JPG ",
        "se\u0301ance.jpg",
        "s\u00e9ance.jpg",
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"poseId": 7},
        {"s3Filename": "a.jpg"},
        {"poseId": True, "s3Filename": "a.jpg"},
        {"poseId": -7, "s3Filename": "a.jpg"},
        {"poseId": 7.5, "s3Filename": "a.jpg"},
        {"poseId": 2**31, "s3Filename": "a.jpg"},
        {"poseId": float("inf"), "s3Filename": "a.jpg"},
        {"poseId": "7,0", "s3Filename": "a.jpg"},
        {"poseId": "null", "s3Filename": "a.jpg"},
        {"poseId": "seven", "s3Filename": "a.jpg"},
        {"poseId": "٧", "s3Filename": "a.jpg"},
        {"poseId": "9" * 5000, "s3Filename": "a.jpg"},
        {"poseId": [7], "s3Filename": "a.jpg"},
        {"poseId": 7, "s3Filename": None},
        {"poseId": 7, "s3Filename": ""},
        {"poseId": 7, "s3Filename": " \t"},
        {"poseId": 7, "s3Filename": "folder/"},
        {"poseId": 7, "s3Filename": 5},
        {"poseId": 7, "s3Filename": "\ud800.jpg"},
        {"poseId": 7, "s3Filename": "a.jpg", "source": 3},
        {"poseId": 7, "s3Filename": "a.jpg", "source": "\ud800"},
        {"poseId": 7, "s3Filename": "a.jpg", "group": ["anna"]},
        {"poseId": 7, "s3Filename": "a.jpg", "group": True},
        {"poseId": 7, "s3Filename": "a.jpg", "split": "holdout"},
        {"poseId": 7, "s3Filename": "a.jpg", "split": 1},
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
    (sentence,) = labels.malformed
    assert sentence.startswith(f"{labels_file}: record 2: ")
    assert ": expected " in sentence
    assert labels.unknown_poses == ()


def test_a_label_of_an_unknown_pose_is_named(labels_file: Path) -> None:
    labels = labels_of(
        labels_file, {"poseId": 7, "s3Filename": "a.jpg"}, {"poseId": 99, "s3Filename": "x/b.jpg"}
    )

    assert labels.table["name"].to_pylist() == ["a.jpg"]
    assert labels.unknown_poses == (
        f"{labels_file}: record 2: 'x/b.jpg': pose 99 is not among the known poses",
    )


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
