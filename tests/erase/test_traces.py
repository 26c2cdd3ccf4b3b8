"""Traces of the photos are found and erased in every place; everything else stays as it was."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from physiq_ray.config import Settings
from physiq_ray.constants import COMPLETE_FILE
from physiq_ray.erase.traces import MODEL_FILE, RECORD_FILE
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.prepared import CacheFolder, photo_keys
from physiq_ray.review.journal import REVIEW, Decision, Journal, read_journal
from physiq_ray.training import folder as run_folder
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.record import RunRecord


def md5(body):
    return hashlib.md5(body).hexdigest()


def read_files(folder):
    """Give all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def write_parquet(columns, metadata=None):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def photos(make_bucket):
    """Fill a bucket with photos of 17 and of somebody else; give its name."""
    return make_bucket({"17/a.jpg": b"a", "17/b.jpg": b"b", "18/c.jpg": b"c"})


@pytest.fixture
def flags(photos):
    return ["--match", "^17/", "--sources", f"s3://{photos}"]


def erase_all(erase, flags, *more):
    """Look, erase what was found, and look again; give the first look and the printed results."""
    look = json.loads(erase(*flags, *more, "--json").out)
    done = erase(*flags, *more, "--delete", typed=f"{look['items']}\n")
    assert done.status == 0, done.err
    again = json.loads(erase(*flags, *more, "--json").out)
    assert (again["items"], again["problems"]) == (0, [])
    return look, done.out


def test_prepared_photos_are_erased_with_their_shards(photos, flags, erase, tmp_path):
    cache = CacheFolder(tmp_path / "cache", 2**30)

    def add(key, body, side=64):
        keys = photo_keys([f"s3://{photos}/{key}"], [len(body)], [md5(body)])
        name = cache.add(keys, np.full((1, side, side, 3), body[0], np.uint8), side)
        return f"{cache.folder(side).name}/{name}.arrow"

    ours = {add("17/a.jpg", b"a"), add("17/b.jpg", b"b", 96)}
    theirs = {add("18/c.jpg", b"c"), add("17/a.jpg", b"of another time")}
    before = read_files(cache.root)
    look, out = erase_all(erase, flags)
    assert {str(Path(trace["uri"]).relative_to(cache.root)) for trace in look["traces"]} == ours
    assert "prepared photos: 2 erased" in out
    assert read_files(cache.root) == {name: before[name] for name in theirs}


def test_a_shard_that_a_training_uses_is_reported(photos, flags, erase, tmp_path):
    cache = CacheFolder(tmp_path / "cache", 2**30)
    keys = photo_keys([f"s3://{photos}/17/a.jpg"], [1], [md5(b"a")])
    name = cache.add(keys, np.zeros((1, 64, 64, 3), np.uint8), 64)
    with cache.using([name]):
        done = erase(*flags, "--delete", typed="3\n")
    assert done.status == 1
    assert "a running training uses it; try again when it has ended" in done.err
    (journal,) = tmp_path.glob("erased-*.jsonl")
    done = erase("--uris", journal.name, *flags[2:], "--delete", typed="1\n")
    assert done.status == 0, done.err
    assert not list(cache.root.glob("*/*.arrow"))


def test_prepared_photos_of_a_bucket_are_erased_with_their_lists(
    photos, flags, erase, make_bucket, read_bucket, deny, s3_direct, tmp_path
):
    ours, theirs = (
        b"".join(photo_keys([f"s3://{photos}/{key}"], [1], [md5(body)]))
        for key, body in (("17/a.jpg", b"a"), ("18/c.jpg", b"c"))
    )
    files = {"64px-1/1.arrow": b"1", "64px-1/1.keys": theirs + ours, "64px-1/2.arrow": b"2"}
    cache = make_bucket({**files, "64px-1/2.keys": theirs, "64px-1/1x.arrow": b"3"})
    flags += ["--cache-dir", f"s3://{cache}"]
    deny(cache, "s3:DeleteObject*", "64px-1/1.arrow")
    failed = erase(*flags, "--delete", typed="4\n")
    assert (failed.status, "photos: 2 erased" in failed.out) == (1, True)
    assert f"s3://{cache}/64px-1/1.keys: stays until the other files are erased" in failed.err
    assert "64px-1/1.keys" in read_bucket(cache)
    s3_direct.delete_bucket_policy(Bucket=cache)
    (journal,) = tmp_path.glob("erased-*.jsonl")
    done = erase("--uris", journal.name, *flags[2:], "--delete", typed="2\n")
    assert done.status == 0, done.err
    assert read_bucket(cache) == {"64px-1/2.arrow": b"2", "64px-1/2.keys": theirs, "64px-1/1x.arrow": b"3"}


