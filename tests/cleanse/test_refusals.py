"""A refusal of S3 for one photo does not stop the others; a refusal for all is reported with the remedy."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from cleansing import names_and_states, read_journal_lines
from refusals import refusal

ETAG_A = "0cc175b9c0f1b6a831c399e269772661"
KMS_KEY = "arn:aws:kms:eu-west-1:123:key/k"
NO_KMS = (
    "User: arn:aws:iam::123:user/u is not authorized to perform: kms:Decrypt on resource: "
    f"{KMS_KEY} because no identity-based policy allows the kms:Decrypt action"
)
NO_TAGS = (
    'User: arn:aws:iam::123:user/u is not authorized to perform: s3:GetObjectTagging on resource: "arn:x" '
    "because no identity-based policy allows the s3:GetObjectTagging action"
)
LOCKED = "Access Denied because object protected by object lock."


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_waiting")]


def refuse_copies(on_request: Any, faults: dict[str, Any]) -> None:
    """Let S3 refuse to copy some keys."""

    def send(request: Any, **_: Any) -> Any:
        return next((fault for key, fault in faults.items() if request.url.endswith(f"/{key}")), None)

    on_request("before-send.s3.CopyObject", send)


@pytest.fixture
def refuse_deletions(on_request) -> Callable[[dict[str, tuple[str, str]]], None]:
    """Give a function that lets S3 refuse keys of a batch, each with its code and message."""

    def refuse(faults: dict[str, tuple[str, str]]) -> None:
        def request_fewer(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
            objects = params["Delete"]["Objects"]
            wanted = [item for item in objects if item["Key"] not in faults]
            context["refused"] = [item["Key"] for item in objects if item["Key"] in faults]
            # A batch must not be empty, so a missing key replaces a batch that is refused completely.
            params["Delete"] = {"Objects": wanted or [{"Key": "nothing"}]}

        def add_errors(parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
            for key in context.get("refused", ()):
                code, message = faults[key]
                parsed.setdefault("Errors", []).append({"Key": key, "Code": code, "Message": message})

        on_request("provide-client-params.s3.DeleteObjects", request_fewer)
        on_request("after-call.s3.DeleteObjects", add_errors)

    return refuse


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            refusal("InvalidObjectState", "The operation is not valid for the object's storage class"),
            "InvalidObjectState; the object is in an archive class (Glacier): restore it, then try again "
            "(S3: The operation is not valid for the object's storage class)",
        ),
        (
            refusal("ObjectNotInActiveTierError", "not in the active tier"),
            "ObjectNotInActiveTierError; the object is in an archive class (Glacier): restore it, then try "
            "again (S3: not in the active tier)",
        ),
        (
            refusal("AccessDenied", NO_KMS),
            f"AccessDenied; the role or key needs kms:Decrypt on {KMS_KEY}, which encrypts the object "
            f"(S3: {NO_KMS})",
        ),
        (
            refusal("KMS.DisabledException", "the key is disabled", 400),
            "KMS.DisabledException; the object's KMS key cannot be used: check the key's state and its "
            "policy (S3: the key is disabled)",
        ),
        (refusal("MethodNotAllowed", "not allowed against this resource", 405), "not allowed against this"),
    ],
)
def test_a_photo_that_cannot_be_moved_does_not_stop_the_others(
    make_bucket, label, cleanse, read_bucket, on_request, tmp_path, fault, sentence
):
    bucket, attic = make_bucket({f"{name}.jpg": b"x" for name in "abcdefgh"}), make_bucket({})
    label("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    refuse_copies(on_request, {"f.jpg": fault})

    ran = cleanse("--sources", f"s3://{bucket}", "--move-to", f"s3://{attic}", typed="4\n")

    assert ran.status == 1
    (failure,) = ran.err.partition("to leave them: ")[2].splitlines()
    assert failure.startswith(
        f"physiq-ray cleanse: s3://{bucket}/f.jpg: copy s3://{bucket}/f.jpg to s3://{attic}/{bucket}/f.jpg: "
    )
    assert sentence in failure
    assert f"s3://{bucket}: 3 of 4 moved, 0.0 MB freed, 1 failed" in ran.out
    assert set(read_bucket(bucket)) == {f"{name}.jpg" for name in "abcdf"}
    assert set(read_bucket(attic)) == {f"{bucket}/{name}.jpg" for name in "egh"}
    assert ("f.jpg", "failed") in names_and_states(read_journal_lines(tmp_path))


@pytest.mark.parametrize(
    ("message", "sentence", "prints_policy"),
    [
        (LOCKED, "the object is locked: wait until its retention ends, or remove its legal hold", False),
        ("Access Denied", "the role or key needs s3:DeleteObject and s3:GetObject on", True),
    ],
)
def test_a_photo_that_cannot_be_deleted_does_not_stop_the_others(
    make_bucket, label, cleanse, read_bucket, refuse_deletions, monkeypatch, message, sentence, prints_policy
):
    monkeypatch.setattr("physiq_ray.cleanse.remove.MAX_BATCH", 2)
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcdefghij"})
    label("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    refuse_deletions({"f.jpg": ("AccessDenied", message)})

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", "1", typed="6\n")

    assert ran.status == 1
    assert f"physiq-ray cleanse: s3://{bucket}/f.jpg: delete s3://{bucket}/f.jpg: AccessDenied; " in ran.err
    assert sentence in ran.err
    assert f"(S3: {message})" in ran.err
    assert ("needs this policy" in ran.err) is prints_policy
    assert "NOT COMPLETE" not in ran.err
    assert f"s3://{bucket}: 5 of 6 deleted, 0.0 MB freed, 1 failed" in ran.out
    assert set(read_bucket(bucket)) == {f"{name}.jpg" for name in "abcdf"}


def test_a_whole_batch_that_is_denied_stops_the_bucket(
    make_bucket, label, cleanse, read_bucket, refuse_deletions, monkeypatch
):
    monkeypatch.setattr("physiq_ray.cleanse.remove.MAX_BATCH", 2)
    monkeypatch.setattr("physiq_ray.cleanse.remove.BATCHES_AT_ONCE", 1)
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcdef"})
    label("a.jpg", "b.jpg")
    refuse_deletions({"c.jpg": ("AccessDenied", ""), "d.jpg": ("AccessDenied", "")})

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--max-delete-share", "1", typed="4\n")

    assert ran.status == 1
    assert f"NOT COMPLETE: s3://{bucket}: S3 denied every photo of a batch; the rest was not tried" in ran.err
    assert "needs this policy" in ran.err
    assert len(read_bucket(bucket)) == 6


@pytest.mark.parametrize(
    ("fault", "sentence", "prints_policy"),
    [
        (refusal("AccessDenied", NO_TAGS), "the role or key needs s3:GetObjectTagging on arn:x (S3: ", False),
        (refusal("AccessDenied", "Access Denied"), "the role or key needs s3:GetObject on arn:aws:s3", True),
        (
            refusal("AccessDenied", NO_TAGS.replace("GetObjectTagging", "PutObject")),
            "the role or key needs s3:GetObject on arn:aws:s3",
            True,
        ),
        (
            refusal("ExpiredToken", "it has expired", 400),
            "the credentials were refused (ExpiredToken)",
            False,
        ),
    ],
)
def test_the_policy_is_printed_only_if_it_grants_the_missing_permission(
    make_bucket, label, cleanse, read_bucket, on_request, fault, sentence, prints_policy
):
    bucket, attic = make_bucket({"a.jpg": b"a", "b.jpg": b"b"}), make_bucket({})
    label("a.jpg")
    refuse_copies(on_request, {"b.jpg": fault})

    ran = cleanse("--sources", f"s3://{bucket}", "--move-to", f"s3://{attic}", typed="1\n")

    assert ran.status == 1
    assert sentence in ran.err
    assert ("needs this policy" in ran.err) is prints_policy
    assert len(read_bucket(bucket)) == 2


def test_wrong_credentials_print_no_policy(make_bucket, label, cleanse, on_request):
    bucket = make_bucket({"a.jpg": b"a"})
    label("a.jpg")
    on_request("before-send.s3.ListObjectsV2", lambda **_: refusal("InvalidAccessKeyId", "unknown"))

    ran = cleanse("--sources", f"s3://{bucket}")

    assert ran.status == 1
    assert "the credentials were refused (InvalidAccessKeyId); check AWS_PROFILE and keys" in ran.err
    assert "policy" not in ran.err


@pytest.mark.parametrize(
    ("fault", "sentence", "prints_policy"),
    [
        (refusal("InvalidObjectState", "archived"), "the object is in an archive class (Glacier)", False),
        (refusal("AccessDenied", NO_KMS), f"the role or key needs kms:Decrypt on {KMS_KEY}", False),
        (refusal("AccessDenied", "Access Denied"), "the role or key needs s3:GetObject on", True),
    ],
)
def test_a_photo_that_cannot_be_restored_does_not_stop_the_others(
    make_bucket, label, cleanse, read_bucket, on_request, tmp_path, fault, sentence, prints_policy
):
    bucket, attic = make_bucket({f"{name}.jpg": b"x" for name in "abcd"}), make_bucket({})
    label("a.jpg")
    flags = ["--max-delete-share", "1", "--move-to", f"s3://{attic}"]
    assert cleanse("--sources", f"s3://{bucket}", *flags, typed="3\n").status == 0
    refuse_copies(on_request, {"c.jpg": fault})

    back = cleanse("--restore", next(tmp_path.glob("deleted-*.jsonl")))

    assert back.status == 1
    assert "2 restored, 0 already in place, 1 failed" in back.out
    assert f"s3://{bucket}/c.jpg: cannot be copied back from s3://{attic}/{bucket}/c.jpg: " in back.err
    assert sentence in back.err
    assert ("needs this policy" in back.err) is prints_policy
    assert set(read_bucket(bucket)) == {"a.jpg", "b.jpg", "d.jpg"}
    assert set(read_bucket(attic)) == {f"{bucket}/c.jpg"}


def test_a_denied_deletion_of_the_probe_is_reported_before_the_first_deletion(
    make_bucket, label, cleanse, read_bucket, on_request, tmp_path
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    on_request("before-send.s3.DeleteObjects", lambda **_: refusal("AccessDenied", "Access Denied"))

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", typed="1\n")

    assert ran.status == 1
    assert "the role or key needs s3:DeleteObject and s3:GetObject on" in ran.err
    assert json.loads(ran.err.partition("needs this policy:\n")[2])["Version"] == "2012-10-17"
    assert len(read_bucket(bucket)) == 2
    assert read_journal_lines(tmp_path) == []
