"""What the driver gives to each training worker."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.queue import Queue

from physiq_ray.config import Settings
from physiq_ray.ingest import Photos
from physiq_ray.labels import ClassMapping
from physiq_ray.model import StartingWeights


@dataclass(frozen=True)
class Job:
    """Everything a worker needs, as data: it travels to the workers once.

    class_weights: by class index, for the training loss; empty if all classes weigh the same. stream: the
    actor of the pipeline that several workers share, if photos are streamed. deadline_s: the time of the
    clock when the last epoch must have ended. report: takes the place of `ray.train.report` in a training
    without workers.
    """

    settings: Settings
    class_mapping: ClassMapping
    photos: Mapping[str, Photos]  # by split
    weights: "ray.ObjectRef[StartingWeights] | None"
    class_weights: tuple[float, ...]
    threads: int
    events: Queue
    stream: Any = None
    deadline_s: float = math.inf
    report: Callable[..., None] | None = None
