"""Proxies of the environment are named without passwords; those that take local requests are a warning."""

from typing import Any

import pytest

from physiq_ray.doctor.finding import State
from physiq_ray.doctor.proxies import check_proxies

ALL_LOCAL = "127.0.0.1,localhost,169.254.169.254"


@pytest.mark.parametrize(
    ("variables", "state", "finding", "remedy"),
    [
        ({}, State.OK, "none", ""),
        (
            {"HTTP_PROXY": "http://me:PASS@word@proxy:3128", "NO_PROXY": ALL_LOCAL},
            State.OK,
            "http http://***@proxy:3128",
            "",
        ),
        (
            {"HTTP_PROXY": "http://me:PASSword@proxy:3128"},
            State.WARNING,
            "http http://***@proxy:3128; also for 127.0.0.1, localhost, 169.254.169.254",
            f"add them to the variable: NO_PROXY={ALL_LOCAL}",
        ),
        (
            {"ALL_PROXY": "me:PASSword@proxy:3128", "no_proxy": "localhost,.corp"},
            State.WARNING,
            "all ***@proxy:3128; also for 127.0.0.1, 169.254.169.254",
            "add them to the variable: NO_PROXY=localhost,.corp,127.0.0.1,169.254.169.254",
        ),
        ({"HTTPS_PROXY": "http://proxy:3128"}, State.OK, "https http://proxy:3128", ""),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, State.OK, "http http://proxy:3128", ""),
    ],
)
def test_a_proxy_that_takes_local_requests_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: State, finding: str, remedy: str
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (found,) = check_proxies()
    assert (found.state, found.finding, found.remedy) == (state, finding, remedy)


def test_a_proxy_in_the_way_makes_the_endpoint_wrong_and_is_named_without_its_password(
    doctor: Any, make_bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from physiq_ray import storage

    bucket = make_bucket({"a.jpg": b"1"})
    monkeypatch.setenv("HTTP_PROXY", "http://me:PASSword@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", ALL_LOCAL)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example.invalid:9000")
    storage.forget_clients()
    report = doctor("--sources", f"s3://{bucket}")
    storage.forget_clients()
    assert report.status == 1
    assert report.problems == {("S3", "endpoint"): "wrong", ("source", f"s3://{bucket}"): "warning"}
    assert "proxy" in report.of("S3", "endpoint")["finding"]
    assert "PASSword" not in report.text
