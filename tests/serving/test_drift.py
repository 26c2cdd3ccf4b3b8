"""How far the last photos are from the validation photos, simulated and in a replica."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from replica import MakePhoto, Reported, Run, ask

from physiq_ray.checkpoint import load_model_state, save_model_files
from physiq_ray.config import ServingSettings
from physiq_ray.reference import NAMES, Histogram, Reference
from physiq_ray.serving.drift import LEAST, WINDOW, Drift
from physiq_ray.serving.models import load_served
from physiq_ray.serving.service import Service

NUM_POSES, NUM_VALIDATED = 8, 400
SHARES = np.array([0.2, 0.16, 0.14, 0.12, 0.11, 0.1, 0.09, 0.08])


class Gym:
    """Made-up photos: pose, confidence, brightness and size of each."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def photos(self, number: int, *, without: int | None = None, stops: float = 0) -> dict[str, np.ndarray]:
        """Draw photos; without: a pose that is missing; stops: how much darker they are."""
        shares = SHARES.copy()
        if without is not None:
            shares[without] = 0
        rng = self._rng
        return {
            "poses": rng.choice(NUM_POSES, number, p=shares / shares.sum()),
            "confidence": rng.beta(5, 1.5, number),
            "brightness": rng.normal(0.45, 0.12, number).clip(0.02, 0.98) / 2**stops,
            "size": rng.lognormal(14, 0.5, number),
        }

    def reference(self) -> Reference:
        """Draw the validation photos of a model."""
        photos = self.photos(NUM_VALIDATED)
        poses = Histogram.of_classes(photos.pop("poses"), NUM_POSES)
        return Reference(poses, *(Histogram.of_values(values) for values in photos.values()))


def send(drift: Drift, photos: dict[str, np.ndarray]) -> set[str]:
    """Add photos; give the names of the distances that are then above their limit."""
    for values in zip(*(photos[name] for name in NAMES), strict=True):
        drift.add(dict(zip(NAMES, values, strict=True)))
    return {name for name, found in drift.distances().items() if found.value > found.limit}


@pytest.mark.slow
def test_photos_like_those_of_the_validation_are_above_a_limit_in_under_one_percent_of_windows() -> None:
    gym = Gym(1)

    alarms = [bool(send(Drift(gym.reference()), gym.photos(WINDOW))) for _ in range(400)]

    assert sum(alarms) < 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name"), [({"without": 7}, "poses"), ({"without": 0}, "poses"), ({"stops": 1}, "brightness")]
)
def test_a_missing_pose_and_darker_photos_are_seen_within_500_requests(
    change: dict[str, float], name: str
) -> None:
    gym = Gym(2)
    for _ in range(20):
        drift = Drift(gym.reference())
        assert send(drift, gym.photos(WINDOW)) == set()

        assert name in send(drift, gym.photos(500, **change))  # type: ignore[arg-type]


def test_the_window_forgets_old_photos() -> None:
    gym = Gym(3)
    drift = Drift(gym.reference())

    send(drift, gym.photos(WINDOW, stops=3))
    assert send(drift, gym.photos(WINDOW)) == set()
    assert drift.num_photos == WINDOW


def test_few_photos_have_no_distance() -> None:
    gym = Gym(4)
    drift = Drift(gym.reference())

    assert send(drift, gym.photos(LEAST - 1, stops=3)) == set()
    assert drift.distances() == {}
    assert "brightness" in send(drift, gym.photos(1, stops=3))


@pytest.fixture(scope="module")
def watching(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a model whose validation photos were much brighter and larger than those of these tests."""
    folder = tmp_path_factory.mktemp("watching")
    state = load_model_state(model_folder)
    rng = np.random.default_rng(0)
    reference = Reference(
        Histogram.of_classes(rng.integers(0, 3, 100), 3),
        Histogram.of_values(rng.random(100)),
        Histogram.of_values(0.9 + 0.1 * rng.random(100)),
        Histogram.of_values(1e6 * (1 + rng.random(100))),
    )
    save_model_files(replace(state, reference=reference), str(folder))
    return str(folder)


@pytest.mark.slow
def test_a_replica_compares_its_photos_and_reports_the_distances(
    make_photo: MakePhoto, run: Run, watching: str, reported: Reported
) -> None:
    photo = make_photo(1, size=(64, 64))

    async def act(service: Service) -> Any:
        for _ in range(LEAST):
            await ask(service, photo)
        return service.models.current.main.drift

    drift = run(act, model=watching)

    assert drift.num_photos == LEAST
    found = drift.distances()
    assert found["brightness"].value > found["brightness"].limit
    assert found["size"].value > found["size"].limit
    assert len(reported.drift) == 1
    assert reported.drift[0] == found


def test_a_model_file_without_a_reference_is_not_watched(model_folder: str) -> None:
    assert load_served(model_folder, ServingSettings(runtime="torch")).drift is None
