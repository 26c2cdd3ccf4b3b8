"""Services that several tests use, a function that starts one for one test, and replicas without HTTP."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from replica import WAIT_S, Act, AnyVersion, Clock, Reported, Run, load_again
from running import (
    ALLOWED_BUCKET,
    IMAGE_SIZE,
    PAGE_TOKEN,
    POSES,
    REQUEST_TIMEOUT_S,
    REQUESTS_PER_MINUTE,
    TOKENS,
    ClosedService,
    MakeModel,
    RunningService,
    StartService,
    running_service,
)

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.config import ServingSettings
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model
from physiq_ray.sample import LocalS3
from physiq_ray.serving import models
from physiq_ray.serving.service import Service


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Give a function that writes a model with random weights and returns its folder."""

    def make(seed: int = 0, *, temperature: float = 1.3, image_size: int = IMAGE_SIZE) -> str:
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp("model")
        state = ModelState(
            state_dict=build_model(len(POSES)).state_dict(),
            class_mapping=ClassMapping.of_poses(POSES),
            pose_names=POSES,
            image_size=image_size,
            temperature=temperature,
        )
        save_model_files(state, str(folder))
        return str(folder)

    return make


@pytest.fixture(scope="session")
def model_folder(make_model: MakeModel) -> str:
    """Give the folder of the model that most services use."""
    return make_model()


@pytest.fixture
def start_service(s3: LocalS3, tmp_path: Path, model_folder: str) -> Iterator[StartService]:
    """Give a function that starts a service for one test only."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str, model: str = model_folder, **environment: str) -> RunningService:
            service = running_service(tmp_path, model, *flags, environment=environment)
            return stack.enter_context(service)

        yield start


@pytest.fixture(scope="session")
def feedback_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder in which `service` keeps each photo that it predicts."""
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(scope="session")
def service(
    s3: LocalS3, tmp_path_factory: pytest.TempPathFactory, model_folder: str, feedback_folder: Path
) -> Iterator[RunningService]:
    """Give the service to which most tests send their requests."""
    with running_service(
        tmp_path_factory.mktemp("service"),
        model_folder,
        *("--max-body-bytes", str(4 * 2**20), "--max-photos", "4", "--max-pixels", "40000000"),
        *("--allowed-sources", f"s3://{ALLOWED_BUCKET}/open", "--request-timeout-s", str(REQUEST_TIMEOUT_S)),
        *("--feedback", str(feedback_folder), "--feedback-below", "1", "--feedback-per-minute", "10000"),
        *("--feedback-per-hour", "10000", "--feedback-per-day", "10000", "--feedback-per-pose", "10000"),
        environment={},
    ) as running:
        yield running


@pytest.fixture(scope="session")
def closed_service(
    s3: LocalS3, tmp_path_factory: pytest.TempPathFactory, model_folder: str
) -> Iterator[ClosedService]:
    """Give the service that requires a token."""
    folder = tmp_path_factory.mktemp("closed")
    tokens = folder / "tokens.txt"
    tokens.write_text("\n".join(["# of the gym", *TOKENS, PAGE_TOKEN, ""]))
    with running_service(
        folder,
        model_folder,
        *("--tokens", str(tokens), "--requests-per-minute", str(REQUESTS_PER_MINUTE)),
        *("--min-confidence", "1"),
        environment={},
    ) as running:
        yield ClosedService(running, tokens)


@pytest.fixture(scope="session")
def other_folder(make_model: MakeModel) -> str:
    """Give the folder of another model."""
    return make_model(1, temperature=2.0, image_size=96)


@pytest.fixture
def reported() -> Reported:
    """Give an object that records the metrics of a replica."""
    return Reported()


@pytest.fixture
def run(reported: Reported, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Give a function that starts a service, passes it to `act`, and closes it.

    live: Serve's user_config; the other settings are those with which the deployment is built.
    """
    before = torch.get_num_threads()
    monkeypatch.setattr(models, "load_served", load_again)

    def run(
        act: Act | None = None,
        live: dict[str, Any] | None = None,
        *,
        versions: AnyVersion | None = None,
        **settings: Any,
    ) -> Any:
        built_with = {
            "model": model_folder,
            "min_confidence": 0.0,
            "max_batch_size": 4,
            "cpus_per_replica": 1,
        }

        async def all_of_it() -> Any:
            service = Service(
                ServingSettings(**(built_with | settings)),
                reported,  # type: ignore[arg-type]
                versions or AnyVersion(),  # type: ignore[arg-type]
            )
            try:
                await asyncio.wait_for(service.models.start(live or {}), WAIT_S)
                return await asyncio.wait_for(act(service), WAIT_S) if act else None
            finally:
                service.close()

        return asyncio.run(all_of_it())

    yield run
    torch.set_num_threads(before)
