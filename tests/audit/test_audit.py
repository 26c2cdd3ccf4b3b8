import json
import os
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from physiq_ray import storage
from physiq_ray.audit import audit_manifest
from physiq_ray.audit import check as check_module
from physiq_ray.audit.check import find_near
from physiq_ray.cli import main
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.storage import kinds


@pytest.fixture
def data(tmp_path, make_photo):
    """Fill a folder per pose id: 12 and 3 photos, a copy, a re-encoded one, a truncated one."""
    for pose_id, count in ((1, 12), (2, 3)):
        (tmp_path / "photos" / str(pose_id)).mkdir(parents=True)
        for number in range(count):
            data = make_photo(seed=100 * pose_id + number)
            (tmp_path / "photos" / str(pose_id) / f"{number:02d}.jpg").write_bytes(data)
    photos = tmp_path / "photos"
    (photos / "1" / "copy of 00.jpg").write_bytes((photos / "1" / "00.jpg").read_bytes())
    with Image.open(photos / "1" / "01.jpg") as image:
        image.resize((240, 320)).save(photos / "1" / "resized.jpg", quality=70)
    (photos / "2" / "cut.jpg").write_bytes(make_photo(seed=9)[:900])
    (photos / "unlabelled.jpg").write_bytes(make_photo(seed=10))
    (tmp_path / "poses.json").write_text(
        json.dumps([{"id": 1, "name": "Front Lat Spread"}, {"id": 2, "name": "Side Chest"}])
    )
    return tmp_path


def audit(run_cli, data, *args):
    return run_cli("audit", "--sources", data / "photos", "--poses", data / "poses.json", *args)


def test_the_report_counts_without_reading_photos(run_cli, data):
    done = audit(run_cli, data)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{data}/photos: 19 photos, 18 labelled, 1 unlabelled" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    # Of 14 photos 3 are for validation, or 2 where the next group by its path is that of the two copies.
    front = next(line for line in lines if line[:3] == ["Front", "Lat", "Spread"])
    assert front[3:] in (["(1)", "11", "3", "77.8%"], ["(1)", "12", "2", "77.8%"])
    assert ["Side", "Chest", "(2)", "3", "1", "22.2%"] in lines
    assert "the largest pose has 3.5 times the photos of the smallest – uneven" in done.stdout
    assert (
        f"1 contents stored more than once\n  '{data}/photos/1/00.jpg' = '{data}/photos/1/copy of 00.jpg'"
        in done.stdout
    )
    assert "cannot be decoded" not in done.stdout
    assert "pairs" not in done.stdout