@pytest.mark.slow
def test_rows_of_answers_are_erased_also_from_older_versions(
    photos, flags, erase, make_versioned, read_history, s3_direct, tmp_path
):
    uris = [f"s3://{photos}/{key}" for key in ("17/a.jpg", "18/c.jpg", "17/b.jpg")]
    ours = write_parquet({"uri": uris, "confidence": [0.1, 0.2, 0.3]}, {"model_version": "7"})
    theirs = write_parquet({"uri": uris[1:2], "confidence": [0.5]})
    bucket = make_versioned()
    for key, body in (
        ("may/part-00000.parquet", ours),
        ("may/part-00001.parquet", theirs),
        ("may2/x.parquet", ours),
    ):
        for _ in range(2):
            s3_direct.put_object(Bucket=bucket, Key=key, Body=body)
    s3_direct.put_object(Bucket=bucket, Key="may/gone.parquet", Body=ours)
    s3_direct.delete_object(Bucket=bucket, Key="may/gone.parquet")
    before = read_history(bucket)
    local = tmp_path / "june"
    local.mkdir()
    (local / "part-00000.parquet").write_bytes(ours)
    (local / "_unreadable.jsonl").write_text(
        "".join(
            json.dumps({"uri": uri, "step": "fetch", "error": "é"}, ensure_ascii=False) + "\n" for uri in uris
        )
    )
    (local / "figure.png").write_bytes(b"png")

    look, _ = erase_all(erase, flags, "--answers", f"s3://{bucket}/may", "june")

    assert sorted(trace["count"] for trace in look["traces"]) == [2] * 5
    table = pq.read_table(local / "part-00000.parquet")
    assert table.to_pydict() == {"uri": uris[1:2], "confidence": [0.2]}
    assert table.schema.metadata == {b"model_version": b"7"}
    assert json.loads((local / "_unreadable.jsonl").read_text())["uri"] == uris[1]
    assert (local / "figure.png").read_bytes() == b"png"
    after = read_history(bucket)
    stays = {item for item in before if item[0] in {"may/part-00001.parquet", "may2/x.parquet"}}
    assert stays <= after
    (new,) = after - before
    assert new[0] == "may/part-00000.parquet"
    assert {key for key, _, etag in after - stays - {new} if etag} == set()
    body = s3_direct.get_object(Bucket=bucket, Key="may/part-00000.parquet")["Body"].read()
    assert pq.read_table(pa.BufferReader(body))["uri"].to_pylist() == uris[1:2]


def test_a_damaged_file_of_answers_is_reported(flags, erase, tmp_path):
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1")
    done = erase(*flags, "--answers", ".", "no-such-folder")
    assert done.status == 1
    assert "part-00000.parquet: not readable as Parquet" in done.err
    assert "it may hold traces" in done.err
    assert "no-such-folder: no such file or folder" in done.err


def save_run(name, rows, output, storage="runs"):
    """Write the folder of a run: rows are (uri, body, split)."""
    table = pa.Table.from_pylist(
        [
            {
                "uri": uri,
                "bucket": uri.split("/")[2],
                "key": uri.split("/", 3)[3],
                "size": len(body),
                "etag": md5(body),
                "pose_id": 7,
                "class_index": 0,
                "group": uri,
                "split": split,
            }
            for uri, body, split in rows
        ],
        MANIFEST_SCHEMA,
    )
    settings = Settings(output=str(output), storage=storage, weights="random")
    record = RunRecord.of_manifest(Manifest(table, ClassMapping.of_poses([7])), {7: "Back Lat Spread"})
    RunFolder(storage, name).save_record(record, settings)


