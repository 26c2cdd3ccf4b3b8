"""Sources and places of results are tried for real: exactly the right line is wrong, and nothing is left."""

from collections.abc import Callable
from typing import Any

import pytest
from s3_answers import error_answer, page_answer

from physiq_ray.doctor import access
from physiq_ray.storage.s3 import start_hasty_session

pytestmark = pytest.mark.slow

PHOTO = {"gym/a.jpg": b"not decoded"}
ALL_OF_A_SOURCE = "can list, get, put, tag, delete; conditional writes; conditional deletions; not versioned"
ALL_OF_A_TARGET = "can list, put, get, tag, delete; conditional writes; not versioned"


def test_a_bucket_in_which_everything_is_allowed_is_ok_and_stays_as_it_was(
    doctor: Any, make_bucket: Any, read_bucket: Any
) -> None:
    bucket = make_bucket(PHOTO)
    report = doctor(
        *("--sources", f"s3://{bucket}/gym"),
        *("--output", f"s3://{bucket}/models", "--storage", f"s3://{bucket}/runs/"),
    )
    assert (report.status, report.problems) == (0, {})
    assert report.of("source", f"s3://{bucket}/gym")["finding"] == ALL_OF_A_SOURCE
    assert report.of("output", f"s3://{bucket}/models")["finding"] == ALL_OF_A_TARGET
    assert report.of("storage", f"s3://{bucket}/runs")["finding"] == ALL_OF_A_TARGET
    assert report.of("S3", "clock")["finding"] == "agrees with the server's"
    assert report.of("S3", "credentials")["finding"] == "environment variables"
    assert read_bucket(bucket) == PHOTO


def test_no_version_of_the_test_object_stays_in_a_versioned_bucket(
    doctor: Any, make_bucket: Any, s3_direct: Any
) -> None:
    bucket = make_bucket({})
    s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3_direct.put_object(Bucket=bucket, Key="a.jpg", Body=b"1")
    report = doctor("--sources", f"s3://{bucket}", "--output", f"s3://{bucket}/models")
    assert (report.status, report.problems) == (0, {})
    assert report.of("output", f"s3://{bucket}/models")["finding"].endswith("; versioned")
    history = s3_direct.list_object_versions(Bucket=bucket)
    assert [version["Key"] for version in history["Versions"]] == ["a.jpg"]
    assert history.get("DeleteMarkers", []) == []


def test_a_read_only_source_is_ok_but_not_a_read_only_output(
    doctor: Any, make_bucket: Any, deny: Any, read_bucket: Any
) -> None:
    bucket = make_bucket(PHOTO)
    deny(bucket, "s3:PutObject", "*")
    address = f"s3://{bucket}"
    report = doctor("--sources", address, "--output", address, "--storage", f"{address}/runs")
    assert report.status == 1
    assert report.problems == {("output", address): "wrong", ("storage", f"{address}/runs"): "wrong"}
    assert report.of("source", address)["finding"] == ("can list, get; read-only: cleanse cannot delete here")
    assert report.of("output", address)["finding"] == "cannot put: AccessDenied"
    assert report.of("output", address)["remedy"].startswith(
        f"the role or key needs s3:PutObject on arn:aws:s3:::{bucket}/*"
    )
    assert read_bucket(bucket) == PHOTO


def test_a_cache_must_be_written_but_nothing_is_deleted_there(
    doctor: Any, make_bucket: Any, deny: Any
) -> None:
    bucket, other = make_bucket({}), make_bucket({})
    deny(bucket, "s3:PutObject", "*")
    deny(other, "s3:DeleteObject", "*")
    report = doctor("--cache-dir", f"s3://{bucket}/cache")
    assert (report.status, report.problems) == (1, {("cache_dir", f"s3://{bucket}/cache"): "wrong"})
    report = doctor("--cache-dir", f"s3://{other}/cache")
    assert (report.status, report.problems) == (0, {("cache_dir", f"s3://{other}/cache"): "warning"})


