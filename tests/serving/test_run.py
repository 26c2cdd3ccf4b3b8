"""`physiq-ray serve` at its start and at its end."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from replica import MakePhoto
from running import StartService

from physiq_ray.config import ServingSettings
from physiq_ray.errors import ServingError
from physiq_ray.serving.run import fit_to_machine

Serve = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def serve(run_here: Serve, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Give a function that runs `physiq-ray serve` in this process, where Ray must not start."""

    def refuse(**_options: bool) -> None:
        raise AssertionError("no problem was found before Ray would have started")

    monkeypatch.setattr("physiq_ray.cluster.connect", refuse)
    return lambda *flags: run_here("serve", *flags)


def test_a_missing_model_is_reported_before_ray_starts(serve: Serve) -> None:
    done = serve("--model", "nowhere")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "train one first" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_reported_with_the_flag_to_change(serve: Serve, model_folder: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = serve("--model", model_folder, "--port", str(other.getsockname()[1]))
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert "--port" in done.stderr


def test_the_service_does_not_start_without_its_token_file(
    serve: Serve, model_folder: str, tmp_path: Path
) -> None:
    done = serve("--model", model_folder, "--port", "59999", "--tokens", str(tmp_path / "none.txt"))
    assert done.returncode == 1
    assert "none.txt" in done.stderr


def test_a_wrong_setting_is_named_with_its_flag(serve: Serve) -> None:
    done = serve("--max-photos", "0")
    assert done.returncode == 2
    assert "--max-photos='0'" in done.stderr


def test_the_local_service_sets_its_environment_before_ray_serve_is_loaded() -> None:
    code = "import sys, physiq_ray.serving.run; print('ray.serve' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_max_replicas_is_lowered_to_what_the_cpus_allow() -> None:
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
def test_replicas_that_do_not_fit_are_refused_with_the_number_of_cpus(
    settings: dict[str, int], message: str
) -> None:
    with pytest.raises(ServingError, match=message):
        fit_to_machine(ServingSettings.model_validate(settings), 2)


@pytest.mark.long
def test_after_sigterm_the_received_requests_are_answered(
    start_service: StartService, make_photo: MakePhoto
) -> None:
    service, photo = start_service(), make_photo(1)
    signal_s: list[float] = []
    outcomes: list[tuple[float, str]] = []

    def send() -> None:
        while not signal_s:
            sent_s = time.monotonic()
            try:
                outcomes.append((sent_s, str(service.post(photo).status_code)))
            except requests.RequestException as error:
                outcomes.append((sent_s, type(error).__name__))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    service.process.send_signal(signal.SIGTERM)
    signal_s.append(time.monotonic())
    for thread in threads:
        thread.join()
    stdout, stderr = service.process.communicate(timeout=60)

    assert {status for sent_s, status in outcomes if sent_s < signal_s[0]} == {"200"}
    assert len(outcomes) > 50
    assert service.process.returncode == 0
    # stdout has no further line, and no line is Ray's.
    assert (stdout, stderr) == ("", "starting Ray and loading the model …\nstopped\n")


@pytest.mark.long
def test_the_messages_of_ray_are_shown_with_debug(start_service: StartService) -> None:
    service = start_service("--debug")
    service.process.send_signal(signal.SIGINT)
    stdout, stderr = service.process.communicate(timeout=60)

    assert service.process.returncode == 0
    assert "INFO worker.py" in stderr
    assert "(ServeController pid=" in stdout + stderr
    assert stderr.splitlines()[-1] == "stopped"
