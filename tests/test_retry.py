"""How long a fault may last that costs nothing."""

import pytest

from physiq_ray.errors import DeniedError, UnreachableError
from physiq_ray.storage import retry as retry_module
from physiq_ray.storage.retry import retry


@pytest.fixture
def clock(monkeypatch):
    """Let time pass by sleeping alone; give the function that tells it."""
    passed = [0.0]
    monkeypatch.setattr(retry_module.time, "sleep", lambda seconds: passed.append(passed[-1] + seconds))
    return lambda: passed[-1]


@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_an_endpoint_that_is_back_within_23_seconds_costs_nothing(clock, monkeypatch, draw):
    monkeypatch.setattr(
        retry_module.random, "uniform", lambda low, high: low + draw * (high - low)
    )  # the shortest waits, and the longest

    def call():
        if clock() < 23:
            raise UnreachableError("away")
        return "here"

    assert retry(call) == "here"
    assert clock() < 32


def test_one_that_stays_away_is_said_after_eight_tries(clock):
    tries = []

    def call():
        tries.append(clock())
        raise UnreachableError("away")

    with pytest.raises(UnreachableError):
        retry(call)
    assert len(tries) == 8


def test_what_will_not_pass_is_raised_at_once(clock):
    def call():
        raise DeniedError("no")

    with pytest.raises(DeniedError):
        retry(call)
    assert clock() == 0
