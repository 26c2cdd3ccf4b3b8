"""Label files in each form, and damaged label files."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_files import FORMS, POSES, RECORDS, ROWS, as_csv, load, write

from physiq_ray.errors import LabelError
from physiq_ray.labels import load_labels, load_poses


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_whatever_the_name_of_the_file(tmp_path: Path, form: str) -> None:
    content = FORMS[form](RECORDS)

    assert load(tmp_path / f"labels.{form}", content).table.to_pylist() == ROWS
    assert load(tmp_path / "labels", content).table.to_pylist() == ROWS


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_does_not_matter(tmp_path: Path, form: str, encoding: str) -> None:
    content = FORMS[form](RECORDS).decode().encode(encoding)

    assert load(tmp_path / f"labels.{form}", content).table.to_pylist() == ROWS


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_cells_may_be_separated_by_semicolons_or_tabs_as_in_excel(tmp_path: Path, delimiter: str) -> None:
    assert load(tmp_path / "labels.csv", as_csv(RECORDS, delimiter)).table.to_pylist() == ROWS


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=12
).filter(lambda name: not name.isspace() and not name.endswith("/"))
TEXTS = st.none() | st.from_regex(r"[a-z][a-z0-9 ;,\"']{0,6}", fullmatch=True)
RECORD = st.fixed_dictionaries(
    {
        "s3Filename": NAMES,
        "poseId": st.sampled_from([None, 1, 7, 99]),
        "source": TEXTS,
        "group": TEXTS,
        "split": st.sampled_from([None, "train", "validation", "test"]),
    }
)


@pytest.mark.slow
@given(st.lists(RECORD, min_size=1, max_size=6))
def test_the_same_records_are_the_same_labels_in_every_form(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("forms")
    loaded = {form: load(folder / f"labels.{form}", write(records)) for form, write in FORMS.items()}

    expected = [record for record in records if record["poseId"] != 99]
    assert loaded["json"].table["name"].to_pylist() == [record["s3Filename"] for record in expected]
    assert loaded["json"].table["pose_id"].to_pylist() == [record["poseId"] for record in expected]
    for labels in loaded.values():
        assert labels.table.equals(loaded["json"].table)
        assert labels.unusable.equals(loaded["json"].unusable)
        assert labels.malformed == ()


def test_an_empty_cell_is_null_and_a_missing_field_is_malformed(tmp_path: Path) -> None:
    labels = load(tmp_path / "labels.csv", b"s3Filename,poseId\na.jpg,\nb.jpg\n")

    assert labels.table.to_pylist() == [
        {"name": "a.jpg", "source": None, "pose_id": None, "group": None, "split": None}
    ]
    assert labels.malformed == (
        f'{tmp_path}/labels.csv: line 3: no poseId: expected {{"poseId": 7, "s3Filename": "…"}}, '
        'got {"s3Filename": "b.jpg"}',
    )
    assert labels.unusable.to_pylist() == [{"name": "b.jpg", "source": None}]


@pytest.mark.parametrize(
    ("record", "names"),
    [
        ('{"poseId": 7, "s3Filename": "a.jpg", "poseId": 11}', ["a.jpg"]),
        ('{"poseId": 7, "s3Filename": "a.jpg", "s3Filename": "b.jpg"}', ["a.jpg", "b.jpg"]),
    ],
)
def test_a_repeated_key_makes_a_record_malformed(tmp_path: Path, record: str, names: list[str]) -> None:
    labels = load(tmp_path / "labels.json", f"[{record}]".encode())

    assert labels.table.num_rows == 0
    (sentence,) = labels.malformed
    assert "labels.json: record 1: key '" in sentence
    assert "occurs twice" in sentence
    assert labels.unusable["name"].to_pylist() == names


def test_a_malformed_record_is_reported_with_line_field_and_expected_value(tmp_path: Path) -> None:
    labels = load(tmp_path / "labels.jsonl", b'\n{"pose_id": "seven\\u200b", "key": "a.jpg"}\n')

    assert labels.malformed == (
        f"{tmp_path}/labels.jsonl: line 2: pose_id 'seven\\u200b': expected a whole number from 0 to "
        '2147483647, such as 7, 7.0 or "7"',
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "l.json",
            b'[{"poseId": 7, "s3Filename": "a.jpg"}',
            "l.json: the labels file is not JSON: Expecting",
        ),
        ("l.json", b'[{"poseId": 7, "s3Filename": "a.jpg"}] x', "is not JSON: Extra data"),
        ("l.jsonl", b'{"poseId": 7, "s3Filename": "a.jpg"}\n{"poseId"', "is not JSON: "),
        ("l.jsonl", b'{"poseId": 7, "s3Filename": "a.jpg"} {}\n', "is not JSON: Extra data"),
        ("l.csv", b"", "l.csv: line 1: the labels file has no header"),
        ("l.csv", b"pose,s3Filename\n7,a.jpg\n", "l.csv: no column poseId or pose_id; name the column"),
        ("l.csv", b"poseId,photo\n7,a.jpg\n", "l.csv: no column s3Filename, key, filename or uri; name"),
        ("l.csv", b"poseId,key,poseId\n7,a.jpg,1\n", "l.csv: line 1: column 'poseId' occurs twice"),
        ("l.csv", b'poseId,key\n7,a.jpg\n7,"b.jpg\n1,c.jpg\n', "l.csv: line 3: the labels file is not CSV: "),
        ("l.csv", b'poseId,key\n7,"b.jpg\n1,c.jpg"\n', "l.csv: line 2: .*a quotation mark is missing"),
        ("l.csv", b"poseId,key\n7,\xe9.jpg\n", r"l.csv: line 2: .* is not text in UTF-8 \(byte 0xe9\)"),
        ("l.parquet", b"PAR1 and no more", "l.parquet: the labels file is not Parquet: "),
        ("l.parquet", b"poseId,key\n7,a.jpg\n", "l.parquet: the labels file is not Parquet: "),
    ],
)
def test_a_damaged_file_is_refused_as_a_whole(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        load(tmp_path / name, content)


def test_an_unquoted_name_with_a_comma_is_kept_as_unusable(tmp_path: Path) -> None:
    labels = load(tmp_path / "labels.csv", b"poseId,key,source\n7,front, left.jpg,checkins\n7,b.jpg,,\n")

    assert labels.table["name"].to_pylist() == ["b.jpg"]
    (sentence,) = labels.malformed
    assert "labels.csv: line 2: 4 cells under 3 columns: a name with a comma needs quotation" in sentence
    assert "front, left.jpg" in labels.unusable["name"].to_pylist()


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_read_from_s3(make_bucket: Any, form: str) -> None:
    bucket = make_bucket({f"exports/labels.{form}": FORMS[form](RECORDS)})

    labels = load_labels([f"s3://{bucket}/exports/labels.{form}"], POSES)
    assert labels.table.to_pylist() == ROWS


def test_poses_are_read_from_s3_and_missing_files_there_are_named(make_bucket: Any) -> None:
    bucket = make_bucket({"poses.csv": b"id,name\n07,Back Lat Spread\n"})

    assert load_poses(f"s3://{bucket}/poses.csv") == {7: "Back Lat Spread"}
    with pytest.raises(LabelError, match=rf"s3://{bucket}/none\.json: no such labels file; give its path"):
        load_labels([f"s3://{bucket}/none.json"], POSES)
    with pytest.raises(LabelError, match=r"s3://no-such-bucket/l\.json: no such labels file"):
        load_labels(["s3://no-such-bucket/l.json"], POSES)


def test_a_missing_file_is_named_with_the_setting_that_gives_it(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"none\.json: no such poses file; .*--poses or PHYSIQ_POSES"):
        load_poses(tmp_path / "none.json")
    with pytest.raises(LabelError, match=r"none\.json: no such labels file; .*--labels or PHYSIQ_LABELS"):
        load_labels([tmp_path / "none.json"], POSES)


def test_a_folder_in_place_of_a_label_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="the labels file cannot be read: Is a directory"):
        load_labels([tmp_path], POSES)


@pytest.mark.parametrize("content", [b"", b"[", b"poses: []", b"\xff\xfe", b"[" * 100_000])
def test_a_label_file_that_is_not_json_is_refused(labels_file: Path, content: bytes) -> None:
    labels_file.write_bytes(content)

    with pytest.raises(LabelError, match=r"db_labels\.json: the labels file is not JSON: "):
        load_labels([labels_file], POSES)


def test_json_that_is_not_a_list_is_refused(labels_file: Path) -> None:
    write(labels_file, {"labels": []})

    with pytest.raises(LabelError, match=r"db_labels\.json: expected a JSON list of labels, got a dict"):
        load_labels([labels_file], POSES)
