import json
import sys

import pytest

from physiq_ray.cli import main
from physiq_ray.manifest import Manifest


def label(folder, *records):
    labels = [{"s3Filename": name, "poseId": pose_id} for name, pose_id in records]
    (folder / "labels.json").write_text(json.dumps(labels))
    return "--labels", folder / "labels.json"


NOT_TRAINABLE = {
    "no label matches": (
        {"a.jpg": b"1", "b.jpg": b"2"},
        [("c.jpg", 1), ("d.jpg", 99), ("e.jpg", "seven")],
        "no label matches a photo: 2 photos, 1 usable labels, 0 conflicts",
        {"labels_without_photo": 1, "unknown_poses": 1, "malformed": 1},
    ),
    "one pose": (
        {"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"},
        [("a.jpg", 1), ("b.jpg", 1), ("c.jpg", 1), ("c.jpg", 2)],
        "only one pose (1 Front Lat Spread) has labelled photos; at least two are needed",
        {"conflicts": 1},
    ),
    "no validation": (
        {"a.jpg": b"1", "b.jpg": b"2"},
        [("a.jpg", 1), ("b.jpg", 2)],
        "no photos for training or for validation: pose 1 Front Lat Spread: 1 photo(s)",
        {"thin_poses": 2},
    ),
    "empty": (
        {},
        [("a.jpg", 1)],
        "no photos in {source}; check bucket and prefix",
        {"labels_without_photo": 1},
    ),
    "not there": (
        None,
        [("a.jpg", 1)],
        "none of the 1 sources could be listed: list {source}: No such file or directory",
        {"labels_without_photo": 0},
    ),
}


@pytest.mark.parametrize(("files", "labels", "reason", "listed"), NOT_TRAINABLE.values(), ids=NOT_TRAINABLE)
def test_data_that_cannot_be_trained_on_get_a_complete_report_and_the_reason(
    ray_local, run_here, project, files, labels, reason, listed
):
    source = project / "other"
    for name, content in (files or {}).items():
        source.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    if files == {}:
        source.mkdir()
    args = ("audit", "--sources", source, "--poses", project / "poses.json", *label(project, *labels))

    done = run_here(*args, "--manifest", project / "m.parquet", "--check-photos")
    assert done.returncode == 1
    assert f"physiq-ray audit: {reason.format(source=source)}" in done.stderr
    assert f"NOT WRITTEN: {project}/m.parquet: " in done.stderr
    assert not (project / "m.parquet").exists()
    assert f"{source}: " in done.stdout
    assert f"{'pose':>28}" in done.stdout

    done = run_here(*args, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["problem"].startswith(reason.format(source=source))
    [report] = found["sources"]
    assert report["total"] == len(files or {})
    assert {key: len(found[key]) for key in listed} == listed


def test_an_impossible_path_of_a_file_is_refused_before_the_listing(audit, project):
    sheet = project / "poses.json" / "sheet.png"
    done = audit("--sheet", sheet)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"physiq-ray audit: --sheet={sheet}: cannot be written: Not a directory; give another folder\n"
    )


