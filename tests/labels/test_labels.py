from pathlib import Path
from typing import Any

import pytest
from label_files import FORMS, POSES, RECORDS, as_json, labels_of, load

from physiq_ray.config import load_settings
from physiq_ray.errors import LabelError, SettingError
from physiq_ray.labels import load_configured_labels
from physiq_ray.manifest import match_photos
from physiq_ray.storage import list_sources, parse_sources


def test_a_bucket_column_names_the_bucket_and_takes_precedence_over_a_source(labels_file: Path) -> None:
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


def test_label_records_become_a_table(labels_file: Path) -> None:
    labels = labels_of(
        labels_file,
        {"source": "checkins", "poseId": 7, "s3Filename": "1757471824350-IMG1813.jpeg"},
        {"poseId": 1, "s3Filename": "a.jpg", "comment": "ignored"},
        {"source": None, "poseId": "7", "s3Filename": "b.jpg"},
    )

    assert labels.table.schema.names == ["name", "source", "pose_id", "group", "split"]
    assert [str(kind) for kind in labels.table.schema.types] == [
        "large_string",
        "large_string",
        "int32",
        "large_string",
        "large_string",
    ]
    none = {"group": None, "split": None}
    assert labels.table.to_pylist() == [
        {"name": "1757471824350-IMG1813.jpeg", "source": "checkins", "pose_id": 7, **none},
        {"name": "a.jpg", "source": None, "pose_id": 1, **none},
        {"name": "b.jpg", "source": None, "pose_id": 7, **none},
    ]
    assert labels.malformed == labels.unknown_poses == ()


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
def test_a_malformed_record_is_reported_by_its_number_and_the_others_are_read(
    labels_file: Path, record: Any
) -> None:
    good = {"poseId": 7, "s3Filename": "good.jpg"}

    labels = labels_of(labels_file, good, record, good)

    assert labels.table["name"].to_pylist() == ["good.jpg", "good.jpg"]
    (sentence,) = labels.malformed
    assert sentence.startswith(f"{labels_file}: record 2: ")
    assert ": expected " in sentence
    assert labels.unknown_poses == ()


def test_a_label_of_an_unknown_pose_is_reported(labels_file: Path) -> None:
    labels = labels_of(
        labels_file, {"poseId": 7, "s3Filename": "a.jpg"}, {"poseId": 99, "s3Filename": "x/b.jpg"}
    )

    assert labels.table["name"].to_pylist() == ["a.jpg"]
    assert labels.unknown_poses == (
        f"{labels_file}: record 2: 'x/b.jpg': pose 99 is not among the known poses",
    )


def test_unusable_records_keep_the_name_and_source_of_their_photo(labels_file: Path) -> None:
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


def test_a_photo_with_no_known_pose_is_labelled_but_not_used_for_training(tmp_path: Path) -> None:
    for name, content in (("a.jpg", b"a"), ("b.jpg", b"bb"), ("c.jpg", b"ccc"), ("d.jpg", b"dddd")):
        (tmp_path / name).write_bytes(content)
    labels = load(tmp_path / "l.csv", b"poseId,key\n7,a.jpg\n1,b.jpg\n,c.jpg\n")
    manifest = match_photos(list_sources(parse_sources([str(tmp_path)])), labels, POSES)

    assert manifest.table["key"].to_pylist() == ["a.jpg", "b.jpg"]
    assert manifest.report.sources[0].unlabelled == 1  # only d.jpg