def test_rows_of_runs_are_erased_and_their_models_are_named(photos, flags, erase, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"s3://{photos}/"
    theirs = (f"{uri}18/c.jpg", b"c", "validation")
    old = (f"{uri}17/a.jpg", b"an older content", "train")
    save_run("spring", [(f"{uri}17/a.jpg", b"a", "train"), (f"{uri}17/b.jpg", b"b", "test"), theirs], "model")
    save_run("fold-1", [old, theirs], "other", "runs")
    save_run("autumn", [theirs], "third")
    (tmp_path / "model").mkdir()
    lines = [
        json.dumps({"uri": f"{uri}{key}", "step": "decode", "error": "x"}) for key in ("17/b.jpg", "18/c.jpg")
    ]
    (tmp_path / "model/quarantine.jsonl").write_text("\n".join(lines) + "\n")
    cache = CacheFolder(tmp_path / "cache", 2**30)
    cache.add(photo_keys([old[0]], [len(old[1])], [md5(old[1])]), np.zeros((1, 64, 64, 3), np.uint8), 64)
    autumn = read_files(tmp_path / "runs/autumn")

    look, out = erase_all(erase, flags)

    assert [(run["run"], run["trained_on"], run["used"]) for run in look["trained"]] == [
        ("fold-1", 1, 1),
        ("spring", 1, 2),
    ]
    assert look["trained"][1]["model"] == str(tmp_path / "model" / COMPLETE_FILE)
    assert "run spring: 1 photos to train on, of 2" in out
    for run in ("spring", "fold-1"):
        assert pq.read_table(tmp_path / "runs" / run / "manifest.parquet")["uri"].to_pylist() == [theirs[0]]
    assert read_files(tmp_path / "runs/autumn") == autumn
    assert (tmp_path / "model/quarantine.jsonl").read_text() == lines[1] + "\n"
    assert not list(cache.root.glob("*/*.arrow"))


def test_the_names_of_a_run_s_files_are_those_that_training_writes():
    assert (RECORD_FILE, MODEL_FILE) == (run_folder.RECORD_FILE, COMPLETE_FILE)


def test_uploads_of_the_same_content_are_erased_from_the_feedback(flags, erase, make_bucket, read_bucket):
    ours, theirs = md5(b"a"), md5(b"c")
    named = {"photo_md5": ours, "request_id": "r1"}
    files = {
        f"waiting-for-label/{ours}.json": json.dumps(named).encode(),
        f"waiting-for-label/{ours}.jpg": b"jpg",
        "2026-11-28/x.json": json.dumps(named).encode(),
        "2026-11-28/x.jpg": b"jpg",
        f"labels/{ours}-7.json": b'{"poseId": 7}',
        "labels/request-0f-7.json": b'{"requestId": "r1"}',
    }
    others = {
        f"waiting-for-label/{theirs}.json": json.dumps({"photo_md5": theirs, "request_id": "r2"}).encode(),
        f"waiting-for-label/{theirs}.jpg": b"jpg",
        "2026-11-28/y.json": b"{}",
        "2026-11-28/y.jpg": b"jpg",
        f"labels/{theirs}-7.json": b"{}",
        "labels/request-1f-7.json": b'{"requestId": "r2"}',
    }
    bucket = make_bucket({**files, **others})
    look, _ = erase_all(erase, flags, "--feedback", f"s3://{bucket}")
    assert len(look["traces"]) == 6
    assert read_bucket(bucket) == others


def test_photos_that_cleanse_moved_are_erased_with_their_lines(
    make_bucket, read_bucket, erase, write_labels, tmp_path
):
    bucket = make_bucket({"17/a.jpg": b"a", "17/b.jpg": b"b", "18/c.jpg": b"c", "18/d.jpg": b"d"})
    attic = make_bucket({f"old/{bucket}/17/x.jpg": b"x"})
    write_labels(("17/b.jpg", "17"), ("18/d.jpg", "18"))
    cleanse = ["cleanse", "--sources", f"s3://{bucket}", "--min-age-hours", "0", "--max-delete-share", "1"]
    from physiq_ray.cli import main

    assert main([*cleanse, "--move-to", f"s3://{attic}/old", "--delete", "--yes", "--expect", "2"]) == 0
    (journal,) = tmp_path.glob("deleted-*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 4

    look, out = erase_all(erase, ["--match", "^17/", "--sources", f"s3://{bucket}"])

    assert {item["uri"] for item in look["photos"]} == {
        f"s3://{bucket}/17/b.jpg",
        f"s3://{attic}/old/{bucket}/17/a.jpg",
    }
    assert read_bucket(bucket) == {"18/d.jpg": b"d"}
    assert read_bucket(attic) == {
        f"old/{bucket}/17/x.jpg": b"x",
        f"old/{bucket}/18/c.jpg": b"c",
    }
    assert journal.read_text().splitlines(keepends=True) == [line for line in lines if "18/c.jpg" in line]
    assert "journals: 1 erased" in out


class Killed(BaseException):
    """Stands for SIGKILL: no code under test catches it."""


def test_the_decisions_of_a_review_are_erased_from_its_journal(photos, flags, erase, tmp_path):
    path = tmp_path / "review-20261128T120000Z-host-1.jsonl"
    keys = ["17/a.jpg", "18/c.jpg", "17/b.jpg", "17/b.jpg"]
    decisions = [
        Decision(f"s3://{photos}/{key}", 5, REVIEW, f"2026-11-28T12:00:0{number}")
        for number, key in enumerate(keys)
    ]
    decisions[3] = replace(decisions[3], undone=decisions[2].time)
    with Journal(path) as journal:
        journal.write(decisions)

    look, out = erase_all(erase, flags)

    assert [trace["count"] for trace in look["traces"]] == [3]
    assert "journals: 1 erased" in out
    assert read_journal(path) == ([decisions[1]], None)


def test_the_journal_of_a_running_review_is_reported_and_left(photos, flags, erase, tmp_path):
    path = tmp_path / "review-20261128T120000Z-host-1.jsonl"
    with Journal(path) as journal:
        journal.write([Decision(f"s3://{photos}/17/a.jpg", 5, REVIEW, "2026-11-28T12:00:00")])
        before = path.read_bytes()

        done = erase(*flags, "--delete", typed="2\n")

        assert done.status == 1
        assert f"{path.name}: a review writes it; stop it, then run again" in done.err
        assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [1, 2, 3, 4, 5])
def test_after_a_kill_the_journal_finds_the_rest(
    erase, make_versioned, s3_direct, read_history, tmp_path, on_request, kill_at, write_labels
):
    bucket = make_versioned()
    write_labels(("a.jpg", "17"), ("b.jpg", "18"))
    # The content of b.jpg is that of an older version of a.jpg, which is no reason to erase it.
    for key, body in (("a.jpg", b"b"), ("a.jpg", b"a2"), ("copy.jpg", b"a2"), ("b.jpg", b"b")):
        s3_direct.put_object(Bucket=bucket, Key=key, Body=body)
    answers = write_parquet({"uri": [f"s3://{bucket}/{name}.jpg" for name in ("a", "b", "copy")]})
    s3_direct.put_object(Bucket=bucket, Key="answers/part-00000.parquet", Body=answers)
    flags = ["--sources", f"s3://{bucket}", "--answers", f"s3://{bucket}/answers"]
    sent = iter(range(1, 100))

    def kill(**_: Any) -> None:
        if next(sent) == kill_at:
            raise Killed

    on_request("before-call.s3.DeleteObject", kill)
    try:
        done = erase("--group", "17", *flags, "--delete", typed="4\n")
        assert (kill_at, done.status) == (5, 0)  # there are four such requests
    except Killed:
        (journal,) = tmp_path.glob("erased-*.jsonl")
        look = json.loads(erase("--uris", journal.name, *flags, "--json").out)
        done = erase("--uris", journal.name, *flags, "--delete", typed=f"{look['items']}\n")
        assert (done.status, look["items"] > 0) == (0, True), done.err
    assert sorted(key for key, *_ in read_history(bucket)) == ["answers/part-00000.parquet", "b.jpg"]
    table = s3_direct.get_object(Bucket=bucket, Key="answers/part-00000.parquet")["Body"].read()
    assert pq.read_table(pa.BufferReader(table))["uri"].to_pylist() == [f"s3://{bucket}/b.jpg"]
    assert not list(tmp_path.glob("erased-*.jsonl"))
