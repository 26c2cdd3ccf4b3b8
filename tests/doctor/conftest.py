"""`physiq-ray doctor` in this process, with the facts of torch made up: its import takes seconds."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from probed import TORCH

from physiq_ray.doctor import devices

LIMIT_S = 20.0


@dataclass(frozen=True)
class Report:
    """What doctor found: exit status, records, and the printed text."""

    status: int
    records: list[dict[str, str]]
    text: str

    @property
    def problems(self) -> dict[tuple[str, str], str]:
        """The state of each line that is not ok, by check and subject."""
        return {(one["check"], one["subject"]): one["state"] for one in self.records if one["state"] != "ok"}

    def of(self, check: str, subject: str) -> dict[str, str]:
        """Give the only record of a subject."""
        (record,) = (one for one in self.records if (one["check"], one["subject"]) == (check, subject))
        return record


RunDoctor = Callable[..., Report]


@pytest.fixture
def doctor(s3: Any, run_here: Any, monkeypatch: pytest.MonkeyPatch) -> RunDoctor:
    """Give a function that runs doctor with --json within LIMIT_S; its facts of torch are TORCH."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(devices, "ask_probe", lambda *_, timeout_s: {"torch": TORCH})

    def run(*args: Any, limit_s: float = LIMIT_S) -> Report:
        start_s = time.monotonic()
        done = run_here("doctor", "--json", *args)
        assert time.monotonic() - start_s < limit_s
        assert "Traceback" not in done.stdout + done.stderr
        return Report(done.returncode, json.loads(done.stdout), done.stdout)

    return run
