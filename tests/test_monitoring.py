"""The dashboard and the alerts: every metric in them exists, and every metric of ours is on a panel."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "docs/prometheus/alerts.yaml"
DASHBOARD = ROOT / "docs/grafana/physiq-ray.json"
# Names that Ray 2.60 exports; a long test (serving/test_prometheus.py) finds them in a running Ray.
OF_RAY = {
    "ray_node_cpu_utilization",
    "ray_node_disk_free",
    "ray_node_mem_total",
    "ray_node_mem_used",
    "ray_object_store_available_memory",
    "ray_object_store_used_memory",
    "ray_serve_deployment_replica_healthy",
    "ray_serve_deployment_replica_starts_total",
    "ray_serve_deployment_status",
}
# Only on nodes with a GPU.
OF_RAY_WITH_GPUS = {"ray_node_gpus_utilization"}

# What an alert compares, its `for`, and how docs/operations.md says both.
THRESHOLDS: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "PhysiqNoModel": ("== 0", "2m", ("No replica", "2 minutes")),
    "PhysiqReplicasEnd": ("[30m]", None, ("More than 3", "30 minutes")),
    "PhysiqBusy": ("> 0.01", "5m", ("More than 1 %", "503", "5 minutes")),
    "PhysiqErrors": ("> 0.01", "5m", ("More than 1 %", "5xx", "5 minutes")),
    "PhysiqSlow": ("> 1\n", "5m", ("5 minutes", "longer than 1 s", "99th percentile")),
    "PhysiqDrift": ("> 1", "1h", ("above 1", "an hour")),
    "PhysiqTrainingStalled": ("[10m]", "5m", ("15 minutes",)),
    "PhysiqTrainingWaits": ("> 0.5", "15m", ("more than half", "15 minutes")),
}


def exported(kind: str, name: str) -> set[str]:
    """Give the names of a metric's series in Prometheus; kind: Counter, Gauge or Histogram."""
    endings = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
    return {f"ray_{name}{ending}" for ending in endings[kind]}


def find_metrics() -> dict[str, set[str]]:
    """Find the metrics in the code: name → the names of its series."""
    found = {}
    for path in (ROOT / "physiq_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="Counter" | "Gauge" | "Histogram" as kind),
                    args=[ast.Constant(value=str(name)), *_],
                ):
                    found[name] = exported(kind, name)
    return found


def find_expressions() -> dict[str, str]:
    """Give the expressions of all rules and panels, by alert or by panel's title and letter."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    alerts = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    panels = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
        for target in panel.get("targets", ())
    }
    return alerts | panels


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


OURS = find_metrics()
SERIES = set().union(*OURS.values())
EXPRESSIONS = find_expressions()


def test_the_metrics_are_found_in_the_code() -> None:
    assert {"physiq_requests", "physiq_drift", "physiq_train_loss"} <= set(OURS)
    assert OURS["physiq_requests"] == {"ray_physiq_requests_total"}


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_every_metric_of_a_panel_or_an_alert_exists(place: str) -> None:
    names = names_in(EXPRESSIONS[place])
    assert names
    assert names <= SERIES | OF_RAY | OF_RAY_WITH_GPUS


@pytest.mark.parametrize("name", OURS)
def test_every_metric_of_ours_is_on_a_panel_and_in_the_documents(name: str) -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    shown = names_in(" ".join(target["expr"] for panel in panels for target in panel.get("targets", ())))
    assert OURS[name] & shown
    pages = [(ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("serving.md", "training.md")]
    series = min(OURS[name]).removesuffix("_bucket")
    assert any(f"`{series}`" in page for page in pages)


def test_no_metric_in_the_documents_is_unknown() -> None:
    known = SERIES | {f"ray_{name}" for name, series in OURS.items() if len(series) > 1}
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert {name for name in re.findall(r"`(ray_physiq_\w+)`", text) if name != "ray_physiq_"} <= known


def test_ray_has_the_metrics_of_gpus() -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    code = (
        Path(spec.origin)
        .with_name("dashboard")
        .joinpath("modules/reporter/reporter_agent.py")
        .read_text(encoding="utf-8")
    )
    for name in OF_RAY_WITH_GPUS:
        assert f'"{name.removeprefix("ray_")}"' in code


def test_no_name_of_ray_is_listed_in_vain() -> None:
    used = set().union(*map(names_in, EXPRESSIONS.values()))
    assert used >= OF_RAY | OF_RAY_WITH_GPUS


def test_the_documents_describe_each_alert_with_its_threshold_and_time() -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    found = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(Physiq\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert set(rows) == set(found) == set(THRESHOLDS)
    for name, (comparison, time, phrases) in THRESHOLDS.items():
        assert comparison in found[name]["expr"]
        assert found[name].get("for") == time
        assert all(phrase in rows[name] for phrase in phrases), name


def test_the_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        cells = {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
        assert not cells & taken, panel["title"]
        assert x + w <= 24
        taken |= cells


@pytest.fixture
def promtool() -> Any:
    """Give a function that runs promtool."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is missing: install Debian's prometheus package")
    return lambda *words: subprocess.run([program, *words], capture_output=True, text=True, timeout=60)


def test_prometheus_accepts_the_rules(promtool: Any) -> None:
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_otherwise(promtool: Any, tmp_path: Path) -> None:
    cases = Path(__file__).with_name("alerts_test.yaml")
    for path in (RULES, cases):
        shutil.copy(path, tmp_path)
    done = promtool("test", "rules", str(tmp_path / cases.name))
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {
        case["alertname"]
        for test in yaml.safe_load(cases.read_text(encoding="utf-8"))["tests"]
        for case in test["alert_rule_test"]
        if "exp_alerts" in case
    }
    alerts = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    assert expected == {rule["alert"] for group in alerts for rule in group["rules"]}
