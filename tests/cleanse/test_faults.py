"""Servers that refuse, forget, overlook a condition or lose an answer; photos that change in between."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from keeping import answer, journal, states

from physiq_ray.storage import Bucket, retry
from physiq_ray.storage.deletion import Condition, State, delete_objects, find_condition
from physiq_ray.storage.versions import Target

ETAG_A, ETAG_B = "0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f"


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0)


def overlook_etags_in_batches(params: dict[str, Any], **_: Any) -> None:
    """Ask as if the server never read the ETags of DeleteObjects."""
    params["Delete"] = {"Objects": [{"Key": item["Key"]} for item in params["Delete"]["Objects"]]}


def overlook_if_match(params: dict[str, Any], **_: Any) -> None:
    params.pop("IfMatch", None)


def test_the_condition_is_found_out_and_the_probe_leaves_nothing(make_bucket, contents, on_request):
    bucket = make_bucket({"a.jpg": b"a"})
    assert find_condition(Bucket(bucket, "x/")) == Condition.BATCH
    on_request("provide-client-params.s3.DeleteObjects", overlook_etags_in_batches)
    assert find_condition(Bucket(bucket)) == Condition.SINGLE
    on_request("provide-client-params.s3.DeleteObject", overlook_if_match)
    assert find_condition(Bucket(bucket)) == Condition.LOOK
    assert contents(bucket) == {"a.jpg": b"a"}


def test_the_probe_leaves_no_version_in_a_versioned_bucket(make_bucket, s3_direct):
    bucket = make_bucket({})
    s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert find_condition(Bucket(bucket)) == Condition.BATCH
    versions = s3_direct.list_object_versions(Bucket=bucket)
    assert not versions.get("Versions")
    assert not versions.get("DeleteMarkers")


@pytest.mark.parametrize("condition", list(Condition))
def test_a_photo_that_changed_stays_whatever_the_server_honours(make_bucket, contents, on_request, condition):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"anew"})
    if condition != Condition.BATCH:
        on_request("provide-client-params.s3.DeleteObjects", overlook_etags_in_batches)
    if condition == Condition.LOOK:
        on_request("provide-client-params.s3.DeleteObject", overlook_if_match)
    targets = [Target("a.jpg", ETAG_A, 1), Target("b.jpg", ETAG_B, 1), Target("c.jpg", ETAG_B, 1)]

    outcomes = delete_objects(bucket, targets, condition)

    assert [outcome.state for outcome in outcomes] == [State.DELETED, State.CHANGED, State.GONE]
    assert re.fullmatch(rf"changed since it was listed \(ETag {ETAG_B} → [0-9a-f]{{32}}\)", outcomes[1].error)
    assert contents(bucket) == {"b.jpg": b"anew"}


def test_a_server_that_honours_no_condition_is_found_out_before_the_first_deletion(
    make_bucket, label, cleanse, contents, on_request
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    on_request("provide-client-params.s3.DeleteObjects", overlook_etags_in_batches)
    on_request("provide-client-params.s3.DeleteObject", overlook_if_match)
    flags = ["--sources", f"s3://{bucket}", "--delete"]

    refused = cleanse(*flags, typed="1\n")
    assert refused.status == 1
    assert "this S3 server ignores the ETag of a deletion" in refused.err
    assert len(contents(bucket)) == 2

    allowed = cleanse(*flags, "--allow-unconditional", typed="1\n")
    assert allowed.status == 0
    assert set(contents(bucket)) == {"a.jpg"}


def test_a_photo_that_changes_after_the_listing_stays_and_is_named(
    make_bucket, label, cleanse, contents, on_request, s3_direct, tmp_path
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    label("a.jpg")

    def change(request, **_):
        if b"<Key>b.jpg" in request.body:
            s3_direct.put_object(Bucket=bucket, Key="b.jpg", Body=b"anew")

    on_request("before-send.s3.DeleteObjects", change)

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", "1", typed="2\n")

    assert ran.status == 0
    assert f"stays: s3://{bucket}/b.jpg changed since it was listed (ETag {ETAG_B} → " in ran.out
    assert contents(bucket) == {"a.jpg": b"a", "b.jpg": b"anew"}
    assert states(journal(tmp_path))[2:] == [("b.jpg", "changed"), ("c.jpg", "deleted")]


def test_partial_errors_are_tried_again_or_named_by_key(
    make_bucket, label, cleanse, contents, on_request, tmp_path
):
    bucket = make_bucket({f"{name}.jpg": name.encode() for name in "abcd"})
    label("a.jpg")
    # As if b had been too busy once, and c locked: neither is asked for, and the answer names both.

    def ask_for_less(params, **_):
        keys = [item["Key"] for item in params["Delete"]["Objects"]]
        params["Delete"] = {
            "Objects": [
                item
                for item in params["Delete"]["Objects"]
                if item["Key"] != "c.jpg" and not (item["Key"] == "b.jpg" and len(keys) == 3)
            ]
        }

    def answer_for_the_rest(parsed, **_):
        if not any(item["Key"] == "d.jpg" for item in parsed.get("Deleted", ())):
            return
        parsed["Errors"] = [
            {"Key": "b.jpg", "Code": "SlowDown", "Message": ""},
            {"Key": "c.jpg", "Code": "ObjectLocked", "Message": "it is locked"},
        ]

    on_request("provide-client-params.s3.DeleteObjects", ask_for_less)
    on_request("after-call.s3.DeleteObjects", answer_for_the_rest)

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", "1", typed="3\n")

    assert ran.status == 1
    assert f"s3://{bucket}/c.jpg: ObjectLocked it is locked" in ran.err
    assert "2 of 3 deleted" in ran.out
    assert "1 failed" in ran.out
    assert contents(bucket) == {"a.jpg": b"a", "c.jpg": b"c"}
    assert states(journal(tmp_path))[3:] == [("b.jpg", "deleted"), ("c.jpg", "failed"), ("d.jpg", "deleted")]


def test_what_an_answer_says_nothing_of_is_looked_at(make_bucket, contents, on_request):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    on_request(
        "after-call.s3.DeleteObjects",
        lambda parsed, **_: parsed.clear() or parsed.update(ResponseMetadata={}),
    )

    outcomes = delete_objects(
        bucket, [Target("a.jpg", ETAG_A, 1), Target("b.jpg", ETAG_A, 1)], Condition.BATCH
    )

    assert [outcome.state for outcome in outcomes] == [State.DELETED, State.CHANGED]
    assert contents(bucket) == {"b.jpg": b"b"}


@pytest.mark.parametrize("condition", [Condition.BATCH, Condition.SINGLE])
def test_a_lost_answer_is_told_as_the_deletion_it_was(make_bucket, contents, on_request, condition):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    operation = "DeleteObjects" if condition == Condition.BATCH else "DeleteObject"
    lost = []

    def lose(http_response, parsed, **_):
        if not lost:
            lost.append(parsed)
            parsed.clear()
            parsed |= {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            http_response.status_code = 503

    on_request(f"after-call.s3.{operation}", lose)

    outcomes = delete_objects(bucket, [Target("a.jpg", ETAG_A, 1)], condition)

    assert lost
    assert [outcome.state for outcome in outcomes] == [State.DELETED]
    assert contents(bucket) == {"b.jpg": b"b"}


def test_a_server_that_stays_away_loses_nothing(make_bucket, contents, on_request, monkeypatch):
    bucket = make_bucket({"a.jpg": b"a"})
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    busy = "<Error><Code>ServiceUnavailable</Code><Message>scripted</Message></Error>"
    on_request("before-send.s3.DeleteObjects", lambda **_: answer(503, busy))
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)

    (outcome,) = delete_objects(bucket, [Target("a.jpg", ETAG_A, 1)], Condition.BATCH)

    assert outcome.state == State.FAILED
    assert "ServiceUnavailable after several tries; try again later" in outcome.error
    assert contents(bucket) == {"a.jpg": b"a"}


def test_a_journal_that_cannot_be_written_stops_before_the_deletion(
    make_bucket, label, cleanse, contents, tmp_path
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--journals", "no/such/folder", typed="1\n")

    assert ran.status == 1
    assert "the journal cannot be created, so nothing is deleted: No such file or directory" in ran.err
    assert len(contents(bucket)) == 2


def test_a_full_disk_under_the_journal_stops_the_deletion(make_bucket, label, contents, run_cli, tmp_path):
    names = [f"{number:04d}-{'x' * 150}.jpg" for number in range(400)]
    bucket = make_bucket(dict.fromkeys(names, b"x") | {"keep.jpg": b"k"})
    label("keep.jpg")
    command = [
        *(sys.executable, "-c", LIMITED, "cleanse", "--sources", f"s3://{bucket}", "--min-age-hours", "0"),
        *("--poses", "poses.json", "--labels", "labels.json", "--max-delete-share", "1"),
        *("--delete", "--yes", "--expect", "400"),
    ]

    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 1
    assert "the journal cannot be written: File too large; nothing more is deleted" in ran.stderr
    assert len(contents(bucket)) == 401


# A limit on the size of files is refused by the same calls as a full disk is.
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
from physiq_ray.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_in_the_middle_and_run_again_it_ends_the_work(make_bucket, label, contents, run_cli, tmp_path):
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
    while not list(tmp_path.glob("deleted-*.jsonl")) and process.poll() is None:
        time.sleep(0.005)
    time.sleep(0.1)  # the first batch is under way
    process.send_signal(signal.SIGKILL)
    process.wait()

    left = [key for key in contents(bucket) if key not in ("keep.jpg", "n.txt")]
    if left:
        again = run_cli(*command, "--yes", "--expect", str(len(left)))
        assert again.returncode == 0, again.stderr
    assert contents(bucket) == {"keep.jpg": b"k", "n.txt": b"n"}
    first = min(tmp_path.glob("deleted-*.jsonl"))
    assert all('"deleting"' in line or '"deleted"' in line for line in Path(first).read_text().splitlines())