def test_photos_in_heic_and_poses_without_a_photo_are_listed(run_cli, data, capsys, monkeypatch, tmp_path):
    (tmp_path / "pillow_heif.py").write_text("raise ImportError")  # as where the extra is not installed
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(kinds, "reads_heic", lambda: False)
    (data / "photos" / "1" / "phone.HEIC").write_bytes(b"heic")
    names = {1: "Front Lat Spread", 2: "Side Chest", 6: "Most Muscular"}
    (data / "poses.json").write_text(json.dumps([{"id": id, "name": name} for id, name in names.items()]))
    done = audit(run_cli, data)
    assert (
        "1 photos in a format that cannot be read here (for HEIC pip install 'physiq-ray[heic]', others must "
        f"be exported as JPEG): '{data}/photos/1/phone.HEIC'\n" in done.stdout
    )
    assert "1 poses without a usable photo: pose 6 Most Muscular\n" in done.stdout
    args = ("audit", "--sources", data / "photos", "--poses", data / "poses.json", "--json")
    assert main([*map(str, args)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["undecodable"] == [f"{data}/photos/1/phone.HEIC"]
    assert found["poses_without_photo"] == ["pose 6 Most Muscular"]


def test_what_was_not_looked_for_is_null_and_not_none_found(run_cli, data):
    found = json.loads(audit(run_cli, data, "--json").stdout)
    assert found["check"] is None
    assert found["near_duplicates_across_splits"] is None
    found = json.loads(audit(run_cli, data, "--json", "--check-photos").stdout)
    assert found["check"]["near_duplicates"] is None
    assert found["near_duplicates_across_splits"] is None


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
def test_what_cannot_be_trained_on_is_reported_whole_and_then_said(
    run_cli, data, capsys, files, labels, reason, listed
):
    source = data / "other"
    for name, content in (files or {}).items():
        source.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    if files == {}:
        source.mkdir()
    args = ("audit", "--sources", source, "--poses", data / "poses.json", *label(data, *labels))

    done = run_cli(*args, "--manifest", data / "m.parquet", "--check-photos")
    assert done.returncode == 1
    assert f"physiq-ray audit: {reason.format(source=source)}" in done.stderr
    assert f"NOT WRITTEN: {data}/m.parquet: " in done.stderr
    assert not (data / "m.parquet").exists()
    assert f"{source}: " in done.stdout
    assert f"{'pose':>28}" in done.stdout

    assert main([*map(str, args), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["problem"].startswith(reason.format(source=source))
    [report] = found["sources"]
    assert report["total"] == len(files or {})
    assert {key: len(found[key]) for key in listed} == listed


def test_a_file_in_a_place_that_cannot_be_is_refused_before_the_listing(run_cli, data):
    sheet = data / "poses.json" / "sheet.png"
    done = audit(run_cli, data, "--sheet", sheet)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"physiq-ray audit: --sheet={sheet}: cannot be written: Not a directory; give another folder\n"
    )


def test_a_file_that_cannot_be_written_costs_no_report(run_cli, data):
    (data / "sheet.png").mkdir()
    sheet = ("--sheet", data / "sheet.png", "--manifest", data / "m.parquet")
    done = audit(run_cli, data, *sheet)
    assert done.returncode == 1
    assert "19 photos, 18 labelled" in done.stdout
    assert done.stdout.endswith(f"wrote {data}/m.parquet\n")
    assert f"physiq-ray audit: write {data}/sheet.png: " in done.stderr
    done = audit(run_cli, data, *sheet, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["files"] == [f"{data}/m.parquet"]


def test_dollars_in_names_are_no_formulas_on_the_sheet(run_cli, data):
    (data / "photos" / "2" / "cut.jpg").rename(data / "photos" / "2" / "cut $x_$.jpg")
    (data / "photos" / "1" / "03.jpg").rename(data / "photos" / "1" / "a$5_$.jpg")
    poses = [{"id": 1, "name": "Front $_$ Spread"}, {"id": 2, "name": "Side Chest"}]
    (data / "poses.json").write_text(json.dumps(poses))
    done = audit(run_cli, data, "--sheet", data / "s.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert (data / "s.png").exists()


def test_a_photo_that_could_not_be_fetched_is_not_called_bad(
    run_cli, data, make_bucket, make_photo, s3_direct
):
    names = {f"{pose_id}-{number}.jpg": pose_id for pose_id in (1, 2) for number in range(4)}
    bucket = make_bucket({name: make_photo(seed=number) for number, name in enumerate(names)})
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/1-0.jpg",
    }
    s3_direct.put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    )
    args = ("--poses", data / "poses.json", *label(data, *names.items()), "--check-photos")
    done = run_cli("audit", "--sources", f"s3://{bucket}", *args)
    assert done.returncode == 1
    assert "0 photos cannot be decoded" in done.stdout
    assert f"1 photos could not be fetched\n  read s3://{bucket}/1-0.jpg: AccessDenied" in done.stdout
    assert (
        f"NOT COMPLETE: 1 photos could not be fetched, the first: read s3://{bucket}/1-0.jpg: AccessDenied"
        in done.stderr
    )
    done = run_cli("audit", "--sources", f"s3://{bucket}", *args, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [(item["uri"], item["step"]) for item in found["check"]["unreadable"]] == [
        (f"s3://{bucket}/1-0.jpg", "fetch")
    ]
    assert found["not_looked_at"]


@pytest.fixture
def dead_endpoint(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(storage.retry, "ATTEMPTS", 1)
    storage.forget_clients()
    yield
    storage.forget_clients()


def manifest_of(uris):
    rows = [
        {
            **{"uri": uri, "bucket": "checkins", "key": uri, "size": 1, "etag": str(number), "group": uri},
            **{"pose_id": 1, "class_index": 0, "split": "train"},
        }
        for number, uri in enumerate(uris)
    ]
    return Manifest(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), ClassMapping(("1",)))


def test_the_check_gives_up_when_no_answer_comes_for_many_photos_in_a_row(dead_endpoint, monkeypatch):
    monkeypatch.setattr(check_module, "GIVE_UP_AFTER", 5)
    uris = [f"s3://checkins/{number}.jpg" for number in range(200)]

    found = audit_manifest(manifest_of(uris), {}, near_duplicates=True)

    assert found.check.num_checked == 5
    assert found.check.near_duplicates is None
    assert {photo.step for photo in found.check.unreadable} == {"fetch"}
    assert found.check.gave_up.startswith(
        "gave up after 5 of 200 photos: no answer for 5 in a row, the last read s3://checkins/4.jpg: "
    )
    assert found.not_looked_at[-1] == found.check.gave_up


def test_photos_that_no_answer_came_for_here_and_there_end_no_check(
    dead_endpoint, monkeypatch, tmp_path, make_photo
):
    monkeypatch.setattr(check_module, "GIVE_UP_AFTER", 2)
    (tmp_path / "a.jpg").write_bytes(make_photo())
    uris = [f"s3://checkins/{number}.jpg" if number % 2 else f"{tmp_path}/a.jpg" for number in range(10)]

    check = audit_manifest(manifest_of(uris), {}, check_photos=True).check

    assert (check.num_checked, check.gave_up, len(check.unreadable)) == (10, None, 5)


def test_no_more_photos_than_a_window_are_read_ahead(tmp_path, make_photo, monkeypatch):
    monkeypatch.setattr(check_module, "CHECKS_AHEAD", 4)
    (tmp_path / "a.jpg").write_bytes(make_photo())
    started, most_ahead = [], []

    def read(uri, *, etag):
        started.append(uri)
        return (tmp_path / "a.jpg").read_bytes()

    monkeypatch.setattr(check_module, "read_bytes", read)
    uris = [f"{tmp_path}/{number}.jpg" for number in range(50)]

    audit_manifest(
        manifest_of(uris),
        {},
        check_photos=True,
        on_progress=lambda done, _: most_ahead.append(len(started) - done),
    )

    assert sorted(started) == sorted(uris)
    assert max(most_ahead) <= 4


def test_copies_make_one_pair_with_their_near_duplicate_and_not_one_each(run_cli, data, make_photo):
    photos = data / "photos" / "2"
    with Image.open(data / "photos" / "1" / "02.jpg") as image:
        image.resize((240, 320)).save(photos / "near-0.jpg", quality=70)
    for number in range(1, 5):
        (photos / f"near-{number}.jpg").write_bytes((photos / "near-0.jpg").read_bytes())
        (data / "photos" / "1" / f"02-{number}.jpg").write_bytes(
            (data / "photos" / "1" / "02.jpg").read_bytes()
        )
    found = json.loads(audit(run_cli, data, "--near-duplicates", "--json").stdout)
    pairs = [(a, b) for a, b, _ in found["check"]["near_duplicates"] if "/02" in a and "/near-" in b]
    assert pairs == [(f"{data}/photos/1/02-1.jpg", f"{photos}/near-0.jpg")]


def test_a_photo_of_an_unknown_pose_is_not_counted_without_a_label(run_cli, data):
    labels = [{"poseId": 99, "s3Filename": "unlabelled.jpg"}]
    (data / "labels.json").write_text(json.dumps(labels))
    done = audit(run_cli, data, "--labels", data / "labels.json")
    assert done.returncode == 0, done.stderr
    assert "19 photos, 19 labelled (1 by unusable labels only), 0 unlabelled" in done.stdout
    assert "record 1: 'unlabelled.jpg': pose 99" in done.stdout


def test_json_holds_what_reading_the_photos_found_and_the_files_are_written(run_cli, data):
    done = audit(
        run_cli,
        data,
        "--near-duplicates",
        "--json",
        "--manifest",
        data / "m.parquet",
        "--sheet",
        data / "s.png",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    [source] = found["sources"]
    assert (source["total"], source["labelled"], source["unlabelled"]) == (19, 18, 1)
    [unreadable] = found["check"]["unreadable"]
    assert unreadable.keys() == {"uri", "step", "error"}
    assert unreadable["uri"] == f"{data}/photos/2/cut.jpg"
    assert unreadable["step"] == "decode"
    assert "truncated" in unreadable["error"]
    assert found["check"]["num_checked"] == 18
    assert found["near_duplicates_across_splits"] in {0, 1}
    pairs = {(a, b) for a, b, _ in found["check"]["near_duplicates"]}
    assert (f"{data}/photos/1/01.jpg", f"{data}/photos/1/resized.jpg") in pairs
    assert (f"{data}/photos/1/00.jpg", f"{data}/photos/1/copy of 00.jpg") not in pairs
    pose = found["poses"][0]
    assert pose.pop("train") + pose.pop("validation") == 14
    assert pose == {"pose_id": 1, "name": "Front Lat Spread", "test": 0, "share": pytest.approx(14 / 18)}
    with Image.open(data / "s.png") as sheet:
        assert min(sheet.size) > 400
        assert len(np.unique(np.asarray(sheet.convert("L")))) > 100

    manifest = Manifest.from_parquet((data / "m.parquet").read_bytes(), name="m")
    assert manifest.table.num_rows == 18


def test_a_bucket_that_cannot_be_listed_makes_the_audit_partly_failed(run_cli, data, s3):
    done = run_cli(
        *("audit", "--sources", data / "photos", "s3://no-such-bucket-here"),
        *("--poses", data / "poses.json", "--labels", data / "labels.json"),
    )
    assert done.returncode == 1
    assert "labels.json: no such labels file" in done.stderr
    (data / "labels.json").write_text("[]")
    done = run_cli(
        *("audit", "--sources", data / "photos", "s3://no-such-bucket-here"),
        *("--poses", data / "poses.json", "--labels", data / "labels.json"),
    )
    assert done.returncode == 1
    assert "s3://no-such-bucket-here: left out: list s3://no-such-bucket-here: NoSuchBucket" in done.stdout
    assert "NOT COMPLETE: audited without s3://no-such-bucket-here" in done.stderr


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.integers(0, 8), st.data())
def test_near_hashes_are_those_that_a_full_comparison_finds(hashes, most_bits, data):
    for hash_ in list(hashes):  # neighbours, which random numbers never are
        flips = data.draw(st.lists(st.integers(0, 63), max_size=most_bits + 1))
        hashes.append(hash_ ^ sum(1 << bit for bit in set(flips)))
    expected = [
        (a, b, (hashes[a] ^ hashes[b]).bit_count())
        for a in range(len(hashes))
        for b in range(a + 1, len(hashes))
        if (hashes[a] ^ hashes[b]).bit_count() <= most_bits
    ]
    assert find_near(np.array(hashes, np.uint64), most_bits) == expected


def test_near_duplicates_without_their_package_are_refused_before_the_listing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imagehash", None)

    status = main(["audit", "--sources", str(tmp_path / "no such folder"), "--near-duplicates"])

    assert status == 2
    assert "near-duplicates need the ImageHash package: pip install" in capsys.readouterr().err
