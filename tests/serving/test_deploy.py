"""The shipped serve_config.yaml on a Ray cluster: deploy, replace the model, lose a replica, scale, stop."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml
from models import save_constant_model
from photosets import save_manifest
from running import MakeModel, free_ports, responds, wait_for

from physiq_ray.sample import LocalS3

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
SHIPPED = Path(__file__).parents[2] / "serve_config.yaml"
BIN = Path(sys.executable).parent


@dataclass
class Cluster:
    """A Ray head and a service that is deployed to it."""

    folder: Path
    dashboard: str
    http_port: int
    metrics_port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """The address of the service."""
        return f"http://127.0.0.1:{self.http_port}"

    def deploy(self, *, live: dict[str, Any] | None = None, **args: Any) -> None:
        """Deploy the shipped file with some of its lines changed, and wait until it runs."""
        config = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
        config["http_options"] |= {"host": "127.0.0.1", "port": self.http_port}
        (application,) = config["applications"]
        application["args"] |= args
        application["deployments"][0]["user_config"] |= live or {}
        path = self.folder / "serve_config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        run("serve", "deploy", "--address", self.dashboard, str(path))
        wait_for(lambda: self.status() == "RUNNING", timeout_s=120, what="the application to run")

    def status(self) -> str:
        """Give Serve's name for the state of the application."""
        return str(self.application().get("status"))

    def num_replicas(self) -> int:
        """Count the replicas that run."""
        deployments = self.application().get("deployments", {})
        return int(deployments.get("PoseService", {}).get("replica_states", {}).get("RUNNING", 0))

    def application(self) -> dict[str, Any]:
        """Give what Serve reports about the application."""
        out = run("serve", "status", "--address", self.dashboard)
        application: dict[str, Any] = (yaml.safe_load(out).get("applications") or {}).get("physiq_ray", {})
        return application

    def model(self) -> dict[str, Any]:
        """Get /v1/model."""
        answer: dict[str, Any] = requests.get(f"{self.url}/v1/model", timeout=30).json()
        return answer

    def replicas(self) -> list[psutil.Process]:
        """Find the replicas' processes."""
        return [
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if "ray::ServeReplica" in " ".join(process.cmdline())
        ]


def run(*words: str) -> str:
    """Run a command of this environment and give its output."""
    done = subprocess.run([str(BIN / words[0]), *words[1:]], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Load:
    """Clients that send photos without a break, and the counts of their responses."""

    url: str
    photo: bytes
    clients: int
    statuses: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)  # texts of responses other than 200
    _done: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        for _ in range(self.clients):
            self._threads.append(threading.Thread(target=self._send))
            self._threads[-1].start()
        wait_for(lambda: self.statuses["200"] > self.clients, timeout_s=30, what="first answers")
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        with requests.Session() as session:
            while not self._done.is_set():
                try:
                    answer = session.post(
                        f"{self.url}/v1/predict",
                        data=self.photo,
                        headers={"Content-Type": "image/jpeg"},
                        timeout=60,
                    )
                    self.statuses[str(answer.status_code)] += 1
                    if answer.status_code == 200:
                        self.versions[answer.json()["model"]["version"]] += 1
                    else:
                        self.refusals[answer.text[:300]] += 1
                except requests.RequestException as error:
                    self.statuses[type(error).__name__] += 1


