import hashlib
import json
import socketserver
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from listings import list_one
from s3_answers import Script, error_answer

from physiq_ray.errors import DeniedError, NotFoundError, StorageError, UnreachableError
from physiq_ray.storage import read_bytes, write_bytes

Aws = Callable[..., None]
MakeBucket = Callable[..., str]


@pytest.mark.parametrize(
    ("variable", "value", "code", "own_words"),
    [
        (
            *("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch"),
            "The request signature we calculated does not match the signature you provided. Check your key "
            "and signing method.",
        ),
        (
            *("AWS_ACCESS_KEY_ID", "unknown", "InvalidAccessKeyId"),
            "The access key ID you provided does not exist in our records.",
        ),
    ],
)
def test_wrong_credentials_are_reported_by_list_read_and_write(
    make_bucket: MakeBucket, aws: Aws, variable: str, value: str, code: str, own_words: str
) -> None:
    bucket = make_bucket({"a.jpg": b"1"})
    aws(**{variable: value})

    error = list_one(f"s3://{bucket}").error

    assert type(error) is DeniedError
    assert str(error) == (
        f"list s3://{bucket}: the credentials were refused ({code}); check AWS_PROFILE and keys "
        f"(S3: {own_words})"
    )
    with pytest.raises(DeniedError, match=rf"^read s3://{bucket}/a\.jpg: the credentials were refused"):
        read_bytes(f"s3://{bucket}/a.jpg")
    with pytest.raises(DeniedError, match=rf"^write s3://{bucket}/b\.jpg: the credentials were refused"):
        write_bytes(b"2", f"s3://{bucket}/b.jpg")


def test_missing_credentials_are_reported_with_the_remedy(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    aws(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)

    error = list_one("s3://checkins").error

    assert type(error) is DeniedError
    assert "Unable to locate credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and" in str(error)


def test_a_profile_that_does_not_exist_is_named(aws: Aws) -> None:
    aws(AWS_PROFILE="coach")

    error = list_one("s3://checkins").error

    assert type(error) is DeniedError
    assert str(error) == (
        "S3: The config profile (coach) could not be found; set AWS_PROFILE to one that exists or unset it"
    )


def test_expired_credentials_that_cannot_be_refreshed_are_reported(aws: Aws, tmp_path: Path) -> None:
    script = tmp_path / "give-keys"
    keys = '{"Version":1,"AccessKeyId":"a","SecretAccessKey":"b","Expiration":"2020-01-01T00:00:00Z"}'
    script.write_text(f"#!/bin/sh\necho '{keys}'\n")
    script.chmod(0o755)
    (tmp_path / "config").write_text(f"[profile coach]\ncredential_process = {script}\n")
    aws(
        AWS_CONFIG_FILE=str(tmp_path / "config"),
        AWS_PROFILE="coach",
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
    )

    error = list_one("s3://checkins").error

    assert type(error) is DeniedError
    assert str(error).startswith(
        "list s3://checkins: the credentials expired and could not be refreshed; sign in again, e.g. "
        "`aws sso login`"
    )


@pytest.mark.slow
def test_an_endpoint_that_is_not_an_address_is_reported_without_retries(aws: Aws) -> None:
    aws(AWS_ENDPOINT_URL="localhost:9000")

    started = time.monotonic()
    with pytest.raises(UnreachableError, match=r"Invalid endpoint: localhost:9000; set AWS_ENDPOINT_URL"):
        read_bytes("s3://checkins/a.jpg")

    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("without_waiting")
def test_an_unreachable_endpoint_is_reported_by_list_and_read(aws: Aws) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as taken:
        port = taken.server_address[1]
    aws(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")

    error = list_one("s3://checkins").error

    assert type(error) is UnreachableError
    assert str(error).startswith("list s3://checkins: Could not connect to the endpoint URL")
    assert str(error).endswith("; check AWS_ENDPOINT_URL and the network")
    with pytest.raises(UnreachableError, match=r"^read s3://checkins/a\.jpg: Could not connect"):
        read_bytes("s3://checkins/a.jpg")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied; the role or key needs", DeniedError),
        (403, "RequestTimeTooSkewed; this machine's clock is off", DeniedError),
        (403, "InvalidObjectState; the object is in an archive class", StorageError),
        (400, "ExpiredToken", DeniedError),
        (404, "NoSuchKey", NotFoundError),
        (404, "NoSuchBucket", NotFoundError),
        (400, "AuthorizationHeaderMalformed", StorageError),
    ],
)
def test_a_refusal_is_translated_and_each_client_sends_one_request(
    scripted_s3: Callable[[Script], list[str]], status: int, code: str, kind: type[StorageError]
) -> None:
    requests = scripted_s3(lambda _: error_answer(status, code.partition(";")[0]))

    with pytest.raises(StorageError, match=rf"^read s3://checkins/a\.jpg: .*{code}") as caught:
        read_bytes("s3://checkins/a.jpg")

    assert type(caught.value) is kind
    assert requests == ["/checkins/a.jpg"] * 2


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        (None, "Error loading SSO Token: Token for work does not exist"),
        ({"accessToken": "x", "expiresAt": "2020-01-01T00:00:00Z"}, "Token has expired and refresh failed"),
    ],
)
def test_a_missing_or_expired_sso_login_is_reported_with_the_command_that_renews_it(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: dict[str, str] | None, problem: str
) -> None:
    (tmp_path / "config").write_text(
        "[profile team]\nsso_session = work\nsso_account_id = 1\nsso_role_name = r\nregion = us-east-1\n"
        "[sso-session work]\nsso_region = us-east-1\nsso_start_url = https://example.invalid/start\n"
    )
    cache = tmp_path / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    if token is not None:
        name = hashlib.sha1(b"work", usedforsecurity=False).hexdigest()
        (cache / f"{name}.json").write_text(json.dumps(token))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("botocore.tokens.SSOTokenProvider._SSO_TOKEN_CACHE_DIR", str(cache))
    monkeypatch.setattr("botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", str(cache))
    aws(
        AWS_CONFIG_FILE=str(tmp_path / "config"),
        AWS_PROFILE="team",
        AWS_ACCESS_KEY_ID=None,
        AWS_SECRET_ACCESS_KEY=None,
    )

    error = list_one("s3://checkins").error

    assert type(error) is DeniedError
    assert problem in str(error)
    assert str(error).endswith("; run aws sso login --profile team and try again")
    with pytest.raises(DeniedError, match="run aws sso login --profile team and try again"):
        read_bytes("s3://checkins/a.jpg")
