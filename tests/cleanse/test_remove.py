"""Photos that are deleted or moved while servers fail, processes end and photos change."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cleansing import names_and_states, read_journal_lines

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_waiting")]


ETAG_A, ETAG_B = "0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f"


def remove_etags_from_batches(params: dict[str, Any], **_: Any) -> None:
    """Send DeleteObjects without ETags, so that the server seems to ignore them."""
    params["Delete"] = {"Objects": [{"Key": item["Key"]} for item in params["Delete"]["Objects"]]}


def remove_if_match(params: dict[str, Any], **_: Any) -> None:
    params.pop("IfMatch", None)


@pytest.fixture
def attic(make_bucket):
    return make_bucket({})


def test_a_server_that_ignores_conditions_is_detected_before_the_first_deletion(
    make_bucket, label, cleanse, read_bucket, on_request
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    on_request("provide-client-params.s3.DeleteObjects", remove_etags_from_batches)
    on_request("provide-client-params.s3.DeleteObject", remove_if_match)
    flags = ["--sources", f"s3://{bucket}", "--delete"]

    refused = cleanse(*flags, typed="1\n")
    assert refused.status == 1
    assert "this S3 server ignores the ETag of a deletion" in refused.err
    assert len(read_bucket(bucket)) == 2

    allowed = cleanse(*flags, "--allow-unconditional", typed="1\n")
    assert allowed.status == 0
    assert set(read_bucket(bucket)) == {"a.jpg"}


def test_a_photo_that_changes_after_the_listing_is_kept_and_named(
    make_bucket, label, cleanse, read_bucket, on_request, s3_direct, tmp_path
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    label("a.jpg")

    def change(request, **_):
        if b"<Key>b.jpg" in request.body:
            s3_direct.put_object(Bucket=bucket, Key="b.jpg", Body=b"new")

    on_request("before-send.s3.DeleteObjects", change)

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", "1", typed="2\n")

    assert ran.status == 0
    assert f"stays: s3://{bucket}/b.jpg changed since it was listed (ETag {ETAG_B} → " in ran.out
    assert read_bucket(bucket) == {"a.jpg": b"a", "b.jpg": b"new"}
    assert names_and_states(read_journal_lines(tmp_path))[2:] == [("b.jpg", "changed"), ("c.jpg", "deleted")]


def test_errors_of_single_keys_are_retried_or_reported(
    make_bucket, label, cleanse, read_bucket, on_request, tmp_path
):
    bucket = make_bucket({f"{name}.jpg": name.encode() for name in "abcd"})
    label("a.jpg")
    # S3 is busy once for b.jpg, and c.jpg is locked: neither is requested, and the response names both.

    def request_fewer(params, **_):
        keys = [item["Key"] for item in params["Delete"]["Objects"]]
        params["Delete"] = {
            "Objects": [
                item
                for item in params["Delete"]["Objects"]
                if item["Key"] != "c.jpg" and not (item["Key"] == "b.jpg" and len(keys) == 3)
            ]
        }

    def add_errors(parsed, **_):
        if not any(item["Key"] == "d.jpg" for item in parsed.get("Deleted", ())):
            return
        parsed["Errors"] = [
            {"Key": "b.jpg", "Code": "SlowDown", "Message": ""},
            {"Key": "c.jpg", "Code": "ObjectLocked", "Message": "it is locked"},
        ]

    on_request("provide-client-params.s3.DeleteObjects", request_fewer)
    on_request("after-call.s3.DeleteObjects", add_errors)

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", "1", typed="3\n")

    assert ran.status == 1
    assert f"s3://{bucket}/c.jpg: ObjectLocked it is locked" in ran.err
    assert "2 of 3 deleted" in ran.out
    assert "1 failed" in ran.out
    assert read_bucket(bucket) == {"a.jpg": b"a", "c.jpg": b"c"}
    assert names_and_states(read_journal_lines(tmp_path))[3:] == [
        ("b.jpg", "deleted"),
        ("c.jpg", "failed"),
        ("d.jpg", "deleted"),
    ]


def test_a_killed_cleanse_is_completed_by_the_next(make_bucket, label, read_bucket, run_cli, tmp_path):
    bucket = make_bucket(
        {f"{number:05d}.jpg": b"x" for number in range(1500)} | {"keep.jpg": b"k", "n.txt": b"n"}
    )
    label("keep.jpg")
    flags = [
        "--poses",
        "poses.json",
        "--labels",
        "labels.json",
        "--min-age-hours",
        "0",
        "--max-delete-share",
        "1",
    ]
    command = ["cleanse", "--sources", f"s3://{bucket}", *flags, "--delete"]
    process = subprocess.Popen(
        [sys.executable, "-m", "physiq_ray.cli", *command, "--yes", "--expect", "1500"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ.copy(),
    )
    # The probe is over when the journal has lines; a kill during the probe would leave it in the bucket.
    while not any(path.stat().st_size for path in tmp_path.glob("deleted-*.jsonl")):
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.02)  # so that the first batch has started
    process.send_signal(signal.SIGKILL)
    process.wait()

    left = [key for key in read_bucket(bucket) if key not in ("keep.jpg", "n.txt")]
    if left:
        again = run_cli(*command, "--yes", "--expect", str(len(left)))
        assert again.returncode == 0, again.stderr
    assert read_bucket(bucket) == {"keep.jpg": b"k", "n.txt": b"n"}
    first = min(tmp_path.glob("deleted-*.jsonl"))
    assert all('"deleting"' in line or '"deleted"' in line for line in Path(first).read_text().splitlines())


def test_an_interrupted_cleanse_is_completed_by_the_next(
    make_bucket, label, cleanse, read_bucket, on_request, monkeypatch
):
    monkeypatch.setattr("physiq_ray.cleanse.remove.MAX_BATCH", 10)
    monkeypatch.setattr("physiq_ray.cleanse.remove.BATCHES_AT_ONCE", 1)
    bucket = make_bucket({f"{number:03d}.jpg": b"x" for number in range(50)} | {"keep.jpg": b"k"})
    label("keep.jpg")
    flags = ["--sources", f"s3://{bucket}", "--max-delete-share", "1", "--delete"]
    num_calls = 0

    def interrupt(**_):
        nonlocal num_calls
        num_calls += 1
        if num_calls == 4:  # after the probe and two batches
            raise KeyboardInterrupt

    on_request("before-send.s3.DeleteObjects", interrupt)

    first = cleanse(*flags, typed="50\n")
    left = len(read_bucket(bucket))
    second = cleanse(*flags, typed=f"{left - 1}\n")

    assert first.status == 1
    assert "names what was deleted; run the same command again to continue" in first.err
    assert left == 31
    assert second.status == 0
    assert set(read_bucket(bucket)) == {"keep.jpg"}


def test_keys_with_special_characters_are_deleted(make_bucket, label, cleanse, read_bucket):
    special = [
        "a b+c%41.jpg",
        "é.jpg",
        "日本/写真.jpg",
        "x\ry.jpg",
        "x\x01y.jpg",
        "&<>'\".jpg",
        "q?#.jpg",
        "z\U0001f4aa.jpg",
    ]
    bucket = make_bucket({name: name.encode() for name in special} | {"x\ny.jpg": b"stays", "keep.jpg": b"k"})
    label("x\ny.jpg", "keep.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", "0.9", typed="8\n")

    assert ran.status == 0
    assert read_bucket(bucket) == {"x\ny.jpg": b"stays", "keep.jpg": b"k"}


def test_a_move_overwrites_no_other_object(make_bucket, attic, label, cleanse, read_bucket, s3_direct):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    label("a.jpg", "c.jpg")
    s3_direct.put_object(Bucket=attic, Key=f"{bucket}/b.jpg", Body=b"another object")

    ran = cleanse("--sources", f"s3://{bucket}", "--move-to", f"s3://{attic}", typed="1\n")

    assert ran.status == 1
    assert f"another object is at s3://{attic}/{bucket}/b.jpg; both stay" in ran.err
    assert len(read_bucket(bucket)) == 3
    assert read_bucket(attic) == {f"{bucket}/b.jpg": b"another object"}


def test_a_move_killed_after_the_copy_is_completed_by_the_next(
    make_bucket, attic, label, cleanse, read_bucket, s3_direct
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    label("a.jpg", "c.jpg")
    s3_direct.put_object(Bucket=attic, Key=f"{bucket}/b.jpg", Body=b"b")  # the copy of a killed run

    ran = cleanse("--sources", f"s3://{bucket}", "--move-to", f"s3://{attic}", typed="1\n")

    assert ran.status == 0
    assert set(read_bucket(bucket)) == {"a.jpg", "c.jpg"}
    assert read_bucket(attic) == {f"{bucket}/b.jpg": b"b"}


def test_a_photo_that_changes_while_it_is_moved_is_kept(
    make_bucket, attic, label, cleanse, read_bucket, on_request, s3_direct
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    label("a.jpg", "c.jpg")

    def change(request, **_):
        if b"<Key>b.jpg" in request.body:  # after the copy, before the deletion
            s3_direct.put_object(Bucket=bucket, Key="b.jpg", Body=b"new")

    on_request("before-send.s3.DeleteObjects", change)

    ran = cleanse("--sources", f"s3://{bucket}", "--move-to", f"s3://{attic}", typed="1\n")

    assert ran.status == 0
    assert "1 stay: changed since the scan" in ran.out
    assert read_bucket(bucket)["b.jpg"] == b"new"