@pytest.fixture(scope="module")
def cluster(s3: LocalS3) -> Iterator[Cluster]:
    """Start a Ray head with the fast ingress, separate ports and folders, and four logical CPUs."""
    stack = contextlib.ExitStack()
    # A short path: that of a socket has at most 108 bytes, and Ray adds the node's id with 56.
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ps-", dir="/tmp")))
    port, dashboard, agent, client, http, metrics, stats, export = free_ports(8)
    environment = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    with stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # for the commands that connect to it
        process = subprocess.Popen(
            [
                *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus", "4"),
                *("--node-ip-address", "127.0.0.1", "--port", str(port), "--dashboard-port", str(dashboard)),
                *("--dashboard-agent-listen-port", str(agent), "--ray-client-server-port", str(client)),
                *("--metrics-export-port", str(export)),
                *("--temp-dir", str(folder / "ray"), "--object-store-memory", str(200 * 2**20)),
            ],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        running = Cluster(folder, f"http://127.0.0.1:{dashboard}", http, export, process)
        try:
            wait_for(lambda: responds(f"{running.dashboard}/api/version"), timeout_s=60, what="the dashboard")
            yield running
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


@pytest.fixture(scope="module")
def photo(make_photo: Callable[..., bytes]) -> bytes:
    """Give one photo."""
    return make_photo(3, size=(200, 250))


@pytest.fixture
def deployed(cluster: Cluster, make_model: MakeModel, model_folder: str) -> Cluster:
    """Deploy the shipped service with one small replica."""
    cluster.deploy(
        model=model_folder,
        cpus_per_replica=1,
        min_replicas=1,
        max_replicas=1,
        live={"model": model_folder, "min_confidence": 0.0},
    )
    wait_for(lambda: cluster.num_replicas() == 1, timeout_s=120, what="one replica")
    wait_for(lambda: responds(f"{cluster.url}/healthz"), timeout_s=30, what="the service")
    file = Path(model_folder, "pose_classifier_complete.pth").read_bytes()
    version = hashlib.sha256(file).hexdigest()[:12]
    wait_for(lambda: cluster.model()["version"] == version, timeout_s=60, what="the model")
    return cluster


def test_prometheus_receives_requests_poses_stages_and_batches(deployed: Cluster, photo: bytes) -> None:
    for data in (photo, photo, b"no photo"):
        headers = {"Content-Type": "image/jpeg"}
        requests.post(f"{deployed.url}/v1/predict", data=data, headers=headers, timeout=60)

    def lines(name: str) -> list[str]:
        text = requests.get(f"http://127.0.0.1:{deployed.metrics_port}/metrics", timeout=30).text
        return [line for line in text.splitlines() if line.startswith(f"ray_physiq_{name}")]

    wait_for(lambda: any('status="415"' in line for line in lines("requests")), timeout_s=60, what="metrics")
    assert any('path="/v1/predict"' in line and 'status="200"' in line for line in lines("requests"))
    assert any('role="main"' in line and "pose_id=" in line for line in lines("predictions"))
    for stage in ("decode", "queue", "model"):
        assert any(f'stage="{stage}"' in line for line in lines("stage_seconds_count"))
    assert lines("confidence_count")
    assert lines("batch_photos_count")


def test_replacing_the_model_under_load_loses_no_request(
    deployed: Cluster, make_model: MakeModel, model_folder: str, photo: bytes
) -> None:
    before, other = deployed.model()["version"], make_model(seed=1)
    (replica,) = deployed.replicas()

    with Load(deployed.url, photo, clients=4) as load:
        deployed.deploy(
            **{"model": model_folder, "cpus_per_replica": 1, "min_replicas": 1, "max_replicas": 1},
            live={"model": other, "min_confidence": 0.0},
        )
        wait_for(lambda: deployed.model()["version"] != before, timeout_s=60, what="the other model")
        time.sleep(2)

    assert set(load.statuses) == {"200"}, load.refusals
    assert set(load.versions) == {before, deployed.model()["version"]}
    assert [process.pid for process in deployed.replicas()] == [replica.pid]  # the replica was not replaced


def test_a_damaged_model_is_refused_and_the_previous_one_continues_to_answer(
    deployed: Cluster, tmp_path: Path, model_folder: str, photo: bytes
) -> None:
    before = deployed.model()["version"]
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(Path(model_folder, "pose_classifier_complete.pth").read_bytes()[:100_000])

    with Load(deployed.url, photo, clients=2) as load:
        deployed.deploy(
            **{"model": model_folder, "cpus_per_replica": 1, "min_replicas": 1, "max_replicas": 1},
            live={"model": str(damaged), "min_confidence": 0.0},
        )
        wait_for(lambda: deployed.model()["refused"], timeout_s=60, what="the refusal")

    assert "damaged.pth" in deployed.model()["refused"]
    assert deployed.model()["version"] == before
    assert set(load.statuses) == {"200"}, load.refusals
    assert set(load.versions) == {before}


def test_a_significantly_worse_model_is_refused_by_all_replicas(
    deployed: Cluster, tmp_path: Path, photo: bytes
) -> None:
    good, worse = str(tmp_path / "good"), str(tmp_path / "worse")
    save_constant_model(tmp_path, (0.9, 0.1), good)
    save_constant_model(tmp_path, (0.1, 0.9), worse)
    rows = [(1, "train"), (2, "train"), *[(1, "validation")] * 12, (2, "validation")]
    live = {"compare_on": save_manifest(tmp_path, [photo] * len(rows), rows), "min_confidence": 0.0}
    settings = {"model": good, "cpus_per_replica": 1, "min_replicas": 2, "max_replicas": 2}
    deployed.deploy(**settings, live={"model": good, **live})
    wait_for(lambda: deployed.num_replicas() == 2, timeout_s=120, what="two replicas")
    time.sleep(3)  # until the proxy knows both
    before = deployed.model()["version"]

    with Load(deployed.url, photo, clients=4) as load:
        deployed.deploy(**settings, live={"model": worse, **live})
        refusals: set[str] = set()
        for _ in range(60):
            refusals.add(str(deployed.model()["refused"]))
            time.sleep(0.5)

    assert max(refusals - {"None"}).startswith(f"{worse}: significantly worse than {good}, which stays: all")
    assert len(refusals - {"None"}) == 1
    assert set(load.statuses) == {"200"}, load.refusals
    assert set(load.versions) == {before}

    victim, _ = deployed.replicas()
    victim.kill()
    time.sleep(15)
    wait_for(lambda: deployed.num_replicas() == 2, timeout_s=120, what="the replica to come back")
    time.sleep(3)
    with Load(deployed.url, photo, clients=4) as load:
        time.sleep(3)
    assert set(load.versions) == {before}


def test_a_killed_replica_loses_only_the_requests_inside_it_and_is_replaced(
    deployed: Cluster, model_folder: str, photo: bytes
) -> None:
    deployed.deploy(
        **{"model": model_folder, "cpus_per_replica": 1, "min_replicas": 2, "max_replicas": 2},
        live={"model": model_folder, "min_confidence": 0.0},
    )
    wait_for(lambda: deployed.num_replicas() == 2, timeout_s=120, what="two replicas")
    time.sleep(3)  # until the proxy knows both

    with Load(deployed.url, photo, clients=4) as load:
        victim, _ = deployed.replicas()
        victim.kill()
        time.sleep(15)
        wait_for(lambda: deployed.num_replicas() == 2, timeout_s=120, what="the replica to come back")

    lost = sum(load.statuses.values()) - load.statuses["200"]
    assert lost <= 4, load.statuses  # each client had at most one request inside
    assert lost <= 0.01 * sum(load.statuses.values()), load.statuses


def test_a_replaced_model_file_is_used_by_all_replicas_after_a_deployment_and_by_none_before(
    deployed: Cluster, make_model: MakeModel, photo: bytes, tmp_path: Path
) -> None:
    name = "pose_classifier_complete.pth"
    first, second = (Path(make_model(seed=seed), name).read_bytes() for seed in (5, 6))
    versions = [hashlib.sha256(data).hexdigest()[:12] for data in (first, second)]
    (tmp_path / name).write_bytes(first)
    settings = {"model": str(tmp_path), "cpus_per_replica": 1, "min_replicas": 2, "max_replicas": 2}
    live = {"model": str(tmp_path), "min_confidence": 0.0}
    deployed.deploy(**settings, live=live)
    wait_for(lambda: deployed.num_replicas() == 2, timeout_s=120, what="two replicas")
    wait_for(lambda: deployed.model()["version"] == versions[0], timeout_s=60, what="the first model")
    time.sleep(3)  # until the proxy knows both

    (tmp_path / name).write_bytes(second)
    with Load(deployed.url, photo, clients=2) as load:
        victim, _ = deployed.replicas()
        victim.kill()
        time.sleep(25)  # Serve starts another replica, which finds the second file
    assert set(load.versions) == {versions[0]}
    assert deployed.num_replicas() == 1
    message = deployed.application()["deployments"]["PoseService"]["message"]
    assert f"version {versions[0]} → {versions[1]}" in message

    deployed.deploy(**settings, live=live)
    wait_for(lambda: deployed.num_replicas() == 2, timeout_s=180, what="the second replica")
    time.sleep(15)  # the other one checks every ten seconds
    with Load(deployed.url, photo, clients=4) as load:
        time.sleep(3)
    assert set(load.statuses) == {"200"}, load.refusals
    assert set(load.versions) == {versions[1]}


def test_replicas_are_added_under_load_and_removed_after_it(
    deployed: Cluster, model_folder: str, photo: bytes
) -> None:
    deployed.deploy(
        **{"model": model_folder, "cpus_per_replica": 1, "min_replicas": 1, "max_replicas": 2},
        **{"target_requests": 2, "upscale_delay_s": 1, "downscale_delay_s": 5},
        live={"model": model_folder, "min_confidence": 0.0},
    )
    wait_for(lambda: deployed.num_replicas() == 1, timeout_s=120, what="one replica")

    with Load(deployed.url, photo, clients=12) as load:
        wait_for(lambda: deployed.num_replicas() == 2, timeout_s=120, what="a second replica")
    wait_for(lambda: deployed.num_replicas() == 1, timeout_s=120, what="the second to go")

    assert set(load.statuses) <= {"200", "503"}


def test_an_idle_service_may_have_no_replica_and_starts_one_for_a_request(
    deployed: Cluster, model_folder: str, photo: bytes
) -> None:
    deployed.deploy(
        **{"model": model_folder, "cpus_per_replica": 1, "min_replicas": 0, "max_replicas": 1},
        **{"downscale_delay_s": 3},
        live={"model": model_folder, "min_confidence": 0.0},
    )
    wait_for(lambda: deployed.num_replicas() == 0, timeout_s=120, what="the last replica to go")

    answer = requests.post(
        f"{deployed.url}/v1/predict", data=photo, headers={"Content-Type": "image/jpeg"}, timeout=120
    )

    assert answer.status_code == 200
    assert deployed.num_replicas() == 1


def test_serve_shutdown_completes_the_received_requests(deployed: Cluster, photo: bytes) -> None:
    with Load(deployed.url, photo, clients=4) as load:
        run("serve", "shutdown", "--address", deployed.dashboard, "--yes")
        time.sleep(5)

    # After the end, requests may be refused or get an error; but no response may be incomplete.
    assert load.statuses["ChunkedEncodingError"] == 0
    assert load.statuses["500"] == 0
