"""A new model must not be significantly worse on the photos of compare_on than the one that it replaces."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from models import save_constant_model
from photosets import save_manifest
from replica import AnyVersion, MakePhoto, Run, ask

from physiq_ray.checkpoint import load_model_state
from physiq_ray.config import ServingSettings
from physiq_ray.errors import DataError, ServingError
from physiq_ray.evaluation.compare import Comparison
from physiq_ray.floor import floor_of_confidence
from physiq_ray.serving import gate
from physiq_ray.serving.decoding import decode
from physiq_ray.serving.engine import Engine
from physiq_ray.serving.models import load_served
from physiq_ray.serving.service import Service

Rows = list[tuple[int | None, str]]
TRAINED: Rows = [(1, "train"), (2, "train")]
VALIDATED: Rows = [*[(1, "validation")] * 12, (2, "validation")]
NULLS: Rows = [(None, "validation")] * 12
WORSE = "all photos: 92.3% → 7.7% of 13 photos (p = 0.0068); Pose 1: 100.0% → 0.0% of 12 photos (p = 0.0015)"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Save models that give every photo the same chances of Pose 1 and Pose 2, and give their folders."""
    chances = {"good": (0.9, 0.1), "equal": (0.8, 0.2), "worse": (0.1, 0.9), "refusing": (0.85, 0.15)}
    folders = {}
    for name, values in chances.items():
        folder = tmp_path_factory.mktemp(name)
        folders[name] = str(folder)
        # At temperature 2, the confidence of these answers is 0.66 to 0.75.
        floor = floor_of_confidence(0.99) if name == "refusing" else floor_of_confidence(0.5)
        save_constant_model(folder, values, str(folder), floor)
    return folders


@pytest.fixture
def make_manifest(tmp_path: Path, make_photo: MakePhoto) -> Callable[[Rows], str]:
    """Give a function that writes photos and their manifest, and returns its path."""

    def make(rows: Rows) -> str:
        return save_manifest(tmp_path, [make_photo(number) for number in range(len(rows))], rows)

    return make


@pytest.fixture
def manifest(make_manifest: Callable[[Rows], str]) -> str:
    """Give the manifest that most tests use."""
    return make_manifest(TRAINED + VALIDATED)


def after(live: dict[str, Any]) -> Callable[[Service], Any]:
    """Change the models; give the address of the one that answers then, and why the change was refused."""

    async def act(service: Service) -> tuple[str, str | None]:
        await service.models.change(live)
        return service.models.current.main.address, service.models.refused

    return act


async def look(service: Service) -> tuple[str, str | None]:
    """Give the address of the model that answers, and why another one was refused."""
    return service.models.current.main.address, service.models.refused


# Change


@pytest.mark.slow
def test_a_significantly_worse_model_is_refused_with_the_numbers_and_a_remedy(
    run: Run, saved: dict[str, str], manifest: str
) -> None:
    live = {"model": saved["worse"], "compare_on": manifest}

    address, refused = run(after(live), model=saved["good"])

    assert address == saved["good"]
    assert refused == (
        f"{saved['worse']}: significantly worse than {saved['good']}, which stays: {WORSE}; for details, run "
        f"physiq-ray evaluate --model {saved['worse']} --against {saved['good']} --manifest {manifest}; to "
        "load the new model anyway, remove compare_on"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("new", "old"), [("equal", "good"), ("good", "worse")], ids=["equal", "better"])
def test_a_model_that_is_not_worse_answers(
    run: Run, saved: dict[str, str], manifest: str, new: str, old: str
) -> None:
    live = {"model": saved[new], "compare_on": manifest}

    assert run(after(live), model=saved[old]) == (saved[new], None)


def test_without_compare_on_a_worse_model_answers(run: Run, saved: dict[str, str]) -> None:
    assert run(after({"model": saved["worse"]}), model=saved["good"]) == (saved["worse"], None)


@pytest.mark.slow
@pytest.mark.parametrize(("min_confidence", "is_refused"), [(None, True), (0.5, False)])
def test_photos_of_no_known_pose_are_refused_by_the_floor_that_the_service_uses(
    run: Run,
    saved: dict[str, str],
    make_manifest: Callable[[Rows], str],
    min_confidence: float | None,
    is_refused: bool,
) -> None:
    live = {
        **{"model": saved["good"], "compare_on": make_manifest(TRAINED + VALIDATED + NULLS)},
        "min_confidence": min_confidence,
    }

    address, refused = run(after(live), model=saved["refusing"], min_confidence=min_confidence)

    assert address == saved["refusing" if is_refused else "good"]
    assert ("no known pose: 100.0% → 0.0% of 12 photos" in (refused or "")) == is_refused


def test_a_change_of_another_setting_compares_nothing(run: Run, saved: dict[str, str]) -> None:
    live = {"min_confidence": 0.9, "compare_on": "nowhere"}

    assert run(after(live), model=saved["good"]) == (saved["good"], None)


@pytest.mark.slow
def test_a_worse_canary_is_refused(run: Run, saved: dict[str, str], manifest: str) -> None:
    live = {"canary_model": saved["worse"], "compare_on": manifest}

    async def act(service: Service) -> Any:
        await service.models.change(live)
        return service.models.current.canary, service.models.refused

    canary, refused = run(act, model=saved["good"])

    assert canary is None
    assert WORSE in refused


