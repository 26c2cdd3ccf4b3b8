"""The models of one replica: load them, replace them while they answer, and choose between main and canary.

    models = ServedModels(settings, versions, engine)
    await models.start(live)    # loads the first models, or raises
    models.change(live)         # loads others in the background; they answer as soon as they are ready

`live` is Serve's user_config. Loading a model takes some seconds, and the memory of a second model until it
has replaced the first.
"""

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from pydantic import ValidationError

from physiq_ray.checkpoint import ModelState, load_model_state
from physiq_ray.config import LiveSettings, ServingSettings
from physiq_ray.errors import PhysiqError, ServingError, SettingError
from physiq_ray.floor import Floor, floor_of_confidence
from physiq_ray.labels import load_configured_poses
from physiq_ray.prediction.network import Forward, Network
from physiq_ray.prediction.openvino import OpenVinoNetwork, has_openvino
from physiq_ray.serving.decoding import decode
from physiq_ray.serving.drift import Drift
from physiq_ray.serving.engine import Engine
from physiq_ray.serving.gate import compare_models, why_worse
from physiq_ray.serving.versions import DeployedVersions, OtherVersionError

LOGGER = logging.getLogger("ray.serve")

MAIN, CANARY = "main", "canary"
DEFAULT_MIN_CONFIDENCE = 0.5  # for models without a floor

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A model that is loaded and has computed one batch.

    drift: watches the photos that it predicts, None if its file does not say what its validation photos were
    like.
    """

    address: str
    state: ModelState
    network: Forward
    drift: Drift | None = None


@dataclass(frozen=True)
class Models:
    """The models that answer at one moment; replaced as a whole, so that no request sees half of a change."""

    live: LiveSettings
    main: Served
    canary: Served | None = None

    def floor_of(self, served: Served) -> Floor:
        """Give the floor of a model: min_confidence if it is set, else the model's own."""
        if self.live.min_confidence is not None:
            return floor_of_confidence(self.live.min_confidence)
        return served.state.floor or floor_of_confidence(DEFAULT_MIN_CONFIDENCE)

    def choose(self, random_share: float) -> tuple[Served, str]:
        """Give the model for a request, and its role; random_share: 0 … 1, below canary_share the canary."""
        if self.canary is not None and random_share < self.live.canary_share:
            return self.canary, CANARY
        return self.main, MAIN


