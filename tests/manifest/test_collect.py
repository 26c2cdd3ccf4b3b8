import json
from pathlib import Path
from typing import Any

import pytest
from building import POSES

from physiq_ray.config import load_settings
from physiq_ray.errors import LabelError
from physiq_ray.manifest import collect_manifest


def write_photos(folder: Path) -> Path:
    for pose_id in (1, 2):
        (folder / "photos" / str(pose_id)).mkdir(parents=True)
        for number in range(5):
            (folder / "photos" / str(pose_id) / f"{number}.jpg").write_bytes(b"%d %d" % (pose_id, number))
    return folder / "photos"


@pytest.mark.parametrize("origin", ["flag", "environment", "file"])
def test_a_label_file_named_in_the_settings_must_exist(tmp_path: Path, origin: str) -> None:
    photos, typo = write_photos(tmp_path), str(tmp_path / "typo.json")
    (tmp_path / "settings.toml").write_text(f'labels = "{typo}"')
    settings = load_settings(
        {"sources": [str(photos)], "labels": typo if origin == "flag" else None},
        environment={"PHYSIQ_LABELS": typo} if origin == "environment" else {},
        file=tmp_path / "settings.toml" if origin == "file" else None,
    )

    with pytest.raises(LabelError, match=r"typo\.json: no such labels file; give its path with --labels"):
        collect_manifest(settings, POSES)


def test_folders_named_after_poses_need_no_label_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"sources": [str(write_photos(tmp_path))], "labels": None}, environment={})

    assert collect_manifest(settings, POSES).table.num_rows == 10


def test_folders_named_after_poses_in_a_bucket_need_no_label_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bucket: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    name = make_bucket({f"2026/{pose}/{number}.jpg": b"%d %d" % (pose, number)
                        for pose in (1, 2) for number in range(3)})  # fmt: skip
    settings = load_settings({"sources": [f"s3://{name}/2026"]}, environment={})

    assert collect_manifest(settings, POSES).table.num_rows == 6
    with pytest.raises(LabelError, match="no such labels file"):
        collect_manifest(load_settings({"sources": [f"s3://{name}"]}, environment={}), POSES)
    Path("labels.json").write_text(json.dumps([{"poseId": 2, "s3Filename": "2026/1/0.jpg"}]))
    with_file = load_settings({"sources": [f"s3://{name}/2026"], "labels": "labels.json"}, environment={})
    assert collect_manifest(with_file, POSES).report.conflicts == (
        f"'s3://{name}/2026/1/0.jpg': labelled with different poses",
    )


def test_an_unreadable_label_file_is_not_treated_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mappings").write_bytes(b"")  # a file in place of the label file's folder
    settings = load_settings({"sources": [str(write_photos(tmp_path))]}, environment={})

    with pytest.raises(LabelError, match="the labels file cannot be read: Not a directory"):
        collect_manifest(settings, POSES)
