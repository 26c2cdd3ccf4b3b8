"""An endpoint, a clock or credentials that are wrong make one line wrong; the rest is not checked."""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from proxy import make_proxy
from s3_answers import error_answer, page_answer

from physiq_ray import storage
from physiq_ray.doctor import checks
from physiq_ray.doctor.access import judge_clock, judge_expiry
from physiq_ray.doctor.finding import State
from physiq_ray.storage.s3 import HASTY

pytestmark = pytest.mark.slow

NOT_CHECKED = "not checked, because of the {}"
SECRET_KEY, TOKEN = "a-secret-that-nobody-may-see", "a-token-that-nobody-may-see"


@pytest.fixture
def places(make_bucket: Any) -> list[str]:
    """Give flags with a source, labels, an output and a storage in one bucket."""
    bucket = make_bucket({"a.jpg": b"1", "labels.json": b'[{"key": "a.jpg", "poseId": 7}]'})
    address = f"s3://{bucket}"
    return [
        *("--sources", address, "--labels", f"{address}/labels.json"),
        *("--output", f"{address}/models", "--storage", f"{address}/runs"),
    ]


@pytest.fixture
def silent_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make a server the S3 endpoint that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        storage.forget_clients()
        yield address
    storage.forget_clients()


def assert_only(report: Any, cause: str) -> dict[str, str]:
    """Check that one line of S3 is wrong and the places are not checked; give that line."""
    wrong = {key for key, state in report.problems.items() if state == "wrong"}
    assert (report.status, wrong) == (1, {("S3", cause)})
    others = [one for one in report.records if one["state"] == "warning"]
    assert [one["check"] for one in others] == ["source", "labels", "output", "storage"]
    assert {one["finding"] for one in others} == {NOT_CHECKED.format(cause)}
    return report.of("S3", cause)


def test_an_endpoint_that_never_answers_is_wrong_once(
    doctor: Any, places: list[str], silent_endpoint: str
) -> None:
    record = assert_only(doctor(*places), "endpoint")
    assert record["finding"].startswith(f"{silent_endpoint} ")
    assert "Read timeout" in record["finding"]
    assert record["remedy"] == "check AWS_ENDPOINT_URL and the network"


