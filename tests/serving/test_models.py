"""The models with which a replica answers: start, change and canary."""

import asyncio
import functools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from replica import Act, AnyVersion, MakePhoto, Reported, Run, answer_to, ask

from physiq_ray.checkpoint import load_model_state
from physiq_ray.config import ServingSettings
from physiq_ray.errors import NotFoundError, ServingError
from physiq_ray.prediction.network import Network
from physiq_ray.serving.models import load_served
from physiq_ray.serving.service import Service


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory, model_folder: str) -> str:
    [whole] = (
        Path(model_folder).glob("*.pth")
        if len([*Path(model_folder).glob("*.pth")]) == 1
        else [max(Path(model_folder).glob("*.pth"), key=lambda path: path.stat().st_size)]
    )
    path = tmp_path_factory.mktemp("damaged") / "damaged.pth"
    path.write_bytes(whole.read_bytes()[:1_000_000])
    return str(path)


def changed_to(live: dict[str, Any], photo: bytes | None = None) -> Act:
    """Answer a photo, change the models, answer it again; give the state before and after."""

    async def act(service: Service) -> Any:
        if photo is not None:
            await ask(service, photo)
        before = service.models.current, dict(service.models.num_answers)
        await service.models.change(live)
        after = service.models.current, dict(service.models.num_answers)
        answer = await ask(service, photo) if photo is not None else None
        return before, after, answer, service.models.refused

    return act


# Loading


@pytest.mark.slow
@pytest.mark.parametrize("gpus_per_replica", [0, 0.5])
def test_a_replica_computes_on_a_gpu_only_if_it_reserved_one(
    monkeypatch: pytest.MonkeyPatch, model_folder: str, gpus_per_replica: float
) -> None:
    # In the first case a GPU is visible but not reserved, in the second it is reserved but not visible.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus_per_replica == 0)
    settings = ServingSettings(runtime="torch", gpus_per_replica=gpus_per_replica)
    network = load_served(model_folder, settings).network
    assert isinstance(network, Network)
    assert network.device.type == "cpu"
    assert torch.isfinite(network.outputs(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))).all()


# Start


@pytest.mark.slow
def test_the_settings_of_user_config_override_those_of_the_deployment(
    make_photo: MakePhoto, run: Run, other_folder: str
) -> None:
    [answer] = run(answer_to(make_photo()), {"model": other_folder, "min_confidence": 0.25})

    assert answer["model"]["temperature"] == 2.0
    assert answer["min_confidence"] == 0.25


@pytest.mark.parametrize("built_with", [{}, {"canary_model": "nowhere"}], ids=["model", "canary"])
def test_a_replica_without_any_model_does_not_start(
    run: Run, tmp_path: Path, built_with: dict[str, Any]
) -> None:
    model = {"model": str(tmp_path / "none")} if not built_with else {}

    with pytest.raises(NotFoundError, match="train one first, or give the path of"):
        run(**(built_with | model))


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        ({"model": "nowhere"}, "nowhere"),
        ({"modle": "output"}, "user_config: modle='output': Extra inputs are not permitted"),
        ({"min_confidence": 2}, "user_config: min_confidence=2: "),
        ({"canary_model": "nowhere"}, "nowhere"),
    ],
    ids=["missing", "misspelt", "out of range", "canary"],
)
def test_a_replica_that_starts_with_an_invalid_user_config_uses_the_model_of_the_deployment(
    make_photo: MakePhoto, run: Run, model_folder: str, live: dict[str, Any], reason: str
) -> None:
    photo = make_photo()

    async def act(service: Service) -> Any:
        return service.models.current.main.address, service.models.refused, await ask(service, photo)

    address, refused, answer = run(act, live)

    assert address == model_folder
    assert reason in refused
    assert answer["model"]["temperature"] == 1.3


def test_before_the_first_model_is_loaded_current_raises(reported: Reported) -> None:
    service = Service(ServingSettings(), reported, AnyVersion())  # type: ignore[arg-type]
    try:
        with pytest.raises(ServingError, match=r"^no model is loaded yet$"):
            _ = service.models.current
    finally:
        service.close()


# Change


@pytest.mark.slow
def test_a_change_answers_with_the_other_version_and_counts_from_zero(
    make_photo: MakePhoto, run: Run, model_folder: str, other_folder: str
) -> None:
    before, after, answer, refused = run(changed_to({"model": other_folder}, make_photo()))

    assert before[0].main.state.version == load_model_state(model_folder).version
    assert before[1] == {"main": 1, "canary": 0}
    assert after[0].main.state.version == load_model_state(other_folder).version
    assert after[1] == {"main": 0, "canary": 0}
    assert answer["model"] == {"version": after[0].main.state.version, "temperature": 2.0}
    assert refused is None


