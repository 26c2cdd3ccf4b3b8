"""What one replica does between HTTP and the network: models, decoding, answers.

    service = Service(settings, metrics)
    await service.start(live)         # loads the model, or raises
    answer = await service.answer(data, name="…")
    service.change(live)              # another model, loaded beside the one that answers

Bytes are fetched and decoded by threads (Pillow lets go of the GIL), never by the event loop.
"""

import asyncio
import dataclasses
import functools
import logging
import random
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ValidationError

from physiq_ray.checkpoint import ModelState, load_model_state
from physiq_ray.config import LiveSettings, ServingSettings
from physiq_ray.errors import PhotoError, PhysiqError, ServingError, SettingError
from physiq_ray.images import BASE_FORMATS, UInt8Array, decode_square
from physiq_ray.labels import load_configured_poses
from physiq_ray.prediction import answer as predicted
from physiq_ray.prediction.answer import Float32Array, rank_poses
from physiq_ray.prediction.network import Forward, Network
from physiq_ray.prediction.openvino import OpenVinoNetwork, has_openvino
from physiq_ray.serving.engine import Engine
from physiq_ray.serving.feedback import Feedback
from physiq_ray.serving.metrics import Metrics
from physiq_ray.serving.pace import Pace
from physiq_ray.serving.schema import Answer
from physiq_ray.serving.versions import AnyVersion, OtherVersionError, Versions
from physiq_ray.storage import read_bytes

T = TypeVar("T")

LOGGER = logging.getLogger("ray.serve")

MAIN, CANARY = "main", "canary"
SWITCH_INTERVAL_S = 0.0005
FETCH_THREADS = 8
# A model that answered as lately as this need not be asked whether it can.
HEALTHY_S = 10.0


@dataclass(frozen=True)
class Served:
    """A model that is loaded and has answered once."""

    address: str
    state: ModelState
    network: Forward


@dataclass(frozen=True)
class Models:
    """What answers at a time; changed as a whole, so that no request sees half of a change."""

    live: LiveSettings
    main: Served
    canary: Served | None = None

    def choose(self, random_share: float) -> tuple[Served, str]:
        """Choose who answers a request; random_share: 0 … 1, below canary_share the canary."""
        if self.canary is not None and random_share < self.live.canary_share:
            return self.canary, CANARY
        return self.main, MAIN