def test_a_denied_deletion_is_wrong_for_an_output_and_the_rest_is_named(
    doctor: Any, make_bucket: Any, deny: Any, read_bucket: Any
) -> None:
    bucket = make_bucket(PHOTO)
    deny(bucket, "s3:DeleteObject", "*")
    report = doctor("--sources", f"s3://{bucket}/gym", "--output", f"s3://{bucket}/models")
    source, output = (
        report.of("source", f"s3://{bucket}/gym"),
        report.of("output", f"s3://{bucket}/models"),
    )
    assert report.status == 1
    assert (source["state"], output["state"]) == ("warning", "wrong")
    assert output["finding"] == "cannot delete: AccessDenied; the test object stays"
    (of_source, of_output) = sorted(set(read_bucket(bucket)) - set(PHOTO))
    assert of_source.startswith("gym/.physiq-ray-doctor-")
    assert source["remedy"] == f"delete s3://{bucket}/{of_source}"
    assert output["remedy"].endswith(f"; delete s3://{bucket}/{of_output}")


@pytest.mark.parametrize(
    ("action", "keys", "verb", "right"),
    [
        ("s3:ListBucket", None, "list", "s3:ListBucket on arn:aws:s3:::{}"),
        ("s3:GetObject", "*", "get", "s3:GetObject on arn:aws:s3:::{}/*"),
    ],
)
def test_a_source_that_cannot_be_listed_or_read_is_wrong(
    doctor: Any, make_bucket: Any, deny: Any, action: str, keys: str | None, verb: str, right: str
) -> None:
    bucket, other = make_bucket(PHOTO), make_bucket(PHOTO)
    deny(bucket, action, keys)
    report = doctor("--sources", f"s3://{bucket}", f"s3://{other}")
    assert (report.status, report.problems) == (1, {("source", f"s3://{bucket}"): "wrong"})
    record = report.of("source", f"s3://{bucket}")
    assert record["finding"] == f"cannot {verb}: AccessDenied"
    assert record["remedy"].startswith(f"the role or key needs {right.format(bucket)} (")


def test_a_bucket_that_does_not_exist_is_wrong(doctor: Any, make_bucket: Any) -> None:
    bucket = make_bucket(PHOTO)
    report = doctor("--sources", f"s3://{bucket}", "s3://no-bucket-of-doctor")
    assert (report.status, report.problems) == (1, {("source", "s3://no-bucket-of-doctor"): "wrong"})
    assert report.of("source", "s3://no-bucket-of-doctor")["finding"] == "cannot list: NoSuchBucket"


def test_a_source_without_photos_is_a_warning(doctor: Any, make_bucket: Any) -> None:
    bucket = make_bucket({"notes/readme.txt": b"1"})
    report = doctor("--sources", f"s3://{bucket}/notes", f"s3://{bucket}/nothing")
    assert report.status == 0
    assert report.problems == {
        ("source", f"s3://{bucket}/notes"): "warning",
        ("source", f"s3://{bucket}/nothing"): "warning",
    }
    found = report.of("source", f"s3://{bucket}/notes")["finding"]
    assert found.startswith("no photo among its first 1 objects; can list, put, get,")


@pytest.mark.parametrize(
    ("status", "code", "headers", "body"),
    [
        (301, "PermanentRedirect", {"x-amz-bucket-region": "eu-central-1"}, ""),
        (400, "AuthorizationHeaderMalformed", {}, "<Region>eu-central-1</Region>"),
    ],
)
def test_a_bucket_in_another_region_is_wrong_with_its_region(
    doctor: Any,
    make_bucket: Any,
    start_proxy: Callable[[Any], str],
    status: int,
    code: str,
    headers: dict[str, str],
    body: str,
) -> None:
    bucket, far = make_bucket(PHOTO), make_bucket(PHOTO)
    answer = error_answer(status, code)[2].replace(b"</Error>", f"{body}</Error>".encode())
    start_proxy(lambda _, path: (status, headers, answer) if path.startswith(f"/{far}") else None)
    report = doctor("--sources", f"s3://{bucket}", f"s3://{far}")
    assert (report.status, report.problems) == (1, {("source", f"s3://{far}"): "wrong"})
    record = report.of("source", f"s3://{far}")
    assert record["finding"] == "cannot list: it is in eu-central-1"
    assert record["remedy"] == "set AWS_REGION=eu-central-1"


