"""Changed and gone photos: what training, audit and prediction do with them."""

import json

import numpy as np
import pytest

from physiq_ray.auditing import audit_manifest
from physiq_ray.config import Settings
from physiq_ray.ingest import checking, open_photos
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.prediction.batch import list_photos
from physiq_ray.storage import list_sources, parse_sources

SIZE = 64


def listed_rows(source):
    """List a source into manifest rows in the order of their keys, alternating between classes 0 and 1."""
    [listing] = list_sources(parse_sources([str(source)]))
    rows = [
        {
            **{name: row[name] for name in ("uri", "bucket", "key", "size", "etag")},
            **{"pose_id": 1 + number % 2, "class_index": number % 2, "group": row["key"], "split": "train"},
        }
        for number, row in enumerate(listing.table.sort_by("key").to_pylist())
    ]
    return MANIFEST_SCHEMA.empty_table().from_pylist(rows, schema=MANIFEST_SCHEMA)


@pytest.mark.parametrize("where", ["bucket", "folder"])
@pytest.mark.parametrize("kind", ["memory", "none"])
def test_changed_and_gone_photos_are_quarantined(
    ray_local, make_bucket, s3_direct, make_photo, tmp_path, where, kind
):
    files = {f"{n}.jpeg": make_photo(seed=n) for n in range(6)}
    bucket = make_bucket(files) if where == "bucket" else tmp_path
    source = f"s3://{bucket}" if where == "bucket" else tmp_path
    for key, data in files.items():
        (tmp_path / key).write_bytes(data)
    table = listed_rows(source)
    other = make_photo(seed=77)
    if where == "bucket":
        s3_direct.put_object(Bucket=bucket, Key="1.jpeg", Body=other)
        s3_direct.delete_object(Bucket=bucket, Key="4.jpeg")
    else:
        (tmp_path / "1.jpeg").write_bytes(other)
        (tmp_path / "4.jpeg").unlink()
    photos = open_photos(table, image_size=SIZE, kind=kind)
    [batch] = photos.batches(np.arange(6), 8)
    assert batch.rows.tolist() == [0, 2, 3, 5]
    assert {row: item.step for row, item in batch.unreadable} == {1: "changed", 4: "gone"}
    assert "1.jpeg: it changed since it was listed" in dict(batch.unreadable)[1].error


def test_without_etags_a_change_is_found_by_the_size(ray_local, make_bucket, make_photo):
    bucket = make_bucket({"0.jpeg": make_photo(), "1.jpeg": make_photo(1)})
    rows = [
        row | {"etag": "", "size": row["size"] + number}
        for number, row in enumerate(listed_rows(f"s3://{bucket}").to_pylist())
    ]
    table = MANIFEST_SCHEMA.empty_table().from_pylist(rows, schema=MANIFEST_SCHEMA)
    [batch] = open_photos(table, image_size=SIZE, kind="none").batches(np.arange(2), 2)
    assert {row: item.step for row, item in batch.unreadable} == {1: "changed"}


def test_an_audit_reports_photos_that_changed_while_it_ran(ray_local, make_bucket, s3_direct, make_photo):
    bucket = make_bucket({f"{n}.jpeg": make_photo(seed=n) for n in range(4)})
    manifest = Manifest(listed_rows(f"s3://{bucket}"), ClassMapping.of_poses([1, 2]))
    s3_direct.put_object(Bucket=bucket, Key="1.jpeg", Body=make_photo(seed=9))
    s3_direct.delete_object(Bucket=bucket, Key="2.jpeg")
    read_photos = checking(Settings(), lambda: None)
    audit = audit_manifest(manifest, {1: "One", 2: "Two"}, read_photos=read_photos)
    assert {(item.uri[-6:], item.step) for item in audit.check.unreadable} == {
        ("1.jpeg", "changed"),
        ("2.jpeg", "gone"),
    }
    [sentence] = audit.not_looked_at
    assert sentence.startswith(
        "2 photos changed or disappeared since they were listed, the first: read s3://"
    )


def test_a_prediction_knows_the_etags_of_listed_photos_but_not_of_single_objects(make_bucket):
    bucket = make_bucket({"in/a.jpg": b"12345", "b.jpg": b"2"})
    table, failures = list_photos([f"s3://{bucket}/in", f"s3://{bucket}/b.jpg"])
    assert failures == ()
    assert {row["uri"]: row["etag"] for row in table.to_pylist()} == {
        f"s3://{bucket}/in/a.jpg": "827ccb0eea8a706c4c34a16891f84e7b",
        f"s3://{bucket}/b.jpg": "",
    }


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_train_with_a_manifest_or_resumed_does_not_use_replaced_photos(
    run_cli, make_bucket, s3_direct, make_photo, tmp_path, cache
):
    bucket = make_bucket({f"{n:02d}.jpeg": make_photo(seed=n) for n in range(24)})
    labels = [{"source": "x", "poseId": 1 + n % 2, "s3Filename": f"{n:02d}.jpeg"} for n in range(24)]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}]')
    names = ("--poses", "poses.json", "--labels", "labels.json")
    done = run_cli("audit", "--sources", f"s3://{bucket}", *names, "--manifest", "m.parquet")
    assert done.returncode == 0, done.stderr

    s3_direct.put_object(Bucket=bucket, Key="03.jpeg", Body=make_photo(seed=300))
    s3_direct.delete_object(Bucket=bucket, Key="10.jpeg")
    settings = (
        "--weights random --image-size 64 --batch-size 8 --epochs 1 --precision fp32 --run-name old "
        f"--max-unreadable-share 0.2 --cache {cache} --json"
    )
    done = run_cli("train", "--manifest", "m.parquet", *names, *settings.split(), timeout=400)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["quarantined_by_step"] == {"changed": 1, "gone": 1}
    assert sum(result["photos"][split] for split in ("train", "validation")) == 22

    s3_direct.put_object(Bucket=bucket, Key="04.jpeg", Body=make_photo(seed=400))
    done = run_cli(
        *("train", "--resume", "--run-name", "old", "--epochs", "2", "--cache", cache), timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "3 quarantined" in done.stdout
    assert "2 changed" in done.stdout
    lines = (tmp_path / "output" / "quarantine.jsonl").read_text().splitlines()
    assert {(item["uri"][-7:], item["step"]) for item in map(json.loads, lines)} == {
        ("03.jpeg", "changed"),
        ("04.jpeg", "changed"),
        ("10.jpeg", "gone"),
    }
