"""The metrics for Prometheus, through Ray, which puts ray_ in front of their names.

Serve has its own metrics as well (serve_num_http_requests, latencies by route, replicas).
"""

from collections.abc import Mapping
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from physiq_ray.serving.drift import Distance
from physiq_ray.serving.engine import Computed

SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]


class Metrics:
    """A replica's counters; Serve adds tags for application, deployment and replica."""

    def __init__(self) -> None:
        """Register them; this works in a replica only."""
        self._requests = Counter(
            "physiq_requests",
            description="Requests by path and HTTP status.",
            tag_keys=_keys("path", "status"),
        )
        self._predictions = Counter(
            "physiq_predictions",
            description="Answers by pose id (none: below the floor), model version and its role.",
            tag_keys=_keys("pose_id", "version", "role"),
        )
        self._confidence = Histogram(
            "physiq_confidence",
            description="Confidence of the answers.",
            boundaries=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99],
            tag_keys=("role",),
        )
        self._stage = Histogram(
            "physiq_stage_seconds",
            description="Seconds of a photo in each stage: fetch, decode, queue, model.",
            boundaries=SECONDS,
            tag_keys=("stage",),
        )
        self._batch_size = Histogram(
            "physiq_batch_photos",
            description="Photos in the batch in which a photo was computed.",
            boundaries=[1, 2, 4, 8, 16, 32, 64, 128],
        )
        self._feedback = Counter(
            "physiq_feedback",
            description="Doubtful photos by result: kept, dropped, failed.",
            tag_keys=("result",),
        )
        self._drift = Gauge(
            "physiq_drift",
            description="Distance of the last photos from the validation photos, divided by its limit.",
            tag_keys=("of",),
        )

    def count_request(self, path: str, status: int) -> None:
        """Count one answered request; path: of the route, not the one that the client sent."""
        self._requests.inc(tags={"path": path, "status": str(status)})

    def count_prediction(self, pose_id: int | None, confidence: float, *, version: str, role: str) -> None:
        """Count one answer."""
        pose = "none" if pose_id is None else str(pose_id)
        self._predictions.inc(tags={"pose_id": pose, "version": version, "role": role})
        self._confidence.observe(confidence, tags={"role": role})

    def observe(self, stage: str, seconds: float) -> None:
        """Record how long a photo was in a stage."""
        self._stage.observe(max(seconds, 1e-6), tags={"stage": stage})

    def observe_computed(self, computed: Computed) -> None:
        """Record a photo's time in the queue and in the model, and the size of its batch."""
        self.observe("queue", computed.waited_s)
        self.observe("model", computed.computed_s)
        self._batch_size.observe(computed.batch_size)

    def report_drift(self, distances: Mapping[str, Distance]) -> None:
        """Report how far the last photos are from the validation photos; above 1 is no accident."""
        for name, distance in distances.items():
            self._drift.set(distance.value / distance.limit, tags={"of": name})

    def count_feedback(self, result: str) -> None:
        """Count one doubtful photo."""
        self._feedback.inc(tags={"result": result})


def _keys(*names: str) -> Any:
    return names  # Any, because Ray declares the parameter as a tuple of one