class Service:
    """One replica's work; its methods are called from one event loop."""

    def __init__(self, settings: ServingSettings, metrics: Metrics, versions: Versions | None = None) -> None:
        """Start threads; no model yet. versions: which version of a model's file is meant, None: any."""
        # The network's many short calls wait for this lock behind HTTP's Python: 5 ms each by default.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.settings = settings
        self.pace = Pace()
        self.refused: str | None = None  # the latest change that was not made
        self.num_answers = {MAIN: 0, CANARY: 0}  # of the models that answer now
        self._metrics = metrics
        self._versions = versions or AnyVersion()
        self._models: Models | None = None
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._engine = Engine(
            max_batch_size=settings.max_batch_size,
            threads=None if settings.gpus_per_replica else settings.cpus_per_replica,
        )
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "decode")
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, "fetch")
        self._loader = ThreadPoolExecutor(1, "load")
        self._feedback = Feedback(settings.feedback, metrics.count_feedback) if settings.feedback else None
        self._random = random.Random()
        self._answered_s = -HEALTHY_S

    @property
    def models(self) -> Models:
        """What answers now.

        Raises ServingError: nothing yet.
        """
        if self._models is None:
            raise ServingError("no model is loaded yet")
        return self._models

    async def start(self, live: Mapping[str, Any]) -> None:
        """Load the first models.

        Where those of live cannot be had and the deployment was built with another, that one answers: a
        replica that starts after a change gone wrong is no worse than those that refused it.
        Raises PhysiqError: no model at all. OtherVersionError: the others answer with another version.
        """
        try:
            self._models = await self._load(self._parse(live))
        except OtherVersionError:
            raise  # rather none than one that answers differently from the others
        except PhysiqError as error:
            built_with = LiveSettings.of(self.settings)
            if self._would_be_the_same(live, built_with):
                raise
            self._refuse(error)
            self._models = await self._load(built_with)

    def change(self, live: Mapping[str, Any]) -> None:
        """Take over other settings, loading models beside those that answer; returns at once.

        A model's file is read again even where its address stays: it may have been replaced.
        Serve sends a replica no requests while it is told, so loading must not be waited for. What cannot be
        loaded is refused: `refused` says why, and the models stay.
        """
        task = asyncio.get_running_loop().create_task(self._change(live))
        self._tasks.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._tasks.discard)

    async def answer(self, data: bytes, *, name: str) -> Answer:
        """Tell the pose of one photo; name: of the photo where it is kept as feedback.

        Raises PhotoError: it cannot be decoded; PredictionError: the network's answer is no number.
        """
        models = self.models
        served, role = models.choose(self._random.random())
        self.pace.enter()
        try:
            started_s = time.monotonic()
            image = await self._in(self._decoders, _decode, data, served.state.image_size, self.settings)
            self._metrics.observe("decode", time.monotonic() - started_s)
            computed = await asyncio.wrap_future(self._engine.submit(image, served.network))
        finally:
            self.pace.leave()
        self._answered_s = time.monotonic()
        self._metrics.observe_computed(computed)
        answer = _to_answer(computed.logits, served.state, min_confidence=models.live.min_confidence)
        self.num_answers[role] += 1
        pose_id = answer.pose.id if answer.pose else None
        self._metrics.count_prediction(pose_id, answer.confidence, version=served.state.version, role=role)
        if self._feedback is not None and answer.confidence < self.settings.feedback_below:
            self._feedback.offer(data, name, answer.model_dump())
        return answer

    async def fetch(self, uri: str) -> bytes:
        """Read one photo from S3; the caller has made sure that it may be read.

        Raises StorageError; TooLargeError: more bytes than a request may have.
        """
        started_s = time.monotonic()
        try:
            return await self._in(
                self._fetchers, functools.partial(read_bytes, uri, max_bytes=self.settings.max_body_bytes)
            )
        finally:
            self._metrics.observe("fetch", time.monotonic() - started_s)

    async def check(self) -> None:
        """Make sure that the model answers, by asking it where no request did so lately.

        Raises PhysiqError: it does not.
        """
        if time.monotonic() - self._answered_s < HEALTHY_S:
            return
        served = self.models.main
        size = served.state.image_size
        await asyncio.wrap_future(self._engine.submit(np.zeros((size, size, 3), np.uint8), served.network))
        self._answered_s = time.monotonic()

    def close(self) -> None:
        """End the threads, after what they have at hand."""
        for threads in (self._loader, self._fetchers, self._decoders):
            threads.shutdown(wait=True, cancel_futures=True)
        self._engine.close()
        if self._feedback is not None:
            self._feedback.close()

    async def _change(self, live: Mapping[str, Any]) -> None:
        async with self._changing:  # in the order in which they were asked for
            try:
                models = await self._load(self._parse(live), before=self._models)
            except PhysiqError as error:
                self._refuse(error)
            except Exception as error:
                LOGGER.exception("a change of models failed")
                self._refuse(error)
            else:
                self.num_answers = self._counts_of(models)
                self._models = models
                self.refused = None
                LOGGER.info("answering by %s", models.main.address)

    def _counts_of(self, models: Models) -> dict[str, int]:
        """Give how often each of these models answered: those that stay go on counting."""
        known = {}
        if self._models is not None:
            known = {id(self._models.main): self.num_answers[MAIN]}
            if self._models.canary is not None:
                known[id(self._models.canary)] = self.num_answers[CANARY]
        return {
            MAIN: known.get(id(models.main), 0),
            CANARY: known.get(id(models.canary), 0) if models.canary else 0,
        }

    def _refuse(self, error: Exception) -> None:
        self.refused = str(error)
        LOGGER.error("refused, the model before stays: %s", error)

    def _parse(self, live: Mapping[str, Any]) -> LiveSettings:
        """Fill in what live does not say from what the deployment was built with."""
        built_with = LiveSettings.of(self.settings).model_dump()
        try:
            return LiveSettings.model_validate(built_with | dict(live))
        except ValidationError as error:
            found = "; ".join(
                f"{'.'.join(map(str, detail['loc']))}={detail['input']!r}: {detail['msg']}"
                for detail in error.errors()
            )
            raise SettingError(f"user_config: {found}") from error

    def _would_be_the_same(self, live: Mapping[str, Any], built_with: LiveSettings) -> bool:
        try:
            return self._parse(live) == built_with
        except SettingError:
            return False

    async def _load(self, live: LiveSettings, before: Models | None = None) -> Models:
        known = {}
        if before is not None:
            known = {served.address: served for served in (before.main, before.canary) if served}
        main = await self._load_one(live.model, known.get(live.model))
        canary = None
        if live.canary_model is not None:
            canary = await self._load_one(live.canary_model, known.get(live.canary_model))
        return Models(live, main, canary)

    async def _load_one(self, address: str, before: Served | None) -> Served:
        served = await self._in(self._loader, _load, address, self.settings)
        await self._in(self._loader, self._versions.fix, address, served.state.version)
        if before is not None and before.state.version == served.state.version:
            return before  # which is warm, and whose answers are counted
        # In the thread that will use it, which is also where the first passes lay out the weights.
        await asyncio.wrap_future(
            self._engine.call(functools.partial(_warm_up, served, self.settings.max_batch_size))
        )
        return served

    async def _in(self, threads: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, function, *args)


