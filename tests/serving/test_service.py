"""The work of a replica without Serve and without HTTP: answers, counts, health."""

import asyncio
import io
from typing import Any

import pillow_heif
import pytest
import torch
from PIL import Image
from replica import AnyVersion, MakePhoto, Reported, Run, answer_to, ask
from running import MakeModel

from physiq_ray.checkpoint import load_model_state
from physiq_ray.config import ServingSettings
from physiq_ray.errors import (
    FormatError,
    PhotoError,
    PhysiqError,
    PredictionError,
    ServingError,
    TooLargeError,
)
from physiq_ray.prediction.network import Network
from physiq_ray.prediction.single import Predictor
from physiq_ray.serving.service import Service

POSE_NAMES = {1: "Front Lat Spread", 5: "Back Double Biceps", 11: "Abs & Thighs"}


# Answers


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"format": "PNG", "mode": "RGBA"}, {"orientation": 6, "size": (200, 120)}],
    ids=["jpeg", "transparent png", "exif orientation"],
)
def test_an_answer_has_the_probabilities_of_a_single_prediction(
    make_photo: MakePhoto, model_folder: str, run: Run, options: dict[str, Any]
) -> None:
    photo = make_photo(3, **options)
    expected = Predictor(load_model_state(model_folder)).predict(photo, uri="a.jpg")

    [answer] = run(answer_to(photo))

    by_id = {item["id"]: item["probability"] for item in answer["probabilities"]}
    assert by_id == pytest.approx(
        {item.pose_id: item.probability for item in expected.probabilities}, abs=1e-3
    )
    assert {item["id"]: item["name"] for item in answer["probabilities"]} == POSE_NAMES
    assert sum(by_id.values()) == pytest.approx(1)
    assert list(by_id.values()) == sorted(by_id.values(), reverse=True)
    assert answer["confidence"] == answer["probabilities"][0]["probability"]
    assert answer["pose"] == {key: answer["probabilities"][0][key] for key in ("id", "name")}
    assert answer["model"] == {"version": expected.model_version, "temperature": 1.3}


@pytest.mark.slow
def test_a_photo_has_the_same_answer_in_a_batch_as_alone(
    make_photo: MakePhoto, run: Run, reported: Reported
) -> None:
    photos = [make_photo(seed) for seed in range(12)]

    async def act(service: Service) -> Any:
        alone = [await ask(service, photo) for photo in photos]
        together = await asyncio.gather(*(ask(service, photo) for photo in photos))
        return alone, together

    alone, together = run(act)

    assert max(reported.batch_sizes) > 1
    for one, other in zip(alone, together, strict=True):
        shares = {item["id"]: item["probability"] for item in other["probabilities"]}
        assert {item["id"]: item["probability"] for item in one["probabilities"]} == pytest.approx(
            shares, abs=1e-2
        )


@pytest.mark.slow
def test_a_higher_temperature_gives_less_confidence_by_its_formula(
    make_photo: MakePhoto, make_model: MakeModel, run: Run
) -> None:
    photo = make_photo(3)

    [sharp] = run(answer_to(photo), model=make_model(temperature=0.01))
    [flat] = run(answer_to(photo), model=make_model(temperature=0.02))

    # softmax(z / 2T) is the root of softmax(z / T), scaled to 1
    roots = {item["id"]: item["probability"] ** 0.5 for item in sharp["probabilities"]}
    assert {item["id"]: item["probability"] for item in flat["probabilities"]} == pytest.approx(
        {pose: root / sum(roots.values()) for pose, root in roots.items()}, abs=1e-3
    )
    assert flat["model"]["temperature"] == 0.02
    assert flat["confidence"] < sharp["confidence"]


def test_below_min_confidence_there_is_no_pose_but_all_probabilities(
    make_photo: MakePhoto, run: Run, reported: Reported
) -> None:
    [answer] = run(answer_to(make_photo()), min_confidence=0.99)

    assert answer["pose"] is None
    assert answer["min_confidence"] == 0.99
    assert 0.33 < answer["confidence"] < 0.99
    assert len(answer["probabilities"]) == 3
    assert reported.predictions == [(None, answer["model"]["version"], "main")]


