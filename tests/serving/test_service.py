"""A replica's work without Serve and without HTTP: models, changes, counts, feedback."""

import asyncio
import dataclasses
import functools
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
import torch
from PIL import Image
from running import AnyVersion, MakeModel

from physiq_ray.checkpoint import load_model_state
from physiq_ray.config import ServingSettings
from physiq_ray.errors import (
    FormatError,
    NotFoundError,
    PhotoError,
    PhysiqError,
    PredictionError,
    ServingError,
    TooLargeError,
)
from physiq_ray.prediction.network import Network
from physiq_ray.prediction.single import Predictor
from physiq_ray.serving import app, feedback
from physiq_ray.serving import models as models_module
from physiq_ray.serving.engine import Computed
from physiq_ray.serving.feedback import MAX_WAITING, Feedback
from physiq_ray.serving.models import Served
from physiq_ray.serving.service import Service

MakePhoto = Callable[..., bytes]
Act = Callable[[Service], Awaitable[Any]]
WAIT_S = 30
POSE_NAMES = {1: "Front Lat Spread", 5: "Back Double Biceps", 11: "Abs & Thighs"}


class Told:
    """What a service tells Prometheus."""

    def __init__(self) -> None:
        self.predictions: list[tuple[int | None, str, str]] = []
        self.stages: Counter[str] = Counter()
        self.batch_sizes: list[int] = []
        self.feedback: Counter[str] = Counter()

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


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(scope="session")
def other_folder(make_model: MakeModel) -> str:
    return make_model(1, temperature=2.0, image_size=96)


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


Run = Callable[..., Any]


@functools.cache
def loaded(address: str) -> Served:
    return LOAD(address, ServingSettings(runtime="torch"))


LOAD = models_module._load


@pytest.fixture(autouse=True)
def load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load each model from its file once a run: that takes a second, and is the same each time."""

    def load(address: str, _settings: ServingSettings) -> Served:
        return dataclasses.replace(loaded(address))  # another object, as where it is loaded again

    monkeypatch.setattr(models_module, "_load", load)


@pytest.fixture
def run(told: Told, model_folder: str) -> Iterator[Run]:
    """Give a function that starts a service, lets act use it, and closes it.

    live: what Serve's user_config says; the other settings are those that the deployment is built with.
    """
    before = torch.get_num_threads()

    def run(act: Act | None = None, live: dict[str, Any] | None = None, **settings: Any) -> Any:
        built_with = {
            "model": model_folder,
            "min_confidence": 0.0,
            "max_batch_size": 4,
            "cpus_per_replica": 1,
        }

        async def all_of_it() -> Any:
            service = Service(ServingSettings(**(built_with | settings)), told, AnyVersion())  # type: ignore[arg-type]
            try:
                await asyncio.wait_for(service.models.start(live or {}), WAIT_S)
                return await asyncio.wait_for(act(service), WAIT_S) if act else None
            finally:
                service.close()

        return asyncio.run(all_of_it())

    yield run
    torch.set_num_threads(before)


async def ask(service: Service, photo: bytes) -> dict[str, Any]:
    """Give the answer for one photo as it is sent."""
    return (await service.answer(photo, name="a")).model_dump()


def answer_to(*photos: bytes) -> Act:
    async def act(service: Service) -> list[dict[str, Any]]:
        return [await ask(service, photo) for photo in photos]

    return act


def changed_to(live: dict[str, Any], photo: bytes | None = None) -> Act:
    """Answer once, change, answer once more; give the service's state after each."""

    async def act(service: Service) -> Any:
        if photo is not None:
            await ask(service, photo)
        before = service.models.current, dict(service.models.num_answers)
        await service.models.change(live)
        after = service.models.current, dict(service.models.num_answers)
        answer = await ask(service, photo) if photo is not None else None
        return before, after, answer, service.models.refused

    return act


# Answers


@pytest.mark.parametrize(
    "options",
    [{}, {"format": "PNG", "mode": "RGBA"}, {"orientation": 6, "size": (200, 120)}],
    ids=["jpeg", "transparent png", "turned"],
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


def test_a_photo_has_the_same_answer_in_a_batch_as_alone(make_photo: MakePhoto, run: Run, told: Told) -> None:
    photos = [make_photo(seed) for seed in range(12)]

    async def act(service: Service) -> Any:
        alone = [await ask(service, photo) for photo in photos]
        together = await asyncio.gather(*(ask(service, photo) for photo in photos))
        return alone, together

    alone, together = run(act)

    assert max(told.batch_sizes) > 1
    for one, other in zip(alone, together, strict=True):
        shares = {item["id"]: item["probability"] for item in other["probabilities"]}
        assert {item["id"]: item["probability"] for item in one["probabilities"]} == pytest.approx(
            shares, abs=1e-2
        )


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


@pytest.mark.parametrize("gpus_per_replica", [0, 0.5])
def test_a_replica_computes_on_a_gpu_only_if_it_reserved_one(
    monkeypatch: pytest.MonkeyPatch, model_folder: str, gpus_per_replica: float
) -> None:
    # One that can be seen though it is not reserved, and one that is reserved though it cannot be seen.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus_per_replica == 0)
    settings = ServingSettings(runtime="torch", gpus_per_replica=gpus_per_replica)
    network = LOAD(model_folder, settings).network
    assert isinstance(network, Network)
    assert network.device.type == "cpu"
    assert torch.isfinite(network.logits(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))).all()


