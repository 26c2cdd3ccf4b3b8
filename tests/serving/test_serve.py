"""`physiq-ray serve` at its start and at its end, its documents, and the shipped configuration."""

import importlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema
from running import ALLOWED_BUCKET, POSES, RunningService, StartService

from physiq_ray.config import LiveSettings, ServingSettings
from physiq_ray.errors import ServingError
from physiq_ray.serving.app import build_app
from physiq_ray.serving.run import fit_to_machine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CURL_LINES = sorted(set(re.findall(r"^(?:echo .*\| )?curl .*$", PAGE + README, re.MULTILINE)))

RunCli = Callable[..., subprocess.CompletedProcess[str]]
MakePhoto = Callable[..., bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_photo: MakePhoto, s3_direct: Any) -> Path:
    """Give a folder, and a bucket, with the photos that the documents' examples name."""
    folder = tmp_path_factory.mktemp("documents")
    for seed, name in enumerate(("photo.jpg", "first.jpg", "second.jpg")):
        (folder / name).write_bytes(make_photo(seed))
    if ALLOWED_BUCKET not in [bucket["Name"] for bucket in s3_direct.list_buckets()["Buckets"]]:
        s3_direct.create_bucket(Bucket=ALLOWED_BUCKET)
    s3_direct.put_object(Bucket=ALLOWED_BUCKET, Key="open/readme.jpg", Body=make_photo(0))
    return folder


def here(example: str, service: RunningService) -> str:
    """Let an example of the documents ask the tests' service and bucket."""
    return example.replace("http://127.0.0.1:8000", service.url).replace(
        "s3://checkin-poses/photo.jpg", f"s3://{ALLOWED_BUCKET}/open/readme.jpg"
    )


@pytest.mark.parametrize("line", CURL_LINES)
def test_the_documents_curl_lines_answer(service: RunningService, folder: Path, line: str) -> None:
    done = subprocess.run(
        here(line, service).replace("curl ", "curl --silent --fail ", 1),
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"confidence"') == (2 if "second.jpg" in line else 1)


def test_the_pages_python_example_prints_pose_and_confidence(service: RunningService, folder: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", here(example, service)], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert any(name in done.stdout for name in POSES.values()), done.stderr


def test_a_missing_model_is_said_before_ray_starts(run_cli: RunCli) -> None:
    done = run_cli("serve", "--model", "nowhere")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "train one first" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said_with_the_flag_to_change(run_cli: RunCli, model_folder: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = run_cli("serve", "--model", model_folder, "--port", str(other.getsockname()[1]))
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert "--port" in done.stderr


def test_tokens_that_cannot_be_had_keep_the_service_from_starting(
    run_cli: RunCli, model_folder: str, tmp_path: Path
) -> None:
    done = run_cli(
        "serve", "--model", model_folder, "--port", "59999", "--tokens", str(tmp_path / "none.txt")
    )
    assert done.returncode == 1
    assert "none.txt" in done.stderr


def test_a_wrong_setting_is_named_with_its_flag(run_cli: RunCli) -> None:
    done = run_cli("serve", "--max-photos", "0")
    assert done.returncode == 2
    assert "--max-photos='0'" in done.stderr


def test_as_many_replicas_as_the_machine_has_cpus_for() -> None:
    settings = ServingSettings(cpus_per_replica=2, max_replicas=4)
    assert fit_to_machine(settings, 5).max_replicas == 2
    assert fit_to_machine(settings, 64).max_replicas == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cpus_per_replica": 3}, "cpus_per_replica=3: this machine has 2 CPUs"),
        ({"cpus_per_replica": 1, "min_replicas": 3}, "min_replicas=3: 2 CPUs hold 2"),
    ],
)
def test_replicas_that_do_not_fit_are_refused_in_words(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        fit_to_machine(ServingSettings.model_validate(settings), 2)


@pytest.mark.long
def test_sigterm_lets_the_requests_at_hand_finish(start_service: StartService, make_photo: MakePhoto) -> None:
    service, photo = start_service(), make_photo(1)
    told_s: list[float] = []
    outcomes: list[tuple[float, str]] = []

    def ask() -> None:
        while not told_s:
            sent_s = time.monotonic()
            try:
                outcomes.append((sent_s, str(service.post(photo).status_code)))
            except requests.RequestException as error:
                outcomes.append((sent_s, type(error).__name__))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    service.process.send_signal(signal.SIGTERM)
    told_s.append(time.monotonic())
    for thread in threads:
        thread.join()
    stderr = service.process.communicate(timeout=60)[1]

    assert {status for sent_s, status in outcomes if sent_s < told_s[0]} == {"200"}
    assert len(outcomes) > 50
    assert service.process.returncode == 0
    assert stderr.splitlines()[-1] == "stopped"


def test_the_shipped_configuration_has_no_key_that_serve_does_not_know() -> None:
    """Serve passes over a key that it does not know, in silence."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    schema = ServeDeploySchema.model_validate(config)

    assert unknown_keys(config, schema) == []
    (application,) = config["applications"]
    assert set(application["args"]) <= set(ServingSettings.model_fields)
    assert set(application["deployments"][0]["user_config"]) <= set(LiveSettings.model_fields)
    ServingSettings.model_validate(application["args"])


def test_the_documented_address_of_the_application_is_build_app() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    module, _, name = config["applications"][0]["import_path"].partition(":")

    assert getattr(importlib.import_module(module), name) is build_app


def test_the_local_service_sets_its_environment_before_ray_serve_is_loaded() -> None:
    code = "import sys, physiq_ray.serving.run; print('ray.serve' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_a_misspelt_key_is_found() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    config["http_options"]["keep_alive_timout_s"] = 5
    config["applications"][0]["deployments"][0]["max_ongoing_request"] = 5
    schema = ServeDeploySchema.model_validate(config)
    assert unknown_keys(config, schema) == ["keep_alive_timout_s", "max_ongoing_request"]


def unknown_keys(config: Any, parsed: Any) -> list[str]:
    """List the keys of a configuration that its parsed form has no field for."""
    if isinstance(parsed, BaseModel):
        here = [key for key in config if key not in type(parsed).model_fields]
        return here + [
            key
            for name in type(parsed).model_fields
            if name in config
            for key in unknown_keys(config[name], getattr(parsed, name))
        ]
    if isinstance(parsed, list):
        return [key for item, part in zip(config, parsed, strict=True) for key in unknown_keys(item, part)]
    return []