def test_a_denied_listing_in_another_region_is_reported_as_denied(
    doctor: Any, make_bucket: Any, start_proxy: Callable[[Any], str]
) -> None:
    bucket, far = make_bucket(PHOTO), make_bucket(PHOTO)
    refusal = error_answer(403, "AccessDenied")[2]
    answer = 403, {"x-amz-bucket-region": "eu-central-1"}, refusal
    start_proxy(lambda _, path: answer if path.startswith(f"/{far}") else None)
    report = doctor("--sources", f"s3://{bucket}", f"s3://{far}")
    assert (report.status, report.problems) == (1, {("source", f"s3://{far}"): "wrong"})
    assert report.of("source", f"s3://{far}")["finding"] == "cannot list: AccessDenied"


def test_a_failed_write_to_a_source_that_is_not_denied_is_a_warning(
    doctor: Any, make_bucket: Any, start_proxy: Callable[[Any], str]
) -> None:
    bucket = make_bucket(PHOTO)
    start_proxy(lambda method, _: error_answer(501, "NotImplemented") if method == "PUT" else None)
    report = doctor("--sources", f"s3://{bucket}", "--output", f"s3://{bucket}/models")
    assert report.status == 1
    assert report.problems == {
        ("source", f"s3://{bucket}"): "warning",
        ("output", f"s3://{bucket}/models"): "wrong",
    }
    assert report.of("source", f"s3://{bucket}")["finding"].startswith("cannot put: An error occurred (NotI")


def test_a_bucket_to_which_requests_are_redirected_is_a_warning_with_its_region(
    doctor: Any, make_bucket: Any, start_proxy: Callable[[Any], str]
) -> None:
    bucket = make_bucket(PHOTO)
    status, headers, body = page_answer("gym/a.jpg", next_page=None)
    page = status, {**headers, "x-amz-bucket-region": "eu-central-1"}, body
    start_proxy(lambda _, path: page if "list-type=2" in path else None)
    report = doctor("--sources", f"s3://{bucket}")
    assert (report.status, report.problems) == (0, {("source", f"s3://{bucket}"): "warning"})
    record = report.of("source", f"s3://{bucket}")
    assert record["finding"].startswith("it is in eu-central-1; can list, get, put, tag, delete; ")
    assert record["remedy"] == "set AWS_REGION=eu-central-1: every request is redirected"


def test_a_server_that_ignores_conditions_of_writes_is_a_warning(
    doctor: Any, make_bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket(PHOTO)

    def drop(params: Any, **_: Any) -> None:
        params["headers"].pop("If-None-Match", None)

    def start_without_conditions() -> Any:
        session, client = start_hasty_session()
        client.meta.events.register_first("before-call.s3.PutObject", drop)
        return session, client

    monkeypatch.setattr(access, "start_hasty_session", start_without_conditions)
    report = doctor("--sources", f"s3://{bucket}", "--output", f"s3://{bucket}/models")
    assert (report.status, report.problems) == (0, {("output", f"s3://{bucket}/models"): "warning"})
    found = report.of("output", f"s3://{bucket}/models")["finding"]
    assert found.startswith("the server ignores conditions of writes; can list, put, get")


def test_a_local_folder_is_a_source_if_it_exists_and_has_photos(doctor: Any, tmp_path: Any) -> None:
    for name in ("photos", "empty"):
        (tmp_path / name / "gym").mkdir(parents=True)
    (tmp_path / "photos/gym/a.jpg").write_bytes(b"1")
    photos, empty, missing = (str(tmp_path / name) for name in ("photos", "empty", "missing"))
    report = doctor("--sources", photos, empty, missing)
    assert report.status == 1
    assert report.problems == {("source", empty): "warning", ("source", missing): "wrong"}
    assert report.of("source", missing)["remedy"] == "correct it, or give another source"
    assert "endpoint" not in {one["subject"] for one in report.records}
