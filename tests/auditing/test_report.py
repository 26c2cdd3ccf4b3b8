import json
import os

import numpy as np
import pytest
from PIL import Image

from physiq_ray.cli import main
from physiq_ray.manifest import Manifest
from physiq_ray.storage import kinds


def test_the_report_counts_without_reading_photos(audit, project):
    done = audit()
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{project}/photos: 19 photos, 18 labelled, 1 unlabelled" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    # The order of groups depends on the folder's path. 3 of 14 photos are for validation, or 2 if the two
    # copies would come next.
    front = next(line for line in lines if line[:3] == ["Front", "Lat", "Spread"])
    assert front[3:] in (["(1)", "11", "3", "77.8%"], ["(1)", "12", "2", "77.8%"])
    assert ["Side", "Chest", "(2)", "3", "1", "22.2%"] in lines
    assert "the largest pose has 3.5 times the photos of the smallest – uneven" in done.stdout
    copies = f"'{project}/photos/1/00.jpg' = '{project}/photos/1/copy of 00.jpg'"
    assert f"1 contents stored more than once\n  {copies}" in done.stdout
    assert "cannot be decoded" not in done.stdout
    assert "pairs" not in done.stdout


def test_photos_of_no_known_pose_are_labelled_and_counted_and_no_pose_of_the_table(project, capsys):
    records = [{"s3Filename": f"{number:02d}.jpg", "poseId": None} for number in (3, 7, 8)]
    # Photos in the folder of a pose need no label; a label decides first.
    for number in (3, 7, 8):
        (project / "photos" / "1" / f"{number:02d}.jpg").rename(project / "photos" / f"{number:02d}.jpg")
    (project / "labels.json").write_text(json.dumps(records))
    args = ("audit", "--sources", project / "photos", "--poses", project / "poses.json")
    args = (*map(str, args), "--labels", str(project / "labels.json"))

    assert main([*args]) == 0
    text = capsys.readouterr().out
    assert main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert "19 photos, 18 labelled, 1 unlabelled" in text
    assert (
        "3 photos show no known pose according to their labels; they teach the model what to refuse" in text
    )
    assert found["no_known_pose"] == 3
    assert [source["unlabelled"] for source in found["sources"]] == [1]
    assert {pose["pose_id"]: pose["train"] + pose["validation"] for pose in found["poses"]} == {1: 11, 2: 4}


def test_photos_in_heic_and_poses_without_a_photo_are_listed(run_cli, audit, project, monkeypatch, tmp_path):
    (tmp_path / "pillow_heif.py").write_text("raise ImportError")  # as if the extra were not installed
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setattr(kinds, "reads_heic", lambda: False)
    (project / "photos" / "1" / "phone.HEIC").write_bytes(b"heic")
    names = {1: "Front Lat Spread", 2: "Side Chest", 6: "Most Muscular"}
    (project / "poses.json").write_text(json.dumps([{"id": id, "name": name} for id, name in names.items()]))
    args = ("--sources", project / "photos", "--poses", project / "poses.json")
    done = run_cli("audit", *args, env={"PYTHONPATH": path})
    assert (
        "1 photos in a format that cannot be read here (for HEIC pip install 'physiq-ray[heic]', others must "
        f"be exported as JPEG): '{project}/photos/1/phone.HEIC'\n" in done.stdout
    )
    assert "1 poses without a usable photo: pose 6 Most Muscular\n" in done.stdout
    done = audit("--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["undecodable"] == [f"{project}/photos/1/phone.HEIC"]
    assert found["poses_without_photo"] == ["pose 6 Most Muscular"]


def test_results_that_were_not_searched_are_null_and_not_empty(ray_local, audit):
    found = json.loads(audit("--json").stdout)
    assert found["check"] is None
    assert found["near_duplicates_across_splits"] is None
    found = json.loads(audit("--json", "--check-photos").stdout)
    assert found["check"]["near_duplicates"] is None
    assert found["near_duplicates_across_splits"] is None


def test_a_photo_whose_label_has_an_unknown_pose_does_not_count_as_unlabelled(audit, project):
    labels = [{"poseId": 99, "s3Filename": "unlabelled.jpg"}]
    (project / "labels.json").write_text(json.dumps(labels))
    done = audit("--labels", project / "labels.json")
    assert done.returncode == 0, done.stderr
    assert "19 photos, 19 labelled (1 by unusable labels only), 0 unlabelled" in done.stdout
    assert "record 1: 'unlabelled.jpg': pose 99" in done.stdout


def test_json_has_the_results_of_the_check_and_the_files_are_written(ray_local, audit, project):
    done = audit(
        "--near-duplicates",
        "--json",
        "--manifest",
        project / "m.parquet",
        "--sheet",
        project / "s.png",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    [source] = found["sources"]
    assert (source["total"], source["labelled"], source["unlabelled"]) == (19, 18, 1)
    [unreadable] = found["check"]["unreadable"]
    assert unreadable.keys() == {"uri", "step", "error"}
    assert unreadable["uri"] == f"{project}/photos/2/cut.jpg"
    assert unreadable["step"] == "decode"
    assert "truncated" in unreadable["error"]
    assert found["check"]["num_checked"] == 18
    assert found["near_duplicates_across_splits"] in {0, 1}
    pairs = {(a, b) for a, b, _ in found["check"]["near_duplicates"]}
    assert (f"{project}/photos/1/01.jpg", f"{project}/photos/1/resized.jpg") in pairs
    assert (f"{project}/photos/1/00.jpg", f"{project}/photos/1/copy of 00.jpg") not in pairs
    pose = found["poses"][0]
    assert pose.pop("train") + pose.pop("validation") == 14
    assert pose == {"pose_id": 1, "name": "Front Lat Spread", "test": 0, "share": pytest.approx(14 / 18)}
    with Image.open(project / "s.png") as sheet:
        assert min(sheet.size) > 400
        assert len(np.unique(np.asarray(sheet.convert("L")))) > 100

    manifest = Manifest.from_parquet((project / "m.parquet").read_bytes(), name="m")
    assert manifest.table.num_rows == 18
