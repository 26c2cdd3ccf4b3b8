"""The printed table, exit status, --effective, and what is left after an interrupt or a late check."""

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from physiq_ray.cli.doctor import _lay_out
from physiq_ray.config import load_settings
from physiq_ray.doctor import Finding, State, buckets, checks
from physiq_ray.doctor.finding import from_error, hide_passwords
from physiq_ray.doctor.schedule import Check, run_checks
from physiq_ray.errors import StorageError

PHOTO = {"a.jpg": b"1"}


def test_the_table_is_aligned_and_long_lines_are_wrapped() -> None:
    findings = [
        Finding("version", "python", State.OK, "3.11.7"),
        Finding("source", "s3://a-bucket-with-a-long-name/and/a/prefix", State.WRONG, "cannot list", "look"),
        Finding("S3", "clock", State.WARNING, "one two three four five six seven eight nine ten\x1b", "set"),
    ]
    assert list(_lay_out(findings, 72)) == [
        "ok       version  python  3.11.7",
        "wrong    source   s3://a-bucket-with-a-long-name/and/a/prefix",
        "                          cannot list",
        "                          → look",
        "warning  S3       clock   one two three four five six seven eight nine",
        r"                          ten\x1b",
        "                          → set",
    ]


@pytest.mark.slow
def test_the_machine_is_shown_without_any_request(doctor: Any, run_here: Any) -> None:
    report = doctor()
    assert (report.status, report.problems) == (0, {})
    assert [(one["check"], one["subject"]) for one in report.records] == [
        *(("version", name) for name in ("python", "physiq-ray", "ray", "torch", "torchvision")),
        *(("version", name) for name in ("pyarrow", "boto3", "pillow")),
        *(("machine", name) for name in ("cores", "memory", "/dev/shm")),
        *(("disk", name) for name in ("output", "storage", "Ray's folder")),
        *(("machine", "GPU"), ("weights", "imagenet"), ("network", "proxies"), ("S3", "credentials")),
    ]
    assert set(report.records[0]) == {"check", "subject", "state", "finding", "remedy"}
    done = run_here("doctor")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "0 wrong, 0 warning, 18 ok"
    assert done.stderr == ""


def test_a_wrong_setting_is_wrong_use(run_here: Any) -> None:
    done = run_here("doctor", "--sources", "http://photos")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("physiq-ray doctor: sources: 'http://photos'")


def test_the_effective_settings_can_be_kept_and_used_again(
    run_here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.toml").write_text('epochs = 7\nsources = ["s3://a", "s3://b"]\n')
    monkeypatch.setenv("PHYSIQ_PATIENCE", "3")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-secret")
    flags = ("--config", "run.toml", "--run-name", "spring", "--epochs", "9")
    done = run_here("doctor", *flags, "--effective")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a-secret" not in done.stdout
    for line in (
        'sources = ["s3://a", "s3://b"]  # run.toml: sources',
        "epochs = 9  # --epochs",
        "patience = 3  # PHYSIQ_PATIENCE",
        "# batch_size = 32  # default",
    ):
        assert f"\n{line}\n" in done.stdout
    kept = tmp_path / "kept.toml"
    kept.write_text(done.stdout, encoding="utf-8")
    settings = load_settings({}, file=kept, environment={})
    assert settings == load_settings(
        {"run_name": "spring", "epochs": 9}, file=tmp_path / "run.toml", environment={"PHYSIQ_PATIENCE": "3"}
    )
    as_json = run_here("doctor", *flags, "--effective", "--json")
    assert json.loads(as_json.stdout) == settings.model_dump(mode="json")


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold each check of a bucket while its test object is there; the event is set when one is held."""
    over, held = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        held.set()
        over.wait(60)

    monkeypatch.setattr(buckets, "_tag", wait)
    yield held
    over.set()


@pytest.mark.slow
def test_a_check_that_does_not_end_is_wrong_and_its_object_is_removed(
    doctor: Any, make_bucket: Any, read_bucket: Any, monkeypatch: pytest.MonkeyPatch, hold: threading.Event
) -> None:
    bucket = make_bucket(PHOTO)
    monkeypatch.setattr(checks, "DEADLINE_S", 3.0)
    report = doctor("--sources", f"s3://{bucket}")
    assert hold.is_set()
    assert (report.status, report.problems) == (1, {("source", f"s3://{bucket}"): "wrong"})
    assert report.of("source", f"s3://{bucket}")["finding"] == "did not answer within 3 s"
    assert read_bucket(bucket) == PHOTO


def test_an_interrupt_removes_the_test_object(
    doctor: Any, run_here: Any, make_bucket: Any, read_bucket: Any, hold: threading.Event
) -> None:
    bucket = make_bucket(PHOTO)

    def interrupt() -> None:
        assert hold.wait(15)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    done = run_here("doctor", "--sources", f"s3://{bucket}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "physiq-ray doctor: interrupted\n"
    assert read_bucket(bucket) == PHOTO


def test_a_process_ends_in_time_although_s3_and_ray_never_answer(run_cli: Any, s3: Any) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        start_s = time.monotonic()
        done = run_cli(
            *("doctor", "--sources", "s3://photos", "--weights", "random"),
            env={"AWS_ENDPOINT_URL": f"http://{address}", "RAY_ADDRESS": address},
        )
        assert time.monotonic() - start_s < 20
    assert (done.returncode, done.stderr) == (1, "")
    wrong = re.findall(r"^wrong +(\S+) +(\S+)", done.stdout, re.MULTILINE)
    assert wrong == [("Ray", address), ("S3", "endpoint")]


def test_a_package_that_cannot_be_imported_is_one_line_below_the_versions(
    run_cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/obstore.py").write_text("raise ImportError('libssl.so.3: cannot open shared object')")
    path = os.pathsep.join(filter(None, [str(tmp_path / "broken"), os.environ.get("PYTHONPATH")]))
    done = run_cli("doctor", env={"PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (1, "")
    assert [line.split()[:3] for line in done.stdout.splitlines()[8:9]] == [["wrong", "version", "imports"]]
    assert "libssl.so.3: cannot open shared object" in " ".join(done.stdout.split())  # it may be wrapped


def test_a_fault_of_one_check_is_one_line_and_the_others_are_kept() -> None:
    def fail() -> Iterator[Finding]:
        yield Finding("a", "first", State.OK, "fine")
        raise ZeroDivisionError("division by zero")

    outcomes = run_checks([Check("a", "second", fail), Check("b", "third", lambda: [])], 5.0)
    lines = [line for outcome in outcomes for line in outcome.to_findings(5.0)]
    assert [(line.subject, line.state) for line in lines] == [("first", "ok"), ("second", "wrong")]
    assert lines[1].finding == "the check failed: ZeroDivisionError: division by zero"


def test_an_error_is_divided_into_finding_and_remedy() -> None:
    error = StorageError("list: AccessDenied; the role needs a; and b")
    assert from_error("source", "s3://a", error) == Finding(
        "source", "s3://a", State.WRONG, "list: AccessDenied", "the role needs a; and b"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('to "http://me:pass@host:1/a" or s3://b/c@d', 'to "http://***@host:1/a" or s3://b/c@d'),
        ("http://me@example.org:p@host", "http://***@host"),
        ("no address", "no address"),
    ],
)
def test_passwords_in_addresses_are_hidden(text: str, shown: str) -> None:
    assert hide_passwords(text) == shown