def test_below_min_confidence_there_is_no_pose_but_all_probabilities(
    make_photo: MakePhoto, run: Run, told: Told
) -> None:
    [answer] = run(answer_to(make_photo()), min_confidence=0.99)

    assert answer["pose"] is None
    assert answer["min_confidence"] == 0.99
    assert 0.33 < answer["confidence"] < 0.99
    assert len(answer["probabilities"]) == 3
    assert told.predictions == [(None, answer["model"]["version"], "main")]


def test_each_answer_is_told_to_prometheus(make_photo: MakePhoto, run: Run, told: Told) -> None:
    first, second = run(answer_to(make_photo(1), make_photo(2)))

    version = first["model"]["version"]
    assert told.predictions == [(answer["pose"]["id"], version, "main") for answer in (first, second)]
    assert told.stages["decode"] == 2
    assert told.batch_sizes == [1, 1]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", PhotoError),
        (b"<html>", FormatError),
        (b"\xff\xd8\xff\xe0 and no more", PhotoError),
    ],
)
def test_what_is_no_photo_is_refused_and_leaves_no_place_taken(
    run: Run, data: bytes, error: type[PhysiqError]
) -> None:
    async def act(service: Service) -> int:
        with pytest.raises(error):
            await ask(service, data)
        return service.pace.num_inside

    assert run(act) == 0


def test_a_photo_of_more_pixels_than_allowed_is_refused_by_its_header(
    make_photo: MakePhoto, run: Run
) -> None:
    photo = make_photo(size=(101, 100), format="PNG")

    async def act(service: Service) -> None:
        with pytest.raises(TooLargeError, match=r"^101 × 100 is more than 10000 pixels$"):
            await ask(service, photo)
        await service.answer(make_photo(size=(100, 100), format="PNG"), name="a")
        await service.answer(make_photo(size=(192, 192)), name="a")  # a JPEG, decoded at a half

    run(act, max_pixels=10_000)


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_heic_and_avif_are_read_only_where_a_setting_allows_them(
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


def test_heic_that_is_allowed_and_cannot_be_read_is_found_before_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "why_no_heic", lambda: "not read here; pip install 'physiq-ray[heic]'")

    with pytest.raises(ServingError, match=r"^extra_formats=heic: HEIC is not read here; pip install"):
        app.build_app(ServingSettings(extra_formats="heic"))


def test_a_client_that_goes_leaves_no_place_taken(make_photo: MakePhoto, run: Run) -> None:
    async def act(service: Service) -> tuple[int, dict[str, int]]:
        asked = [asyncio.ensure_future(ask(service, make_photo(seed))) for seed in range(8)]
        await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        inside = service.pace.num_inside
        await ask(service, make_photo())
        return inside, service.models.num_answers

    assert run(act) == (0, {"main": 1, "canary": 0})


# Starting


