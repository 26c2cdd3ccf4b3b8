"""Ask another program, and stop it when it takes too long."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def ask(command: Sequence[str], timeout_s: float) -> str:
    """Give what a program printed on stdout until it ended or timeout_s was over; "" if it does not exist."""
    # Python must not take a torch.py or ray.py of the working folder for the package.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
    except OSError:
        return ""
    with process:
        try:
            return process.communicate(timeout=timeout_s)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return process.communicate()[0]  # what it had printed before


def ask_probe(*arguments: str, timeout_s: float) -> dict[str, dict[str, Any]]:
    """Run the probe; give the facts by their kind, as far as it got."""
    facts = {}
    for line in ask([sys.executable, "-m", "physiq_ray.doctor.probe", *arguments], timeout_s).splitlines():
        with contextlib.suppress(ValueError):  # torch and Ray may print, too
            fact = json.loads(line)
            if isinstance(fact, dict) and "kind" in fact:
                facts[fact["kind"]] = fact
    return facts
