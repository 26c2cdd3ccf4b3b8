"""The Serve application: one deployment, whose replicas each receive HTTP, decode and predict.

    serve run physiq_ray.serving:build_app model=s3://models/poses
    serve deploy serve_config.yaml

One process does all of this: sending a photo between two processes would cost more than the work in each.
"""

import asyncio
import contextlib
import importlib
import uuid
from collections.abc import Mapping
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from physiq_ray.config import LiveSettings, ServingSettings
from physiq_ray.errors import ServingError
from physiq_ray.images import why_no_heic
from physiq_ray.machine import is_loopback
from physiq_ray.model import KEEP_MEMORY
from physiq_ray.serving.api import build_api
from physiq_ray.serving.metrics import Metrics
from physiq_ray.serving.requestlog import LOGGER, RequestLog
from physiq_ray.serving.service import Service
from physiq_ray.serving.versions import DeployedVersions

# Serve's own queue in front of a replica must not fill up: the replica itself answers 503, with a message, as
# soon as a request would wait too long.
MORE_THAN_MAX_REQUESTS = 2
HEALTH_CHECK_PERIOD_S, HEALTH_CHECK_TIMEOUT_S = 10.0, 30.0
# How often a replica that ends checks whether its last requests are done, and for how long at most.
DRAIN_LOOK_S, DRAIN_S = 1.0, 60.0


@serve.deployment(name="PoseService")
@serve.ingress()  # Serve calls __serve_build_asgi_app__ in each replica
class PoseService:
    """One replica."""

    def __init__(self, settings: ServingSettings, build: str) -> None:
        """Start the threads; `reconfigure`, which Serve calls next, loads the model.

        build: an id of this build of the application.
        Raises ServingError: the tokens cannot be read, or there are none.
        """
        _listen_where_ray_does()
        metrics = Metrics()
        self._versions = DeployedVersions(build)
        self._log = RequestLog()
        self._service = Service(settings, metrics, self._versions)
        LOGGER.addFilter(self._log)
        self._api = build_api(self._service, metrics, self._log)
        self._is_started = False
        self._live: Mapping[str, Any] = {}
        self._look: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Give Serve the application for HTTP."""
        return self._api

    async def reconfigure(self, live: Mapping[str, Any]) -> None:
        """Apply user_config: load the model in the first call, and replace it in later ones.

        Raises PhysiqError, in the first call only: no model can be loaded, or its file was replaced since the
        deployment and other replicas answer with the previous one.
        """
        self._live = live
        if self._is_started:
            self._service.models.change(live)
            return
        await self._service.models.start(live)
        self._is_started = self._versions.is_running = True

    async def check_health(self) -> None:
        """Test the model if no request used it recently; Serve replaces a replica whose check fails.

        Raises PhysiqError: it does not answer.
        """
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._reload_after_deployment())
        self._log.flush()
        await self._service.check()

    async def _reload_after_deployment(self) -> None:
        """Load the models again after a deployment that changed no setting: Serve does not report those."""
        try:
            is_new = await asyncio.to_thread(self._versions.is_new)
        except (RayError, RayServeException, KeyError) as error:  # Serve's controller restarts
            LOGGER.warning("could not ask Serve whether there was a deployment: %s", error)
            return
        if is_new:
            self._service.models.change(self._live)

    def __del__(self) -> None:
        """Write what waits to be written; Serve waits for it."""
        if service := getattr(self, "_service", None):
            service.close()
            self._log.flush()


def _listen_where_ray_does() -> None:
    """Keep the port that Serve opens in each replica on the node's loopback address, if Ray listens there.

    Other deployments use the port. Serve binds it to all networks, even if Ray itself listens on loopback
    only, and has no setting for it (ray/serve/_private/replica.py, _on_initialized). This function changes
    the replica's own process only.
    """
    with contextlib.suppress(ImportError, AttributeError):  # other versions of Ray may use other names
        replica: Any = importlib.import_module("ray.serve._private.replica")
        bind = replica.add_port_to_grpc_server
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        if is_loopback(address):
            replica.add_port_to_grpc_server = lambda server, _everywhere: bind(server, f"{address}:0")


def build_app(args: ServingSettings) -> Application:
    """Build the application from its settings; Serve parses them from `key=value` or the config's args.

    Raises pydantic.ValidationError, which Serve shows: it names the wrong setting. ServingError:
    extra_formats contains HEIC, which cannot be read on this machine.
    """
    if "heic" in args.extra_formats and (reason := why_no_heic()):
        raise ServingError(f"extra_formats={','.join(args.extra_formats)}: HEIC is {reason}")
    deployment: serve.Deployment = PoseService.options(  # type: ignore[attr-defined]
        user_config=LiveSettings.of(args).model_dump(),
        max_ongoing_requests=args.max_requests * MORE_THAN_MAX_REQUESTS + args.max_uploads,
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": args.target_requests,
            "upscale_delay_s": args.upscale_delay_s,
            "downscale_delay_s": args.downscale_delay_s,
        },
        ray_actor_options={
            "num_cpus": args.cpus_per_replica,
            "num_gpus": args.gpus_per_replica,
            "runtime_env": {"env_vars": {} if args.gpus_per_replica else KEEP_MEMORY},
        },
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
        graceful_shutdown_timeout_s=DRAIN_S,
    )
    application: Application = deployment.bind(args, uuid.uuid4().hex)
    return application