def test_what_serve_says_counts_more_than_what_the_deployment_was_built_with(
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
def test_a_replica_that_starts_after_a_bad_change_answers_with_what_it_was_built_with(
    make_photo: MakePhoto, run: Run, model_folder: str, live: dict[str, Any], reason: str
) -> None:
    photo = make_photo()

    async def act(service: Service) -> Any:
        return service.models.current.main.address, service.models.refused, await ask(service, photo)

    address, refused, answer = run(act, live)

    assert address == model_folder
    assert reason in refused
    assert answer["model"]["temperature"] == 1.3


def test_before_a_model_is_loaded_there_is_none(told: Told) -> None:
    service = Service(ServingSettings(), told, AnyVersion())  # type: ignore[arg-type]
    try:
        with pytest.raises(ServingError, match=r"^no model is loaded yet$"):
            _ = service.models.current
    finally:
        service.close()


# Changing


def test_a_change_takes_over_with_another_version_and_counts_from_nought(
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
def test_a_change_gone_wrong_keeps_the_model_and_says_why(
    make_photo: MakePhoto, run: Run, damaged: str, tmp_path: Path, fault: str
) -> None:
    live, reason = {
        "missing": ({"model": str(tmp_path / "none.pth")}, str(tmp_path / "none.pth")),
        "damaged": ({"model": damaged}, damaged),
        "misspelt": ({"modle": "x"}, "user_config: modle='x': Extra inputs are not permitted"),
        "true": ({"min_confidence": True}, "user_config: min_confidence=True: "),
        "text": ({"canary_share": "half"}, "user_config: canary_share='half': "),
    }[fault]

    before, after, answer, refused = run(changed_to(live, make_photo()))

    assert after == before
    assert answer["model"]["version"] == before[0].main.state.version
    assert reason in refused


def test_a_model_whose_answer_is_no_number_is_refused(
    make_photo: MakePhoto, run: Run, other_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files with weights that are not finite are refused on loading; those too large for bfloat16 only here.
    logits = Network.logits
    photo = make_photo()

    async def act(service: Service) -> Any:
        monkeypatch.setattr(Network, "logits", lambda self, images: logits(self, images) * float("nan"))
        await service.models.change({"model": other_folder})
        monkeypatch.setattr(Network, "logits", logits)
        return service.models.refused, await ask(service, photo)

    refused, answer = run(act)

    assert refused == f"{other_folder}: the network's output for a black photo is not a number"
    assert answer["model"]["temperature"] == 1.3


def test_a_good_change_after_a_refused_one_forgets_why(
    make_photo: MakePhoto, run: Run, other_folder: str
) -> None:
    async def act(service: Service) -> Any:
        await asyncio.gather(
            *(service.models.change({"model": model}) for model in ("nowhere", other_folder))
        )
        return service.models.refused, service.models.current.main.address

    assert run(act) == (None, other_folder)


def test_changes_asked_for_at_once_are_made_in_their_order(
    run: Run, model_folder: str, other_folder: str
) -> None:
    async def act(service: Service) -> str:
        addresses = (other_folder, model_folder, other_folder, model_folder)
        await asyncio.gather(*(service.models.change({"model": address}) for address in addresses))
        return service.models.current.main.address

    assert run(act) == model_folder


def test_requests_are_answered_without_a_break_while_a_model_is_changed(
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


# The second model


@pytest.mark.parametrize(
    ("share", "least", "most"), [(0.0, 0, 0), (1.0, 60, 60), (0.5, 18, 42)], ids=["none", "all", "half"]
)
def test_the_canary_answers_its_share_of_the_requests_and_is_counted_apart(
    make_photo: MakePhoto, run: Run, told: Told, other_folder: str, share: float, least: int, most: int
) -> None:
    photo = make_photo(size=(16, 16))

    async def act(service: Service) -> Any:
        service._random.seed(7)
        answers = await asyncio.gather(*(ask(service, photo) for _ in range(60)))
        return answers, dict(service.models.num_answers), service.models.current

    answers, num_answers, models = run(act, {"canary_model": other_folder, "canary_share": share})

    num_canary = sum(answer["model"]["temperature"] == 2.0 for answer in answers)
    assert least <= num_canary <= most
    assert num_answers == {"main": 60 - num_canary, "canary": num_canary}
    versions = {"main": models.main.state.version, "canary": models.canary.state.version}
    assert {(role, version) for _, version, role in told.predictions} == {
        (role, versions[role]) for role, number in num_answers.items() if number
    }


def test_a_canary_takes_over_without_being_loaded_again(run: Run, other_folder: str) -> None:
    async def act(service: Service) -> Any:
        before = service.models.current
        await service.models.change({"model": other_folder})
        return before, service.models.current

    before, after = run(act, {"canary_model": other_folder})

    assert after.main is before.canary
    assert after.canary is None


# Health


def test_a_check_asks_the_model_and_a_recent_answer_spares_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    logits = Network.logits

    async def act(service: Service) -> None:
        monkeypatch.setattr(
            Network, "logits", lambda self, images: asked.append(images.shape) or logits(self, images)
        )
        await service.check()
        await service.check()

    run(act)

    assert asked == [(1, 64, 64, 3)]


def test_a_check_fails_where_the_model_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: Network, _images: object) -> None:
        raise RuntimeError("CUDA error: the device is lost")

    async def act(service: Service) -> None:
        monkeypatch.setattr(Network, "logits", fail)
        with pytest.raises(PredictionError, match="the device is lost"):
            await service.check()
        with pytest.raises(PredictionError, match="the device is lost"):
            await service.check()  # a failure is no answer that spares the next check

    run(act)


def test_a_service_without_a_model_is_not_healthy(told: Told) -> None:
    service = Service(ServingSettings(), told, AnyVersion())  # type: ignore[arg-type]
    try:
        with pytest.raises(ServingError):
            asyncio.run(service.check())
    finally:
        service.close()


# Feedback


def with_exif(photo: bytes) -> bytes:
    """Give the photo with where, when and by which camera it was taken, and lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0110] = "Secret Camera 3000"
    exif[0x9003] = "2024:05:01 10:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    file = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(file, "JPEG", quality=95, exif=exif, comment=b"Secret comment")
    return file.getvalue()


def test_a_doubtful_photo_is_kept_upright_and_without_exif_beside_its_answer(
    make_photo: MakePhoto, run: Run, told: Told, tmp_path: Path
) -> None:
    photo = with_exif(make_photo(3, size=(120, 90)))

    [answer] = run(answer_to(photo), feedback=str(tmp_path / "kept"), feedback_below=1.0)

    [kept] = (tmp_path / "kept").glob("????-??-??/a.jpg")
    data = kept.read_bytes()
    image = Image.open(io.BytesIO(data))
    assert image.size == (90, 120)
    assert not image.getexif()
    assert not {"exif", "comment", "icc_profile", "xmp"} & set(image.info)
    assert b"Secret" not in data
    record = json.loads(kept.with_suffix(".json").read_text(encoding="utf-8"))
    assert record.pop("time").startswith(kept.parent.name)
    assert record == answer
    assert told.feedback == {"kept": 1}
    assert len(list(kept.parent.iterdir())) == 2


def test_a_photo_that_the_model_is_sure_of_is_not_kept(
    make_photo: MakePhoto, run: Run, told: Told, tmp_path: Path
) -> None:
    run(answer_to(make_photo()), feedback=str(tmp_path / "kept"), feedback_below=0.1)

    assert not (tmp_path / "kept").exists()
    assert told.feedback == {}


def test_nothing_is_kept_where_nobody_asked_for_it(
    make_photo: MakePhoto, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    run(answer_to(make_photo()), feedback_below=1.0)

    assert list(tmp_path.iterdir()) == []


def test_photos_that_come_faster_than_they_are_written_are_dropped_and_nobody_waits(
    make_photo: MakePhoto, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    write = feedback.write_bytes
    monkeypatch.setattr(feedback, "write_bytes", lambda *args: may_go_on.wait(WAIT_S) and write(*args))
    kept = Feedback(str(tmp_path), told.count_feedback)
    photo = make_photo()

    kept.offer(photo, "first", {})
    while not kept._waiting.empty():  # it is at work, and stuck there
        time.sleep(0.001)
    started_s = time.monotonic()
    for number in range(100):
        kept.offer(photo, f"photo-{number}", {})
    took_s = time.monotonic() - started_s
    dropped = told.feedback["dropped"]
    may_go_on.set()
    kept.close()

    assert took_s < 0.5
    assert dropped == 100 - MAX_WAITING
    assert told.feedback == {"dropped": 100 - MAX_WAITING, "kept": 1 + MAX_WAITING}
    assert len(list(tmp_path.glob("*/*.jpg"))) == len(list(tmp_path.glob("*/*.json"))) == 1 + MAX_WAITING


def test_a_folder_that_cannot_be_written_to_costs_no_answer(
    make_photo: MakePhoto, run: Run, told: Told, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("a file in its place")

    answers = run(
        answer_to(make_photo(1), make_photo(2)), feedback=str(tmp_path / "kept"), feedback_below=1.0
    )

    assert [answer["confidence"] > 0 for answer in answers] == [True, True]
    assert told.feedback == {"failed": 2}


@pytest.mark.parametrize(
    "fault", [MemoryError(), ValueError("cannot write"), RuntimeError("storage")], ids=repr
)
def test_no_fault_of_one_photo_ends_the_keeping_of_others(
    make_photo: MakePhoto, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    decode = feedback.decode_image
    faults = [fault]

    def decode_or_fail(*args: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return decode(*args, **options)

    monkeypatch.setattr(feedback, "decode_image", decode_or_fail)
    kept = Feedback(str(tmp_path), told.count_feedback)

    kept.offer(make_photo(1), "first", {})
    kept.offer(make_photo(2), "second", {})
    kept.close()

    assert [path.name for path in tmp_path.glob("*/*.jpg")] == ["second.jpg"]
    assert told.feedback == {"failed": 1, "kept": 1}


def test_a_photo_too_long_for_a_jpeg_costs_no_answer_and_no_keeping_of_others(
    make_photo: MakePhoto, run: Run, told: Told, tmp_path: Path
) -> None:
    file = io.BytesIO()
    Image.new("L", (70_000, 2)).save(file, "PNG")

    answers = run(
        answer_to(file.getvalue(), make_photo()), feedback=str(tmp_path / "kept"), feedback_below=1.0
    )

    assert len(answers) == 2
    assert told.feedback == {"failed": 1, "kept": 1}