def test_an_endpoint_that_sends_a_byte_now_and_then_is_wrong_once(
    doctor: Any, places: list[str], replace_s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client has given up
                while not over.wait(0.5):
                    self.request.sendall(b"H")

    monkeypatch.setattr(checks, "DEADLINE_S", 4.0)
    replace_s3(Handler)
    try:
        record = assert_only(doctor(*places), "endpoint")
    finally:
        over.set()
    assert record["finding"].endswith(" did not answer within 4 s")


@pytest.mark.parametrize(
    ("endpoint", "finding"),
    [
        ("http://127.0.0.1:9", "Could not connect to the endpoint URL"),
        ("http://user:SECRET-PASSWORD@127.0.0.1:9", "Could not connect to the endpoint URL"),
        ("127.0.0.1:9000", "Invalid endpoint: 127.0.0.1:9000"),
        ("http://no-such-host.invalid", "Could not connect to the endpoint URL"),
    ],
)
def test_an_endpoint_that_cannot_be_reached_is_wrong_once(
    doctor: Any, places: list[str], monkeypatch: pytest.MonkeyPatch, endpoint: str, finding: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    storage.forget_clients()
    report = doctor(*places)
    assert finding in assert_only(report, "endpoint")["finding"]
    assert "SECRET-PASSWORD" not in report.text


def test_a_clock_that_s3_refuses_is_wrong_once(doctor: Any, places: list[str], start_proxy: Any) -> None:
    start_proxy(lambda *_: error_answer(403, "RequestTimeTooSkewed"))
    record = assert_only(doctor(*places), "clock")
    assert "RequestTimeTooSkewed" in record["finding"]
    assert record["remedy"].startswith("this machine's clock is off by minutes: set it right")


def test_one_bucket_that_never_answers_is_wrong_itself(
    doctor: Any, make_bucket: Any, start_proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HASTY, "read_timeout", 1)
    bucket, silent = make_bucket({"a.jpg": b"1"}), make_bucket({"a.jpg": b"1"})
    over = threading.Event()

    def hold(_: str, path: str) -> None:
        if path.startswith(f"/{silent}"):
            over.wait(30)

    start_proxy(hold)
    try:
        report = doctor("--sources", f"s3://{bucket}", f"s3://{silent}")
    finally:
        over.set()
    assert (report.status, report.problems) == (1, {("source", f"s3://{silent}"): "wrong"})
    assert report.of("S3", "endpoint")["finding"].endswith(" answers")


@pytest.mark.parametrize(
    ("minutes", "problems", "finding"),
    [
        (20, {("S3", "clock"): "wrong"}, "this machine is 20 min behind the server"),
        (-20, {("S3", "clock"): "wrong"}, "this machine is 20 min ahead of the server"),
        (6, {("S3", "clock"): "warning"}, "this machine is 6 min behind the server"),
        (1, {}, "agrees with the server's"),
    ],
)
def test_a_server_whose_date_is_far_from_ours_shows_a_wrong_clock(
    doctor: Any,
    places: list[str],
    s3: Any,
    replace_s3: Any,
    minutes: int,
    problems: dict[Any, str],
    finding: str,
) -> None:
    class Handler(make_proxy(lambda *_: None, s3.endpoint_url.removeprefix("http://"))):  # type: ignore[misc]
        def date_time_string(self, *_: Any) -> str:
            # Half a second more, because the date has whole seconds.
            now = datetime.now(UTC) + timedelta(minutes=minutes, seconds=0.5)
            return format_datetime(now, usegmt=True)

    replace_s3(Handler)
    report = doctor(*places[:2])
    assert report.problems == problems
    assert report.status == int("wrong" in problems.values())
    assert report.of("S3", "clock")["finding"] == finding


@pytest.mark.parametrize(
    ("variables", "finding"),
    [
        ({"AWS_SECRET_ACCESS_KEY": SECRET_KEY}, "the credentials were refused (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "unknown-key"}, "the credentials were refused (InvalidAccessKeyId)"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "Unable to locate credentials"),
        ({"AWS_PROFILE": "no-such-profile"}, "The config profile (no-such-profile) could not be found"),
    ],
)
def test_credentials_that_are_missing_or_refused_are_wrong_once(
    doctor: Any,
    places: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: dict[str, str | None],
    finding: str,
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    storage.forget_clients()
    report = doctor(*places)
    storage.forget_clients()
    assert finding in assert_only(report, "credentials")["finding"]
    assert SECRET_KEY not in report.text


def test_a_program_for_credentials_that_hangs_makes_the_credentials_wrong(
    doctor: Any, places: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} -c 'import time; time.sleep(8)'\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setattr(checks, "DEADLINE_S", 3.0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    storage.forget_clients()
    record = assert_only(doctor(*places), "credentials")
    assert record["finding"] == "did not answer within 3 s"


def test_keys_of_a_profile_are_named_by_the_profile(
    doctor: Any, places: list[str], s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[gym]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "gym")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    storage.forget_clients()
    report = doctor(*places)
    storage.forget_clients()
    assert (report.status, report.problems) == (0, {})
    assert report.of("S3", "credentials")["finding"] == "keys in the credentials file, profile gym"
    assert s3.access_key not in report.text
    assert s3.secret_key not in report.text


def test_public_photos_need_no_credentials(
    doctor: Any, make_bucket: Any, s3_direct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket({"a.jpg": b"1"})
    allow = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", '
        f'"Action": ["s3:ListBucket", "s3:GetObject"], "Resource": ["arn:aws:s3:::{bucket}", '
        f'"arn:aws:s3:::{bucket}/*"]}}]}}'
    )
    s3_direct.put_bucket_policy(Bucket=bucket, Policy=allow)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    storage.forget_clients()
    report = doctor("--anonymous", "yes", "--sources", f"s3://{bucket}")
    assert (report.status, report.problems) == (0, {})
    assert report.of("S3", "credentials")["finding"] == "none; no request needs them"
    assert report.of("source", f"s3://{bucket}")["finding"].startswith("can list, get; read-only")


def test_no_secret_is_printed(doctor: Any, places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA-NOBODY-MAY-SEE")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "2020-01-01T00:00:00Z")
    storage.forget_clients()
    report = doctor(*places)
    storage.forget_clients()
    for secret in (SECRET_KEY, TOKEN, "AKIA-NOBODY-MAY-SEE"):
        assert secret not in report.text


@pytest.mark.parametrize(
    ("left", "is_renewed", "state", "finding"),
    [
        (None, False, State.OK, "SSO"),
        (timedelta(hours=5, seconds=9), False, State.OK, "SSO; for 5 h more"),
        (timedelta(minutes=40, seconds=9), False, State.WARNING, "SSO; for 40 min more"),
        (timedelta(minutes=40, seconds=9), True, State.OK, "SSO; for 40 min more, then renewed"),
        (timedelta(days=-3), False, State.WRONG, "SSO; expired 3 days ago"),
    ],
)
def test_credentials_that_end_soon_are_a_warning_unless_they_are_renewed(
    left: timedelta | None, is_renewed: bool, state: State, finding: str
) -> None:
    expiry = None if left is None else datetime.now(UTC) + left
    found = judge_expiry("SSO", expiry, is_renewed=is_renewed, at_worst=State.WRONG)
    assert (found.state, found.finding) == (state, finding)


def test_the_limit_of_the_clock_is_15_minutes() -> None:
    assert [judge_clock(skew).state for skew in (899.0, 900.0, -899.0, -900.0)] == [
        *(State.WARNING, State.WRONG),
        *(State.WARNING, State.WRONG),
    ]


def test_a_server_that_is_no_s3_server_makes_the_source_wrong(
    doctor: Any, places: list[str], start_proxy: Callable[[Any], str]
) -> None:
    start_proxy(lambda *_: (200, {"Content-Type": "text/html"}, b"<html>Please log in</html>"))
    report = doctor(*places[:2])
    assert (report.status, report.problems) == (1, {("source", places[1]): "wrong"})
    assert report.of("source", places[1])["remedy"] == ("check that AWS_ENDPOINT_URL is that of an S3 server")


def test_one_throttled_answer_is_tried_again(
    doctor: Any, places: list[str], start_proxy: Callable[[Any], str]
) -> None:
    answers = iter([error_answer(503, "SlowDown")])
    start_proxy(lambda *_: next(answers, page_answer(next_page=None)))
    assert doctor(*places[:2]).of("S3", "endpoint")["state"] == "ok"