class ServedModels:
    """The models of one replica; its methods are called from one event loop."""

    def __init__(self, settings: ServingSettings, versions: DeployedVersions, engine: Engine) -> None:
        """Load nothing yet; versions: says which version of a model's file the deployment uses."""
        self.refused: str | None = None  # why the latest change was not made
        self.num_answers = {MAIN: 0, CANARY: 0}  # of the models that answer now
        self._settings = settings
        self._versions = versions
        self._engine = engine
        self._models: Models | None = None
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loader = ThreadPoolExecutor(1, "load")

    @property
    def current(self) -> Models:
        """The models that answer now.

        Raises ServingError: none is loaded yet.
        """
        if self._models is None:
            raise ServingError("no model is loaded yet")
        return self._models

    async def start(self, live: Mapping[str, Any]) -> None:
        """Load the first models.

        If the models of `live` cannot be loaded or are worse, and the deployment was built with others, the
        others answer: a replica that starts after a refused change then answers like the other replicas.
        Raises PhysiqError: no model can be loaded. OtherVersionError: other replicas answer with another
        version of the file.
        """
        built_with = LiveSettings.of(self._settings)
        is_same = self._would_be_the_same(live, built_with)
        try:
            models = await self._load(self._parse(live))
            await self._check_not_worse(models, models.main if is_same else None)
            self._models = models
        except OtherVersionError:
            raise  # no answer is better than one that differs from those of other replicas
        except PhysiqError as error:
            if is_same:
                raise
            self._refuse(error)
            self._models = await self._load(built_with)

    def change(self, live: Mapping[str, Any]) -> asyncio.Task[None]:
        """Load the models of other settings while the current ones answer; return at once.

        A model's file is read again even if its address stays the same: the file may have been replaced.
        Serve sends a replica no requests during this call, so it does not wait for the loading. What cannot
        be loaded, or is worse on the photos of compare_on, is refused: then `refused` says why, and the
        current models stay.
        """
        task = asyncio.get_running_loop().create_task(self._change(live))
        self._tasks.add(task)  # the event loop itself keeps no reference
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """End the loading thread, after the model that it is loading."""
        self._loader.shutdown(wait=True, cancel_futures=True)

    async def _change(self, live: Mapping[str, Any]) -> None:
        async with self._changing:  # one change after the other, in the order of the calls
            try:
                models = await self._load(self._parse(live), before=self._models)
                await self._check_not_worse(models, self.current.main)
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
        """Give the number of answers of each of these models: those that stay keep their number."""
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
        LOGGER.error("the change of models is refused, and the current models stay: %s", error)

    def _parse(self, live: Mapping[str, Any]) -> LiveSettings:
        """Take what `live` does not contain from the settings that the deployment was built with."""
        built_with = LiveSettings.of(self._settings).model_dump()
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

    async def _check_not_worse(self, models: Models, current: Served | None) -> None:
        """Compare the new ones among the models with the current one, if the settings ask for it.

        current: None if this replica starts with another model than the deployment was built with; then it is
        the latter. The first replica with a verdict decides for all, so that they answer with the same model.
        Raises ServingError: a model is significantly worse, or the photos cannot be used.
        """
        if models.live.compare_on is None:
            return
        for served in filter(None, (models.main, models.canary)):
            version = served.state.version
            verdict = await self._in_loader(self._versions.verdict_on, version)
            if verdict is None:
                current = current or await self._load_built_with()
                if current is None or current.state.version == version:
                    continue
                found = await self._compare(served, current, models)
                verdict = await self._in_loader(self._versions.agree, version, found)
            if verdict:
                raise ServingError(verdict)

    async def _compare(self, new: Served, old: Served, models: Models) -> str:
        """Say why a model must not replace another one; empty if it may."""
        manifest_uri = str(models.live.compare_on)
        new_model, old_model = (
            (dataclasses.replace(served.state, floor=models.floor_of(served)), served.network)
            for served in (new, old)
        )
        try:
            comparison = await compare_models(
                new_model,
                old_model,
                manifest_uri,
                engine=self._engine,
                reading=self._loader,
                decode=lambda data, size_px: decode(data, size_px, self._settings),
            )
        except PhysiqError as error:
            return (
                f"{new.address}: cannot be compared with {old.address}, which stays: "
                f"compare_on={manifest_uri}: {error}; correct this and deploy again, or remove compare_on"
            )
        return why_worse(comparison, new=new.address, old=old.address, manifest_uri=manifest_uri)

    async def _load_built_with(self) -> Served | None:
        """Load the model that the deployment was built with; None if it no longer exists."""
        try:
            return await self._load_one(self._settings.model, None)
        except PhysiqError as error:
            LOGGER.warning("the new model is not compared: %s", error)
            return None

    async def _in_loader(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._loader.submit(function, *args, **kwargs))

    async def _load_one(self, address: str, before: Served | None) -> Served:
        served = await self._in_loader(load_served, address, self._settings)
        version = served.state.version
        await self._in_loader(self._versions.fix, address, version)
        if before is not None and before.state.version == version:
            return before  # it is warmed up, and its answers are counted
        # In the thread that will use it, and in which the first batches lay out the weights.
        await asyncio.wrap_future(
            self._engine.call(functools.partial(_warm_up, served, self._settings.max_batch_size))
        )
        return served


def load_served(address: str, settings: ServingSettings) -> Served:
    """Load a model from its file; it has not computed a batch yet.

    Raises PhysiqError: it cannot be loaded.
    """
    # One thread, and therefore no OpenMP team: a second team would slow the engine's down permanently.
    torch.set_num_threads(1)
    state = load_model_state(address, pose_names=load_configured_poses(settings))
    network = _build_network(state, settings)
    needed = dataclasses.replace(state, state_dict={}, optimizer_state_dict={}, history=(), settings={})
    return Served(address, needed, network, Drift(state.reference) if state.reference else None)


def _build_network(state: ModelState, settings: ServingSettings) -> Forward:
    on_cpu = not settings.gpus_per_replica
    if settings.runtime == "openvino" or (settings.runtime == "auto" and on_cpu and has_openvino()):
        return OpenVinoNetwork(state, precision=settings.precision, threads=settings.cpus_per_replica)
    # A GPU that this replica did not reserve belongs to others, even if the process can see it.
    return Network(state, precision=settings.precision, use_gpu=not on_cpu)


def _warm_up(served: Served, max_batch_size: int) -> None:
    size = served.state.image_size
    for batch_size in served.network.sizes(max_batch_size):
        outputs = served.network.outputs(torch.zeros((batch_size, size, size, 3), dtype=torch.uint8))
    if not torch.isfinite(outputs).all():
        raise ServingError(f"{served.address}: the network's output for a black photo is not a number")