def _load(address: str, settings: ServingSettings) -> Served:
    # One thread, and so no OpenMP team: a second one would slow the engine's down for good.
    torch.set_num_threads(1)
    state = load_model_state(address, pose_names=load_configured_poses(settings))
    network = _build_network(state, settings)
    needed = dataclasses.replace(state, state_dict={}, optimizer_state_dict={}, history=(), settings={})
    return Served(address, needed, network)


def _build_network(state: ModelState, settings: ServingSettings) -> Forward:
    on_cpu = not settings.gpus_per_replica
    if settings.runtime == "openvino" or (settings.runtime == "auto" and on_cpu and has_openvino()):
        return OpenVinoNetwork(state, precision=settings.precision, threads=settings.cpus_per_replica)
    # A GPU that this replica did not reserve belongs to others, even where the process can see it.
    return Network(state, precision=settings.precision, use_gpu=not on_cpu)


def _warm_up(served: Served, max_batch_size: int) -> None:
    size = served.state.image_size
    for batch_size in served.network.sizes(max_batch_size):
        logits = served.network.logits(torch.zeros((batch_size, size, size, 3), dtype=torch.uint8))
    if not torch.isfinite(logits).all():
        raise ServingError(f"{served.address}: the network's answer to a black photo is no number")


def _decode(data: bytes, size_px: int, settings: ServingSettings) -> UInt8Array:
    formats = (*BASE_FORMATS, *(name.upper() for name in settings.extra_formats))
    try:
        return decode_square(data, size_px=size_px, max_pixels=settings.max_pixels, formats=formats)
    except MemoryError as error:
        raise PhotoError("too large to be decoded here") from error


def _to_answer(logits: Float32Array, state: ModelState, *, min_confidence: float) -> Answer:
    ranked = rank_poses(torch.from_numpy(logits), state)
    return Answer.of(
        predicted.Answer(ranked, state.version, state.temperature), min_confidence=min_confidence
    )
