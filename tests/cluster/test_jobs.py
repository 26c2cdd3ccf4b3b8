"""`ray job submit` on a cluster of several nodes: a job trains, loses a node, stops and resumes."""

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes import Nodes, command
from ray.job_submission import JobStatus
from running import free_ports, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

POSES = [{"id": 1, "name": "Front Lat Spread"}, {"id": 7, "name": "Back Lat Spread"}]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pc-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def make_cluster(s3: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Nodes]]:
    """Give a function that starts a cluster; its nodes find the S3 server in their environment."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    nodes = Nodes(folder, *free_ports(2))

    def make(*flags: str, others: int = 2, num_cpus: int = 2) -> Nodes:
        nodes.start_head(*flags, num_cpus=num_cpus)
        for _ in range(others):
            nodes.add()
        return nodes

    yield make
    nodes.stop()


@pytest.fixture
def work(folder: Path, make_bucket: Any, make_photo: Any) -> dict[str, str]:
    """Make a working directory, two buckets of labelled photos, and the settings as a job's environment."""
    directory = folder / "work"
    directory.mkdir()
    labels, buckets = [], []
    for half in range(2):
        files = {}
        for number in range(24):
            name = f"{half}-{number:02d}.jpg"
            pose_id = (1, 7)[number % 2]
            files[name] = make_photo(seed=100 * half + number, size=(60, 80))
            labels.append({"poseId": pose_id, "s3Filename": name})
        buckets.append(make_bucket(files))
    (directory / "poses.json").write_text(json.dumps(POSES))
    (directory / "labels.json").write_text(json.dumps(labels))
    return {
        "PHYSIQ_SOURCES": ",".join(f"s3://{bucket}" for bucket in buckets),
        "PHYSIQ_POSES": "poses.json",
        "PHYSIQ_LABELS": "labels.json",
        "PHYSIQ_WEIGHTS": "random",
        "PHYSIQ_IMAGE_SIZE": "64",
        "PHYSIQ_BATCH_SIZE": "4",
        "PHYSIQ_PRECISION": "fp32",
        "PHYSIQ_STORAGE": str(folder / "runs"),
        "PHYSIQ_OUTPUT": str(folder / "model"),
    }


def submit(
    nodes: Nodes, environment: dict[str, str], *entrypoint: str, wait: bool = True, job_id: str
) -> Any:
    """Run `ray job submit` as in docs/aws.md."""
    words = command(
        *("ray", "job", "submit", "--address", nodes.dashboard, "--submission-id", job_id),
        *("--working-dir", str(nodes.folder / "work")),
        *("--runtime-env-json", json.dumps({"env_vars": environment})),
        *(() if wait else ("--no-wait",)),
        *("--", str(command("physiq-ray")[0]), *entrypoint),
    )
    return subprocess.run(words, capture_output=True, text=True, timeout=400, check=False)


def epochs_done(nodes: Nodes, run_name: str) -> int:
    return len(list((nodes.folder / "runs" / run_name).glob("epoch-*")))


def test_a_job_trains_on_two_buckets_and_prints_its_table(make_cluster, work, folder):
    nodes = make_cluster(others=1)
    nodes.add("--resources", '{"decode": 1000}')
    settings = {"PHYSIQ_NUM_WORKERS": "2", "PHYSIQ_DECODE_RESOURCE": "decode"}

    done = submit(nodes, work | settings, "train", "--epochs", "2", job_id="first")

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    (header,) = (number for number, line in enumerate(lines) if "Train Loss" in line and "Val Acc" in line)
    assert [lines[header + row].split()[0] for row in (1, 2)] == ["1/2", "2/2"]
    assert any(line.startswith("Best validation accuracy") for line in lines)
    assert any("2 worker(s) on CPU" in line for line in lines)
    assert "pid=" not in "\n".join(lines[header : header + 3])
    assert nodes.client().get_job_status("first") == JobStatus.SUCCEEDED
    assert (folder / "model" / "pose_classifier.pth").exists()


def test_a_job_succeeds_after_a_node_was_lost(make_cluster, work):
    nodes = make_cluster(others=1)
    lost = nodes.add()

    def lose() -> None:
        wait_for(lambda: epochs_done(nodes, "lossy") >= 2, timeout_s=200, what="two epochs")
        nodes.kill(lost)

    thread = threading.Thread(target=lose)
    thread.start()
    settings = {"PHYSIQ_NUM_WORKERS": "3", "PHYSIQ_MIN_WORKERS": "1", "PHYSIQ_STALL_TIMEOUT_S": "30"}
    done = submit(
        nodes,
        work | settings,
        "train",
        "--epochs",
        "8",
        "--patience",
        "9",
        "--run-name",
        "lossy",
        job_id="lossy",
    )
    thread.join()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "8/8" in done.stdout
    assert "resumed after epoch" in done.stdout
    assert nodes.client().get_job_status("lossy") == JobStatus.SUCCEEDED


def test_a_stopped_job_is_resumed(make_cluster, work):
    nodes = make_cluster(others=1)
    flags = ("train", "--epochs", "60", "--patience", "60", "--run-name", "stopped")
    submit(nodes, work, *flags, wait=False, job_id="long")
    wait_for(lambda: epochs_done(nodes, "stopped") >= 1, timeout_s=200, what="the first epoch")

    start = time.monotonic()
    stopped = subprocess.run(
        command("ray", "job", "stop", "--address", nodes.dashboard, "long"), capture_output=True, timeout=60
    )
    took_s = time.monotonic() - start
    logs = nodes.client().get_job_logs("long")
    resumed = submit(
        nodes, work, "train", "--resume", "--run-name", "stopped", "--epochs", "4", job_id="resumed"
    )

    assert stopped.returncode == 0
    assert took_s < 20
    assert nodes.client().get_job_status("long") == JobStatus.STOPPED
    assert "interrupted; the last checkpoint is safe, resume with: physiq-ray train" in logs, logs[-2000:]
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resumed after epoch" in resumed.stdout


def test_a_job_with_a_wrong_setting_fails_and_names_it_at_the_end_of_its_log(make_cluster, work):
    nodes = make_cluster(others=0)

    done = submit(nodes, work | {"PHYSIQ_EPOCHS": "zero"}, "train", job_id="wrong")

    assert done.returncode != 0
    assert nodes.client().get_job_status("wrong") == JobStatus.FAILED
    log = nodes.client().get_job_logs("wrong").strip().splitlines()
    assert any("PHYSIQ_EPOCHS='zero'" in line and "expected a valid integer" in line for line in log[-3:]), (
        log
    )


@pytest.mark.parametrize(
    ("flags", "num_cpus", "settings", "message"),
    [
        ((), 1, {}, "the cluster has 1 CPUs; training and decoding need one each"),
        ((), 2, {"PHYSIQ_USE_GPU": "yes"}, "num_workers=1 with a GPU each, but the cluster has 0"),
        (("--object-store-memory", str(80 * 10**6)), 2, {}, "object store"),
    ],
)
def test_a_cluster_that_is_too_small_is_reported_within_half_a_minute(
    make_cluster, work, flags, num_cpus, settings, message
):
    nodes = make_cluster(*flags, others=0, num_cpus=num_cpus)

    start = time.monotonic()
    done = submit(nodes, work | settings, "train", "--epochs", "1", job_id="lacking")

    assert done.returncode != 0
    assert message in done.stdout, done.stdout[-3000:]
    assert time.monotonic() - start < 30
