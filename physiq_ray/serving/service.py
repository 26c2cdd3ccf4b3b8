"""The work of one replica between HTTP and the network: fetch, decode, predict, count, keep doubtful photos.

    service = Service(settings, metrics, versions)
    await service.models.start(live)
    answer = await service.answer(data)

Threads fetch and decode the photos (Pillow releases the interpreter's lock), never the event loop.
"""

import asyncio
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from physiq_ray.config import ServingSettings
from physiq_ray.images import UInt8Array, mean_brightness
from physiq_ray.prediction import answer as predicted
from physiq_ray.serving.corrections import Corrections
from physiq_ray.serving.decoding import decode
from physiq_ray.serving.engine import Engine
from physiq_ray.serving.feedback import Doubtful, Feedback
from physiq_ray.serving.metrics import Metrics
from physiq_ray.serving.models import MAIN, Served, ServedModels
from physiq_ray.serving.pace import Pace
from physiq_ray.serving.schema import Answer
from physiq_ray.serving.versions import DeployedVersions
from physiq_ray.storage import read_bytes

SWITCH_INTERVAL_S = 0.0005
FETCH_THREADS = 8
# A model that has answered within this time need not be tested.
HEALTHY_S = 10.0


class Service:
    """The work of one replica; its methods are called from one event loop."""

    def __init__(self, settings: ServingSettings, metrics: Metrics, versions: DeployedVersions) -> None:
        """Start the threads; `models` has no model yet."""
        # Under load, each of the network's many short calls waits for the interpreter's lock, which Python
        # code of HTTP holds for up to 5 ms by default.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.settings = settings
        self.pace = Pace()
        self._metrics = metrics
        self._engine = Engine(
            max_batch_size=settings.max_batch_size,
            threads=None if settings.gpus_per_replica else settings.cpus_per_replica,
        )
        self.models = ServedModels(settings, versions, self._engine)
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "decode")
        self._fetchers = ThreadPoolExecutor(FETCH_THREADS, "fetch")
        self._feedback, self.corrections = None, None
        if settings.feedback:
            self._feedback = Feedback(settings, settings.feedback, metrics.count_feedback)
            self.corrections = Corrections(settings.feedback)
        self._random = random.Random()
        self._answered_s = -HEALTHY_S

    async def answer(self, data: bytes, *, request_id: str = "") -> Answer:
        """Predict one photo; request_id: is stored with the photo if it is kept as feedback.

        Raises PhotoError: it cannot be decoded; PredictionError: the network's output is not a number.
        """
        models = self.models.current
        served, role = models.choose(self._random.random())
        self.pace.enter()
        try:
            started_s = time.monotonic()
            decoding = self._decoders.submit(decode, data, served.state.image_size, self.settings)
            image = await asyncio.wrap_future(decoding)
            self._metrics.observe("decode", time.monotonic() - started_s)
            computed = await asyncio.wrap_future(self._engine.submit(image, served.network))
        finally:
            self.pace.leave()
        self._answered_s = time.monotonic()
        self._metrics.observe_computed(computed)
        outputs = torch.from_numpy(computed.outputs)
        answer = Answer.of(predicted.make_answer(outputs, served.state, models.floor_of(served)))
        self.models.num_answers[role] += 1
        pose_id = answer.pose.id if answer.pose else None
        self._metrics.count_prediction(pose_id, answer.confidence, version=served.state.version, role=role)
        if served.drift is not None and role == MAIN:
            self._watch(served, image, len(data), answer)
        if self._feedback is not None and answer.confidence < self.settings.feedback_below:
            self._feedback.offer(Doubtful(data, answer.model_dump(), request_id))
        return answer

    def _watch(self, served: Served, image: UInt8Array, num_bytes: int, answer: Answer) -> None:
        """Compare the last photos with those of the model's validation, and report the distance at times."""
        assert served.drift is not None
        served.drift.add(
            {
                "poses": served.state.class_mapping.pose_ids.index(answer.probabilities[0].id),
                "confidence": answer.confidence,
                "brightness": float(mean_brightness(image[None])[0]),
                "size": num_bytes,
            }
        )
        if served.drift.is_due:
            self._metrics.report_drift(served.drift.distances())

    async def fetch(self, uri: str) -> bytes:
        """Read one photo from S3; the caller has checked that the service may read it.

        Raises StorageError; TooLargeError: more bytes than a request may have.
        """
        started_s = time.monotonic()
        try:
            fetching = self._fetchers.submit(read_bytes, uri, max_bytes=self.settings.max_body_bytes)
            return await asyncio.wrap_future(fetching)
        finally:
            self._metrics.observe("fetch", time.monotonic() - started_s)

    async def check(self) -> None:
        """Test the model with a black photo, unless it answered a request within HEALTHY_S.

        Raises PhysiqError: it does not answer.
        """
        if time.monotonic() - self._answered_s < HEALTHY_S:
            return
        served = self.models.current.main
        size = served.state.image_size
        await asyncio.wrap_future(self._engine.submit(np.zeros((size, size, 3), np.uint8), served.network))
        self._answered_s = time.monotonic()

    def close(self) -> None:
        """End the threads, after their current work."""
        self.models.close()
        for threads in (self._fetchers, self._decoders):
            threads.shutdown(wait=True, cancel_futures=True)
        self._engine.close()
        if self._feedback is not None:
            self._feedback.close()
        if self.corrections is not None:
            self.corrections.close()