@pytest.mark.parametrize("fault", ["missing", "no manifest", "no photos"])
def test_photos_that_cannot_be_used_refuse_the_model(
    run: Run, saved: dict[str, str], manifest: str, tmp_path: Path, fault: str
) -> None:
    if fault == "missing":
        manifest = str(tmp_path / "none.parquet")
    if fault == "no manifest":
        Path(manifest).write_bytes(b"no table")
    if fault == "no photos":
        for path in tmp_path.glob("*.jpeg"):
            path.unlink()
    reason = {
        "missing": "none.parquet: ",
        "no manifest": "not a manifest in Parquet",
        "no photos": "none of the 13 photos could be read",
    }[fault]

    address, refused = run(after({"model": saved["equal"], "compare_on": manifest}), model=saved["good"])

    assert address == saved["good"]
    assert refused.startswith(f"{saved['equal']}: cannot be compared with {saved['good']}, which stays: ")
    assert f"compare_on={manifest}: " in refused
    assert reason in refused
    assert refused.endswith("correct this and deploy again, or remove compare_on")


@pytest.mark.slow
def test_requests_are_answered_during_the_comparison(
    run: Run, saved: dict[str, str], manifest: str, make_photo: MakePhoto
) -> None:
    async def act(service: Service) -> Any:
        change = service.models.change({"model": saved["equal"], "compare_on": manifest})
        answers = []
        while not change.done():
            answers.append(await ask(service, make_photo()))
        return answers, await ask(service, make_photo())

    before, answer = run(act, model=saved["good"])

    versions = [load_model_state(saved[name]).version for name in ("good", "equal")]
    assert {answer["model"]["version"] for answer in before} <= set(versions)
    assert before[0]["model"]["version"] == versions[0]
    assert answer["model"]["version"] == versions[1]


# Start


@pytest.mark.slow
def test_a_replica_that_starts_with_a_worse_model_uses_the_one_of_the_deployment(
    run: Run, saved: dict[str, str], manifest: str
) -> None:
    live = {"model": saved["worse"], "compare_on": manifest}

    address, refused = run(look, live, model=saved["good"])

    assert address == saved["good"]
    assert WORSE in refused


@pytest.mark.slow
def test_a_replica_follows_the_verdict_of_another_one_and_compares_nothing(
    run: Run, saved: dict[str, str]
) -> None:
    version = load_model_state(saved["worse"]).version
    live = {"model": saved["worse"], "compare_on": "nowhere"}

    accepted = run(look, live, model=saved["good"], versions=AnyVersion({version: ""}))
    refused = run(look, live, model=saved["good"], versions=AnyVersion({version: "it is worse"}))
    changed = run(after(live), model=saved["good"], versions=AnyVersion({version: "it is worse"}))

    assert accepted == (saved["worse"], None)
    assert refused == changed == (saved["good"], "it is worse")


def test_a_refused_file_that_replaced_the_one_of_the_deployment_does_not_start(
    run: Run, saved: dict[str, str]
) -> None:
    verdicts = {load_model_state(saved["worse"]).version: "it is worse"}

    with pytest.raises(ServingError, match=r"^it is worse$"):
        run(model=saved["worse"], compare_on="nowhere", versions=AnyVersion(verdicts))


def test_without_the_model_of_the_deployment_a_replica_starts_uncompared(
    run: Run, saved: dict[str, str], tmp_path: Path
) -> None:
    live = {"model": saved["worse"], "compare_on": "nowhere"}

    assert run(look, live, model=str(tmp_path / "deleted")) == (saved["worse"], None)


def test_a_replica_without_changes_compares_nothing(run: Run, saved: dict[str, str]) -> None:
    assert run(look, model=saved["good"], compare_on="nowhere") == (saved["good"], None)


# The photos


def compared(new: str, old: str, manifest: str) -> Comparison:
    settings = ServingSettings(runtime="torch")

    async def compare() -> Comparison:
        engine, reading = Engine(max_batch_size=4, threads=1), ThreadPoolExecutor()
        try:
            new_model, old_model = (load_served(address, settings) for address in (new, old))
            return await gate.compare_models(
                (new_model.state, new_model.network),
                (old_model.state, old_model.network),
                manifest,
                engine=engine,
                reading=reading,
                decode=lambda data, size_px: decode(data, size_px, settings),
            )
        finally:
            engine.close()
            reading.shutdown()

    return asyncio.run(compare())


@pytest.mark.slow
def test_test_photos_count_if_there_are_any_and_never_training_photos(
    saved: dict[str, str], make_manifest: Callable[[Rows], str]
) -> None:
    rows = TRAINED + VALIDATED + [(1, "test"), (2, "test"), (2, "test"), (None, "test")]

    comparison = compared(saved["worse"], saved["good"], make_manifest(rows))

    assert (comparison.overall.num_photos, comparison.poses[-1].num_photos) == (3, 1)
    assert (comparison.overall.old, comparison.overall.new) == (1 / 3, 2 / 3)


@pytest.mark.slow
def test_at_most_a_fixed_number_of_photos_is_compared(
    saved: dict[str, str], manifest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MOST_PHOTOS", 5)

    assert compared(saved["worse"], saved["good"], manifest).overall.num_photos == 5


@pytest.mark.slow
def test_a_photo_that_cannot_be_read_does_not_count(
    saved: dict[str, str], manifest: str, tmp_path: Path
) -> None:
    (tmp_path / "4.jpeg").write_bytes(b"no photo")
    (tmp_path / "5.jpeg").unlink()

    assert compared(saved["worse"], saved["good"], manifest).overall.num_photos == 11


@pytest.mark.slow
def test_photos_of_poses_that_neither_model_knows_cannot_compare_them(
    saved: dict[str, str], make_manifest: Callable[[Rows], str]
) -> None:
    manifest = make_manifest([(1, "train"), (2, "train"), (3, "train"), (3, "validation")])

    with pytest.raises(DataError, match="no photo of a pose the model knows"):
        compared(saved["equal"], saved["good"], manifest)
