"""What runs beside a training on a machine of one's own."""

import time

import psutil
import pytest

IDLE_S = 5.0
PATIENCE_S = 30.0


def commands() -> list[str]:
    """Give the command lines of all processes that came from this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:  # it ended meanwhile
            continue
    return found


@pytest.mark.usefixtures("ray_local")
def test_no_process_watches_logs_and_idle_workers_go() -> None:
    import ray

    ray.get(ray.remote(num_cpus=1)(lambda: None).remote())  # one worker has worked, and is idle from now on
    assert any("raylet" in command for command in commands())
    assert not any("log_monitor.py" in command for command in commands())
    deadline_s = time.monotonic() + PATIENCE_S
    while any(command.startswith("ray::IDLE") for command in commands()):
        assert time.monotonic() < deadline_s, "idle workers stay"
        time.sleep(0.5)
    assert time.monotonic() > deadline_s - PATIENCE_S + IDLE_S / 2, "workers went before they could be used"
