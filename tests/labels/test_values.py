import unicodedata
from pathlib import Path

import pytest
from label_files import labels_of, load


@pytest.mark.parametrize("spelling", ["7", "7.0", '"7"', '"07"', '" 7 "', '"7.0"', '"7.00"'])
def test_a_pose_id_has_one_meaning_in_all_its_spellings(tmp_path: Path, spelling: str) -> None:
    lines = f'{{"poseId": {spelling}, "s3Filename": "a.jpg"}}\n'.encode()
    cells = f"poseId,s3Filename\n{spelling},a.jpg\n".encode()

    assert load(tmp_path / "labels.jsonl", lines).table["pose_id"].to_pylist() == [7]
    assert load(tmp_path / "labels.csv", cells).table["pose_id"].to_pylist() == [7]


@pytest.mark.parametrize("spelling", ["null", "NaN", '""', '" "'])
def test_a_null_pose_is_a_label_of_no_known_pose(tmp_path: Path, spelling: str) -> None:
    labels = load(tmp_path / "labels.json", f'[{{"poseId": {spelling}, "s3Filename": "a.jpg"}}]'.encode())

    assert labels.table["pose_id"].to_pylist() == [None]
    assert labels.malformed == ()


def test_names_are_kept_exactly_as_written(labels_file: Path) -> None:
    names = ["2024/spring/a b.jpg", " a%20b.JPG ", unicodedata.normalize("NFD", "séance.jpg"), "séance.jpg"]

    labels = labels_of(labels_file, *({"poseId": 7, "s3Filename": name} for name in names))

    assert labels.table["name"].to_pylist() == [
        "2024/spring/a b.jpg",
        " a%20b.JPG ",
        "se\u0301ance.jpg",
        "s\u00e9ance.jpg",
    ]