@pytest.mark.slow
def test_the_report_is_printed_even_if_a_file_cannot_be_written(audit, project):
    (project / "sheet.png").mkdir()
    sheet = ("--sheet", project / "sheet.png", "--manifest", project / "m.parquet")
    done = audit(*sheet)
    assert done.returncode == 1
    assert "19 photos, 18 labelled" in done.stdout
    assert done.stdout.endswith(f"wrote {project}/m.parquet\n")
    assert f"physiq-ray audit: write {project}/sheet.png: " in done.stderr
    done = audit(*sheet, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["files"] == [f"{project}/m.parquet"]


def test_an_audit_with_a_bucket_that_cannot_be_listed_is_incomplete(run_here, project, s3):
    done = run_here(
        *("audit", "--sources", project / "photos", "s3://no-such-bucket-here"),
        *("--poses", project / "poses.json", "--labels", project / "labels.json"),
    )
    assert done.returncode == 1
    assert "labels.json: no such labels file" in done.stderr
    (project / "labels.json").write_text("[]")
    done = run_here(
        *("audit", "--sources", project / "photos", "s3://no-such-bucket-here"),
        *("--poses", project / "poses.json", "--labels", project / "labels.json"),
    )
    assert done.returncode == 1
    assert "s3://no-such-bucket-here: left out: list s3://no-such-bucket-here: NoSuchBucket" in done.stdout
    assert "NOT COMPLETE: audited without s3://no-such-bucket-here" in done.stderr


def test_a_photo_that_could_not_be_fetched_is_not_reported_as_damaged(
    ray_local, run_here, project, make_bucket, make_photo, deny
):
    names = {f"{pose_id}-{number}.jpg": pose_id for pose_id in (1, 2) for number in range(4)}
    bucket = make_bucket({name: make_photo(seed=number) for number, name in enumerate(names)})
    deny(bucket, "s3:GetObject", "1-0.jpg")
    args = ("--poses", project / "poses.json", *label(project, *names.items()), "--check-photos")
    done = run_here("audit", "--sources", f"s3://{bucket}", *args)
    assert done.returncode == 1
    assert "0 photos cannot be decoded" in done.stdout
    assert f"1 photos could not be fetched\n  read s3://{bucket}/1-0.jpg: AccessDenied" in done.stdout
    assert (
        f"NOT COMPLETE: 1 photos could not be fetched, the first: read s3://{bucket}/1-0.jpg: AccessDenied"
        in done.stderr
    )
    done = run_here("audit", "--sources", f"s3://{bucket}", *args, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [(item["uri"], item["step"]) for item in found["check"]["unreadable"]] == [
        (f"s3://{bucket}/1-0.jpg", "fetch")
    ]
    assert found["not_looked_at"]


def test_near_duplicates_without_the_imagehash_package_are_refused_before_the_listing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imagehash", None)

    status = main(["audit", "--sources", str(tmp_path / "no such folder"), "--near-duplicates"])

    assert status == 2
    assert "near-duplicates need the ImageHash package: pip install" in capsys.readouterr().err


@pytest.mark.slow
def test_near_duplicates_are_in_one_group_of_the_saved_manifest(run_cli, project):
    # A process of its own: this audit starts Ray, and ends it before it prints.
    done = run_cli(
        *("audit", "--sources", project / "photos", "--poses", project / "poses.json", "--json"),
        *("--group-near-duplicates", "yes", "--manifest", project / "m.parquet"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["near_duplicate_groups"] == {
        **{"num_photos": 2, "num_groups": 1, "largest": 2, "total": 18},
        "not_fetched": {"count": 0, "examples": []},
    }
    table = Manifest.from_parquet((project / "m.parquet").read_bytes(), name="m").table
    group = dict(zip(table["uri"].to_pylist(), table["group"].to_pylist(), strict=True))
    photos = f"{project}/photos/1"
    assert group[f"{photos}/resized.jpg"] == group[f"{photos}/01.jpg"] == f"{photos}/01.jpg"
    assert group[f"{photos}/copy of 00.jpg"] == f"{photos}/00.jpg"
    assert len(set(group.values())) == 16


def test_an_audit_in_a_process_that_has_joined_ray_leaves_it_connected(ray_local, project, capsys):
    import ray

    args = ("audit", "--sources", project / "photos", "--poses", project / "poses.json", "--check-photos")
    assert main([*map(str, args), "--json"]) == 0

    assert [item["uri"][-9:] for item in json.loads(capsys.readouterr().out)["check"]["unreadable"]] == [
        "2/cut.jpg"
    ]
    assert ray.is_initialized()


def test_an_audit_without_a_labelled_photo_does_not_start_ray(project, monkeypatch):
    (project / "empty").mkdir()
    monkeypatch.setattr("physiq_ray.cluster.connect", lambda **_: pytest.fail("Ray was started"))
    args = ("audit", "--sources", project / "empty", "--poses", project / "poses.json", "--check-photos")
    assert main([*map(str, args)]) == 1