def test_a_change_of_another_setting_keeps_the_loaded_model_and_its_count(
    make_photo: MakePhoto, run: Run
) -> None:
    before, after, answer, _ = run(changed_to({"min_confidence": 0.9}, make_photo()))

    assert after[0].main is before[0].main
    assert answer["pose"] is None
    assert after[1] == {"main": 1, "canary": 0}  # GET /v1/model: since it was loaded into this replica


@pytest.mark.parametrize("fault", ["missing", "damaged", "misspelt", "true", "text"])
def test_a_failed_change_keeps_the_model_and_gives_the_reason(
    make_photo: MakePhoto, run: Run, damaged: str, tmp_path: Path, fault: str
) -> None:
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "missing": ({"model": str(tmp_path / "none.pth")}, str(tmp_path / "none.pth")),
        "damaged": ({"model": damaged}, damaged),
        "misspelt": ({"modle": "x"}, "user_config: modle='x': Extra inputs are not permitted"),
        "true": ({"min_confidence": True}, "user_config: min_confidence=True: "),
        "text": ({"canary_share": "half"}, "user_config: canary_share='half': "),
    }
    live, reason = cases[fault]

    before, after, answer, refused = run(changed_to(live, make_photo()))

    assert after == before
    assert answer["model"]["version"] == before[0].main.state.version
    assert reason in refused


def test_a_model_whose_output_is_not_a_number_is_refused(
    make_photo: MakePhoto, run: Run, other_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Loading refuses weights that are not finite; those too large for bfloat16 are found only here.
    outputs = Network.outputs
    photo = make_photo()

    async def act(service: Service) -> Any:
        monkeypatch.setattr(Network, "outputs", lambda self, images: outputs(self, images) * float("nan"))
        await service.models.change({"model": other_folder})
        monkeypatch.setattr(Network, "outputs", outputs)
        return service.models.refused, await ask(service, photo)

    refused, answer = run(act)

    assert refused == f"{other_folder}: the network's output for a black photo is not a number"
    assert answer["model"]["temperature"] == 1.3


def test_a_successful_change_removes_the_reason_of_a_refused_one(
    make_photo: MakePhoto, run: Run, other_folder: str
) -> None:
    async def act(service: Service) -> Any:
        await asyncio.gather(
            *(service.models.change({"model": model}) for model in ("nowhere", other_folder))
        )
        return service.models.refused, service.models.current.main.address

    assert run(act) == (None, other_folder)


@pytest.mark.slow
def test_concurrent_changes_are_made_in_the_order_of_the_calls(
    run: Run, model_folder: str, other_folder: str
) -> None:
    async def act(service: Service) -> str:
        addresses = (other_folder, model_folder, other_folder, model_folder)
        await asyncio.gather(*(service.models.change({"model": address}) for address in addresses))
        return service.models.current.main.address

    assert run(act) == model_folder


def test_requests_are_answered_while_a_model_is_changed(
    make_photo: MakePhoto, run: Run, other_folder: str
) -> None:
    photo = make_photo()

    async def act(service: Service) -> list[float]:
        change = service.models.change({"model": other_folder})
        seen = []
        while not change.done():
            seen.append((await ask(service, photo))["model"]["temperature"])
        seen.append((await ask(service, photo))["model"]["temperature"])
        return seen

    seen = run(act)

    assert seen[0] == 1.3
    assert seen[-1] == 2.0
    assert seen == sorted(seen)


# Canary


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "least", "most"), [(0.0, 0, 0), (1.0, 60, 60), (0.5, 18, 42)], ids=["none", "all", "half"]
)
def test_the_canary_answers_its_share_of_the_requests_and_is_counted_separately(
    make_photo: MakePhoto,
    run: Run,
    reported: Reported,
    other_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    least: int,
    most: int,
) -> None:
    monkeypatch.setattr(random, "Random", functools.partial(random.Random, 7))
    photo = make_photo(size=(16, 16))

    async def act(service: Service) -> Any:
        answers = await asyncio.gather(*(ask(service, photo) for _ in range(60)))
        return answers, dict(service.models.num_answers), service.models.current

    answers, num_answers, models = run(act, {"canary_model": other_folder, "canary_share": share})

    num_canary = sum(answer["model"]["temperature"] == 2.0 for answer in answers)
    assert least <= num_canary <= most
    assert num_answers == {"main": 60 - num_canary, "canary": num_canary}
    versions = {"main": models.main.state.version, "canary": models.canary.state.version}
    assert {(role, version) for _, version, role in reported.predictions} == {
        (role, versions[role]) for role, number in num_answers.items() if number
    }


def test_a_canary_becomes_the_main_model_without_being_loaded_again(run: Run, other_folder: str) -> None:
    async def act(service: Service) -> Any:
        before = service.models.current
        await service.models.change({"model": other_folder})
        return before, service.models.current

    before, after = run(act, {"canary_model": other_folder})

    assert after.main is before.canary
    assert after.canary is None
