import re
from typing import Any

import pytest
from refusals import refusal

from physiq_ray.storage import Bucket, retry
from physiq_ray.storage.deletion import Condition, State, delete_objects, find_condition
from physiq_ray.storage.versions import Target

pytestmark = pytest.mark.usefixtures("without_waiting")


ETAG_A, ETAG_B = "0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f"


def remove_etags_from_batches(params: dict[str, Any], **_: Any) -> None:
    """Send DeleteObjects without ETags, so that the server seems to ignore them."""
    params["Delete"] = {"Objects": [{"Key": item["Key"]} for item in params["Delete"]["Objects"]]}


def remove_if_match(params: dict[str, Any], **_: Any) -> None:
    params.pop("IfMatch", None)


def test_the_condition_is_detected_and_the_probe_leaves_no_object(make_bucket, read_bucket, on_request):
    bucket = make_bucket({"a.jpg": b"a"})
    assert find_condition(Bucket(bucket, "x/")) == Condition.BATCH
    on_request("provide-client-params.s3.DeleteObjects", remove_etags_from_batches)
    assert find_condition(Bucket(bucket)) == Condition.SINGLE
    on_request("provide-client-params.s3.DeleteObject", remove_if_match)
    assert find_condition(Bucket(bucket)) == Condition.LOOK
    assert read_bucket(bucket) == {"a.jpg": b"a"}


def test_the_probe_leaves_no_version_in_a_versioned_bucket(make_bucket, s3_direct):
    bucket = make_bucket({})
    s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert find_condition(Bucket(bucket)) == Condition.BATCH
    versions = s3_direct.list_object_versions(Bucket=bucket)
    assert not versions.get("Versions")
    assert not versions.get("DeleteMarkers")


@pytest.mark.parametrize("condition", list(Condition))
def test_a_changed_photo_is_kept_under_every_condition(make_bucket, read_bucket, on_request, condition):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"new"})
    if condition != Condition.BATCH:
        on_request("provide-client-params.s3.DeleteObjects", remove_etags_from_batches)
    if condition == Condition.LOOK:
        on_request("provide-client-params.s3.DeleteObject", remove_if_match)
    targets = [Target("a.jpg", ETAG_A, 1), Target("b.jpg", ETAG_B, 1), Target("c.jpg", ETAG_B, 1)]

    outcomes = delete_objects(bucket, targets, condition)

    assert [outcome.state for outcome in outcomes] == [State.DELETED, State.CHANGED, State.GONE]
    assert re.fullmatch(rf"changed since it was listed \(ETag {ETAG_B} → [0-9a-f]{{32}}\)", outcomes[1].error)
    assert read_bucket(bucket) == {"b.jpg": b"new"}


def test_a_key_that_the_response_does_not_mention_is_looked_up(make_bucket, read_bucket, on_request):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    on_request(
        "after-call.s3.DeleteObjects",
        lambda parsed, **_: parsed.clear() or parsed.update(ResponseMetadata={}),
    )

    outcomes = delete_objects(
        bucket, [Target("a.jpg", ETAG_A, 1), Target("b.jpg", ETAG_A, 1)], Condition.BATCH
    )

    assert [outcome.state for outcome in outcomes] == [State.DELETED, State.CHANGED]
    assert read_bucket(bucket) == {"b.jpg": b"b"}


@pytest.mark.slow
@pytest.mark.parametrize("condition", [Condition.BATCH, Condition.SINGLE])
def test_a_deletion_whose_response_was_lost_is_reported_as_deleted(
    make_bucket, read_bucket, on_request, condition
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    operation = "DeleteObjects" if condition == Condition.BATCH else "DeleteObject"
    lost = []

    def lose_response(http_response, parsed, **_):
        if not lost:
            lost.append(parsed)
            parsed.clear()
            parsed |= {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            http_response.status_code = 503

    on_request(f"after-call.s3.{operation}", lose_response)

    outcomes = delete_objects(bucket, [Target("a.jpg", ETAG_A, 1)], condition)

    assert lost
    assert [outcome.state for outcome in outcomes] == [State.DELETED]
    assert read_bucket(bucket) == {"b.jpg": b"b"}


def test_a_deletion_on_an_unavailable_server_is_reported_as_failed(
    make_bucket, read_bucket, on_request, monkeypatch
):
    bucket = make_bucket({"a.jpg": b"a"})
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    on_request("before-send.s3.DeleteObjects", lambda **_: refusal("ServiceUnavailable", "scripted", 503))
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)

    (outcome,) = delete_objects(bucket, [Target("a.jpg", ETAG_A, 1)], Condition.BATCH)

    assert outcome.state == State.FAILED
    assert "ServiceUnavailable after several tries; try again later" in outcome.error
    assert read_bucket(bucket) == {"a.jpg": b"a"}


def test_a_refused_deletion_of_the_probe_does_not_prove_the_condition(make_bucket, on_request):
    bucket = make_bucket({})
    on_request("before-send.s3.DeleteObjects", lambda **_: refusal("NotImplemented", "no ETag here", 501))
    assert find_condition(Bucket(bucket)) == Condition.SINGLE
    on_request("before-send.s3.DeleteObject", lambda **_: refusal("NotImplemented", "no If-Match here", 501))
    assert find_condition(Bucket(bucket)) == Condition.LOOK


def test_a_key_that_a_server_may_trim_is_not_sent_in_xml(make_bucket, read_bucket, on_request):
    bucket = make_bucket({"a.jpg": b"a", " a.jpg": b"a", "b.jpg": b"a"})
    in_batches: list[Any] = []
    on_request(
        "provide-client-params.s3.DeleteObjects",
        lambda params, **_: in_batches.extend(item["Key"] for item in params["Delete"]["Objects"]),
    )

    outcomes = delete_objects(
        bucket, [Target(" a.jpg", ETAG_A, 1), Target("b.jpg", ETAG_A, 1)], Condition.BATCH
    )

    assert [outcome.state for outcome in outcomes] == [State.DELETED, State.DELETED]
    assert in_batches == ["b.jpg"]
    assert read_bucket(bucket) == {"a.jpg": b"a"}
