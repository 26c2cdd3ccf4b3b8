"""The forms of label files: what each says, and where each is refused."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.config import load_settings
from physiq_ray.errors import LabelError, SettingError
from physiq_ray.labels import Labels, load_configured_labels, load_labels, load_poses
from physiq_ray.manifest import match_photos
from physiq_ray.storage import list_sources, parse_sources

POSES = {1: "Front Lat Spread", 7: "Back Lat Spread"}
COLUMNS = ("s3Filename", "poseId", "source", "group", "split")
RECORDS = [
    {"s3Filename": "a.jpg", "poseId": 7, "source": "checkins", "group": "anna", "split": "train"},
    {"s3Filename": "é, b.jpg", "poseId": None, "source": None, "group": None, "split": None},
]
ROWS = [
    {"name": "a.jpg", "source": "checkins", "pose_id": 7, "group": "anna", "split": "train"},
    {"name": "é, b.jpg", "source": None, "pose_id": None, "group": None, "split": None},
]


def as_csv(records: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def as_parquet(records: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    kinds = [pa.string(), pa.float64(), pa.string(), pa.string(), pa.string()]  # ids as pandas has them
    columns = {
        name: pa.array([record[name] for record in records], kind)
        for name, kind in zip(COLUMNS, kinds, strict=True)
    }
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def as_json(records: list[dict[str, Any]]) -> bytes:
    return json.dumps(records, ensure_ascii=False).encode()


def as_lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


FORMS = {"json": as_json, "jsonl": as_lines, "csv": as_csv, "parquet": as_parquet}


def load(path: Path, content: bytes, **columns: Any) -> Labels:
    path.write_bytes(content)
    return load_labels([path], POSES, **columns)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_whatever_the_file_s_name(tmp_path: Path, form: str) -> None:
    content = FORMS[form](RECORDS)

    assert load(tmp_path / f"labels.{form}", content).table.to_pylist() == ROWS
    assert load(tmp_path / "labels", content).table.to_pylist() == ROWS


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_does_not_matter(tmp_path: Path, form: str, encoding: str) -> None:
    content = FORMS[form](RECORDS).decode().encode(encoding)

    assert load(tmp_path / f"labels.{form}", content).table.to_pylist() == ROWS


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_cells_may_be_divided_as_excel_does_it(tmp_path: Path, delimiter: str) -> None:
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
def test_a_key_that_stands_twice_makes_a_record_malformed(
    tmp_path: Path, record: str, names: list[str]
) -> None:
    labels = load(tmp_path / "labels.json", f"[{record}]".encode())

    assert labels.table.num_rows == 0
    (sentence,) = labels.malformed
    assert "labels.json: record 1: key '" in sentence
    assert "occurs twice" in sentence
    assert labels.unusable["name"].to_pylist() == names


def test_a_malformed_record_is_named_by_line_field_value_and_what_was_expected(tmp_path: Path) -> None:
    labels = load(tmp_path / "labels.jsonl", b'\n{"pose_id": "seven\\u200b", "key": "a.jpg"}\n')

    assert labels.malformed == (
        f"{tmp_path}/labels.jsonl: line 2: pose_id 'seven\\u200b': expected a whole number from 0 to "
        '2147483647, such as 7, 7.0 or "7"',
    )


@pytest.mark.parametrize("name", ["s3Filename", "key", "filename", "uri", "S3_Filename", "File Name"])
@pytest.mark.parametrize(("source", "means"), [("source", "checkins"), ("bucket", "s3://checkins")])
def test_the_usual_names_of_columns_are_known(tmp_path: Path, name: str, source: str, means: str) -> None:
    record = {name: "a.jpg", "pose_id": 7, source: "checkins", "athlete_id": 17.0, "split": " Val"}

    assert load(tmp_path / "labels.json", as_json([record])).table.to_pylist() == [
        {"name": "a.jpg", "source": means, "pose_id": 7, "group": "17", "split": "validation"}
    ]


def test_two_columns_of_one_field_must_agree(tmp_path: Path) -> None:
    agreeing = {"poseId": 7, "pose_id": "07", "key": "a.jpg", "uri": ""}
    other_pose = {"poseId": 7, "pose_id": None, "key": "b.jpg"}
    other_name = {"poseId": 7, "key": "c/d.jpg", "filename": "d.jpg"}
    labels = load(tmp_path / "labels.json", as_json([agreeing, other_pose, other_name]))

    assert labels.table["name"].to_pylist() == ["a.jpg"]
    assert [sentence.partition("labels.json: ")[2] for sentence in labels.malformed] == [
        "record 2: poseId 7, pose_id null: they disagree; name the column to read with label_fields or "
        "group_field",
        "record 3: key 'c/d.jpg', filename 'd.jpg': they disagree; name the column to read with "
        "label_fields or group_field",
    ]
    assert labels.unusable["name"].to_pylist() == ["b.jpg", "c/d.jpg", "d.jpg"]


def test_settings_name_files_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("class;key;filename;who\n7;c/a.jpg;a.jpg;anna\n")
    Path("b.json").write_text('[{"poseId": 1, "key": "b.jpg"}]')
    environment = {
        "PHYSIQ_LABELS": "a.csv, b.json",
        "PHYSIQ_LABEL_FIELDS": "pose_id=class,name=key",
        "PHYSIQ_GROUP_FIELD": "who",
    }
    labels = load_configured_labels(load_settings({}, environment=environment), POSES)

    none = {"source": None, "split": None}
    assert labels.table.to_pylist() == [
        {"name": "c/a.jpg", "pose_id": 7, "group": "anna", **none},
        {"name": "b.jpg", "pose_id": 1, "group": None, **none},
    ]
    assert labels.malformed == ()


@pytest.mark.parametrize("form", FORMS)
def test_a_named_column_that_no_record_has_is_refused(tmp_path: Path, form: str) -> None:
    with pytest.raises(LabelError, match=r"group_field=athlet: no record of .* has a column 'athlet'"):
        load(tmp_path / "labels", FORMS[form](RECORDS), group_field="athlet")
    with pytest.raises(LabelError, match=r"label_fields source=origin: no record of .*; found: s3Filename"):
        load(tmp_path / "labels", FORMS[form](RECORDS), fields={"source": "origin"})


def test_a_field_that_labels_do_not_have_is_refused() -> None:
    with pytest.raises(SettingError, match="'group' is none of pose_id, name, source, split; group_field"):
        load_settings({"label_fields": ["group=athlete"]}, environment={})
    with pytest.raises(SettingError, match=r"a\.json is listed twice"):
        load_settings({"labels": ["a.json", "a.json"]}, environment={})


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


def test_a_comma_inside_a_name_without_quotation_marks_loses_no_name(tmp_path: Path) -> None:
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


def test_files_that_are_not_in_s3_are_named(make_bucket: Any) -> None:
    bucket = make_bucket({"poses.csv": b"id,name\n07,Back Lat Spread\n"})

    assert load_poses(f"s3://{bucket}/poses.csv") == {7: "Back Lat Spread"}
    with pytest.raises(LabelError, match=rf"s3://{bucket}/none\.json: no such labels file; give its path"):
        load_labels([f"s3://{bucket}/none.json"], POSES)
    with pytest.raises(LabelError, match=r"s3://no-such-bucket/l\.json: no such labels file"):
        load_labels(["s3://no-such-bucket/l.json"], POSES)


def test_a_photo_of_no_known_pose_is_labelled_and_never_trained_on(tmp_path: Path) -> None:
    for name, content in (("a.jpg", b"a"), ("b.jpg", b"bb"), ("c.jpg", b"ccc"), ("d.jpg", b"dddd")):
        (tmp_path / name).write_bytes(content)
    labels = load(tmp_path / "l.csv", b"poseId,key\n7,a.jpg\n1,b.jpg\n,c.jpg\n")
    manifest = match_photos(list_sources(parse_sources([str(tmp_path)])), labels, POSES)

    assert manifest.table["key"].to_pylist() == ["a.jpg", "b.jpg"]
    assert manifest.report.sources[0].unlabelled == 1  # d.jpg alone