def test_each_answer_is_reported_to_prometheus(make_photo: MakePhoto, run: Run, reported: Reported) -> None:
    first, second = run(answer_to(make_photo(1), make_photo(2)))

    version = first["model"]["version"]
    assert reported.predictions == [(answer["pose"]["id"], version, "main") for answer in (first, second)]
    assert reported.stages["decode"] == 2
    assert reported.batch_sizes == [1, 1]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", PhotoError),
        (b"<html>", FormatError),
        (b"\xff\xd8\xff\xe0 and no more", PhotoError),
    ],
)
def test_data_that_is_not_a_photo_is_refused_and_leaves_the_queue(
    run: Run, data: bytes, error: type[PhysiqError]
) -> None:
    async def act(service: Service) -> int:
        with pytest.raises(error):
            await ask(service, data)
        return service.pace.num_inside

    assert run(act) == 0


def test_a_photo_with_too_many_pixels_is_refused_before_it_is_decoded(
    make_photo: MakePhoto, run: Run
) -> None:
    photo = make_photo(size=(101, 100), format="PNG")

    async def act(service: Service) -> None:
        with pytest.raises(TooLargeError, match=r"^101 × 100 is more than 10000 pixels$"):
            await ask(service, photo)
        await service.answer(make_photo(size=(100, 100), format="PNG"))
        await service.answer(make_photo(size=(192, 192)))  # a JPEG that is decoded at half its size

    run(act, max_pixels=10_000)


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_heic_and_avif_are_read_only_if_a_setting_allows_them(
    make_photo: MakePhoto, run: Run, format: str
) -> None:
    file = io.BytesIO()
    image = Image.open(io.BytesIO(make_photo(3, format="PNG")))
    if format == "HEIF":
        pillow_heif.from_pillow(image).save(file)
    else:
        image.save(file, format)

    async def act(service: Service) -> dict[str, Any]:
        return await ask(service, file.getvalue())

    with pytest.raises(FormatError, match=r"\(JPEG, PNG, WEBP, GIF, BMP, TIFF\): it is (AVIF|HEIC)$"):
        run(act)
    assert run(act, extra_formats="avif,heic")["confidence"] > 0


def test_cancelled_requests_leave_the_queue(make_photo: MakePhoto, run: Run) -> None:
    async def act(service: Service) -> tuple[int, dict[str, int]]:
        requests = [asyncio.ensure_future(ask(service, make_photo(seed))) for seed in range(8)]
        await asyncio.sleep(0)
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        inside = service.pace.num_inside
        await ask(service, make_photo())
        return inside, service.models.num_answers

    assert run(act) == (0, {"main": 1, "canary": 0})


# Health


def test_a_health_check_runs_the_model_unless_it_answered_recently(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    outputs = Network.outputs

    def noted(self: Network, images: torch.Tensor) -> torch.Tensor:
        shapes.append(images.shape)
        return outputs(self, images)

    async def act(service: Service) -> None:
        monkeypatch.setattr(Network, "outputs", noted)
        await service.check()
        await service.check()

    run(act)

    assert shapes == [(1, 64, 64, 3)]


def test_a_health_check_fails_if_the_model_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: Network, _images: object) -> None:
        raise RuntimeError("CUDA error: the device is lost")

    async def act(service: Service) -> None:
        monkeypatch.setattr(Network, "outputs", fail)
        with pytest.raises(PredictionError, match="the device is lost"):
            await service.check()
        with pytest.raises(PredictionError, match="the device is lost"):
            await service.check()  # after a failure, the next check is made, too

    run(act)


def test_a_service_without_a_model_is_not_healthy(reported: Reported) -> None:
    service = Service(ServingSettings(), reported, AnyVersion())  # type: ignore[arg-type]
    try:
        with pytest.raises(ServingError):
            asyncio.run(service.check())
    finally:
        service.close()
