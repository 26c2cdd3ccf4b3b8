import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from physiq_ray.audit import find_near


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
    assert f"{data}/photos: 19 photos, 18 labelled, 1 without a label" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["Front", "Lat", "Spread", "(1)", "11", "3", "77.8%"] in lines
    assert ["Side", "Chest", "(2)", "3", "1", "22.2%"] in lines
    assert "the largest pose has 3.5 times the photos of the smallest – uneven" in done.stdout
    assert f"1 contents stored more than once\n  {data}/photos/1/00.jpg = {data}/photos/1/copy of 00.jpg" in (
        done.stdout
    )
    assert "cannot be read" not in done.stdout


def test_a_photo_of_an_unknown_pose_is_not_counted_without_a_label(run_cli, data):
    labels = [{"poseId": 99, "s3Filename": "unlabelled.jpg"}]
    (data / "labels.json").write_text(json.dumps(labels))
    done = audit(run_cli, data, "--labels", data / "labels.json")
    assert done.returncode == 0, done.stderr
    assert "19 photos, 19 labelled (1 by unusable labels only), 0 without a label" in done.stdout
    assert "1 labels of unknown poses: record 1: unlabelled.jpg: pose 99" in done.stdout


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
    [(uri, reason)] = found["check"]["unreadable"]
    assert uri == f"{data}/photos/2/cut.jpg"
    assert "truncated" in reason
    pairs = {(a, b) for a, b, _ in found["check"]["near_duplicates"]}
    assert (f"{data}/photos/1/01.jpg", f"{data}/photos/1/resized.jpg") in pairs
    assert (f"{data}/photos/1/00.jpg", f"{data}/photos/1/copy of 00.jpg") not in pairs
    assert found["poses"][0] == {
        "pose_id": 1,
        "name": "Front Lat Spread",
        "train": 11,
        "validation": 3,
        "share": pytest.approx(14 / 18),
    }
    with Image.open(data / "s.png") as sheet:
        assert min(sheet.size) > 400
        assert len(np.unique(np.asarray(sheet.convert("L")))) > 100

    from physiq_ray.manifest import Manifest

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
