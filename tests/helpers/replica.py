"""A replica without Serve and without HTTP, and what its tests share."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from physiq_ray.config import ServingSettings
from physiq_ray.serving.drift import Distance
from physiq_ray.serving.engine import Computed
from physiq_ray.serving.models import Served, load_served
from physiq_ray.serving.service import Service

MakePhoto = Callable[..., bytes]
Act = Callable[[Service], Awaitable[Any]]
Run = Callable[..., Any]
WAIT_S = 30


class Clock:
    """A time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Reported:
    """The metrics that a service reports to Prometheus."""

    def __init__(self) -> None:
        self.predictions: list[tuple[int | None, str, str]] = []
        self.stages: Counter[str] = Counter()
        self.batch_sizes: list[int] = []
        self.feedback: Counter[str] = Counter()
        self.drift: list[Mapping[str, Distance]] = []

    def count_prediction(self, pose_id: int | None, confidence: float, *, version: str, role: str) -> None:
        assert 0 <= confidence <= 1
        self.predictions.append((pose_id, version, role))

    def observe(self, stage: str, seconds: float) -> None:
        assert seconds >= 0
        self.stages[stage] += 1

    def observe_computed(self, computed: Computed) -> None:
        self.batch_sizes.append(computed.batch_size)

    def count_feedback(self, result: str) -> None:
        self.feedback[result] += 1

    def report_drift(self, distances: Mapping[str, Distance]) -> None:
        self.drift.append(distances)


class AnyVersion:
    """Accepts every version of a model file, as if a service had one replica; keeps verdicts."""

    def __init__(self, verdicts: dict[str, str] | None = None) -> None:
        self.verdicts = verdicts if verdicts is not None else {}

    def fix(self, address: str, version: str) -> None:
        """Accept it."""

    def verdict_on(self, version: str) -> str | None:
        return self.verdicts.get(version)

    def agree(self, version: str, verdict: str) -> str:
        return self.verdicts.setdefault(version, verdict)


@functools.cache
def loaded(address: str) -> Served:
    """Load a model from its file."""
    return load_served(address, ServingSettings(runtime="torch"))


def load_again(address: str, _settings: ServingSettings) -> Served:
    """Load each model from its file once in a test run, because loading takes a second."""
    return dataclasses.replace(loaded(address))  # a new object, as if the model were loaded again


async def ask(service: Service, photo: bytes) -> dict[str, Any]:
    """Give the answer for one photo as it is sent to the client."""
    return (await service.answer(photo)).model_dump()


def answer_to(*photos: bytes) -> Act:
    async def act(service: Service) -> list[dict[str, Any]]:
        return [await ask(service, photo) for photo in photos]

    return act
