"""A real Prometheus reads Ray's list of nodes, and evaluates every panel and every alert."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from photosets import save_manifest
from replica import MakePhoto
from running import StartService, free_ports, responds, wait_for

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in json.loads((DOCS / "grafana/physiq-ray.json").read_text(encoding="utf-8"))["panels"]
    for target in panel.get("targets", ())
}
TRAINING = {place for place, expression in PANELS.items() if "ray_physiq_train_" in expression}
# The model of the test has no reference, and there may be no GPU.
MAY_BE_EMPTY = {"Drift A", "GPU utilization A"}
LIST = "/tmp/ray/prom_metrics_service_discovery.json"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not installed"),
]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """Call Prometheus' API, which must not report an error."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def without_data(self, places: set[str]) -> set[str]:
        """Give the panels whose expressions have no value now."""
        return {place for place in places if not self.ask("query", query=PANELS[place])["result"]}


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """Give two folders for Ray; their paths are short, because those of its sockets are limited."""
    options: dict[str, Any] = {"prefix": "pm-", "dir": "/tmp"}
    with tempfile.TemporaryDirectory(**options) as first, tempfile.TemporaryDirectory(**options) as second:
        yield Path(first), Path(second)


@pytest.fixture
def prometheus(tmp_path: Path, folders: tuple[Path, Path]) -> Iterator[Prometheus]:
    """Start Prometheus as the documents show it, for the Rays in both folders."""
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(rule_files.*?)```", page, re.DOTALL)
    assert block is not None
    config = yaml.safe_load(block[1])
    (files,) = config["scrape_configs"][0]["file_sd_configs"]
    assert files == {"files": [LIST]}
    files["files"] = [f"{folder}/ray/{Path(LIST).name}" for folder in folders]
    files["refresh_interval"] = "2s"  # the folders do not exist yet
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DOCS / "prometheus/alerts.yaml", tmp_path)
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [
            *("prometheus", "--config.file", "prometheus.yml", "--storage.tsdb.path", "data"),
            *("--web.listen-address", f"127.0.0.1:{port}"),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: responds(f"{url}/-/ready"), timeout_s=30, what="Prometheus")
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.timeout(500)
def test_every_panel_and_alert_is_evaluated_on_real_metrics(
    prometheus: Prometheus,
    folders: tuple[Path, Path],
    start_service: StartService,
    make_photo: MakePhoto,
    tmp_path: Path,
) -> None:
    rows = [(number % 2 + 1, "train" if number < 12 else "validation") for number in range(16)]
    manifest = save_manifest(tmp_path, [make_photo(seed=number) for number in range(16)], rows)
    quick = {"RAY_metrics_report_interval_ms": "1000"}
    training = subprocess.Popen(
        [
            *(sys.executable, "-m", "physiq_ray.cli", "train", "--manifest", manifest, "--debug"),
            *("--weights", "random", "--image-size", "64", "--batch-size", "4", "--cache", "memory"),
            *("--epochs", "500", "--patience", "500", "--run-name", "spring"),
        ],
        cwd=tmp_path,
        env={**os.environ, **quick, "RAY_TMPDIR": str(folders[0])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        what = "the metrics of the training"
        wait_for(lambda: not prometheus.without_data(TRAINING), timeout_s=150, what=what)
        (epochs,) = prometheus.ask("query", query="ray_physiq_train_epochs")["result"]
        assert epochs["metric"]["run"] == "spring"
        assert float(epochs["value"][1]) >= 1
    finally:
        training.send_signal(signal.SIGINT)
        training.wait(60)

    feedback = ("--feedback", str(tmp_path / "feedback"), "--feedback-below", "1")
    service = start_service("--debug", *feedback, RAY_TMPDIR=str(folders[1]), **quick)

    def is_complete() -> bool:
        service.post(make_photo(seed=1))
        return not prometheus.without_data(set(PANELS) - TRAINING - MAY_BE_EMPTY)

    wait_for(is_complete, timeout_s=120, what="the metrics of the service")
    prometheus.without_data(MAY_BE_EMPTY)  # raises nothing: the expressions are correct
    (answers,) = prometheus.ask("query", query='ray_physiq_requests_total{status="200"}')["result"]
    assert answers["metric"]["path"] == "/v1/predict"
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {(rule["name"], rule["health"], rule["state"]) for rule in rules} == {
        (name, "ok", "inactive")
        for name in (
            *("PhysiqBusy", "PhysiqDrift", "PhysiqErrors", "PhysiqNoModel", "PhysiqReplicasEnd"),
            *("PhysiqSlow", "PhysiqTrainingStalled", "PhysiqTrainingWaits"),
        )
    }
