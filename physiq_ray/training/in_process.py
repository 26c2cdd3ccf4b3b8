"""A training in this process, without workers: for debuggers, and for tests that take seconds.

Ray still prepares the photos. Nothing restarts a training that fails, and its checkpoints last only until the
model files are written.
"""

import dataclasses
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from physiq_ray.training.events import EpochDone, send
from physiq_ray.training.job import Job
from physiq_ray.training.loop import train_loop
from physiq_ray.training.outcome import Outcome
from physiq_ray.training.workers import WorkerPlan


class LocalResult:
    """What `finish` reads of Ray's result: the loop's outcome, and the latest and the best checkpoint."""

    return_value: Outcome
    checkpoint: ray.train.Checkpoint

    def __init__(self, folder: Path, events: Queue) -> None:
        """folder: an empty one for the checkpoints. events: receives each epoch."""
        self.best_checkpoints: list[tuple[ray.train.Checkpoint, dict[str, Any]]] = []
        self._folder, self._events = folder, events

    def report(
        self, metrics: dict[str, Any], *, checkpoint: ray.train.Checkpoint, checkpoint_dir_name: str
    ) -> None:
        """Keep a checkpoint, as `ray.train.report` does."""
        path = self._folder / checkpoint_dir_name
        with checkpoint.as_directory() as written:
            shutil.copytree(written, path)
        self.checkpoint = ray.train.Checkpoint.from_directory(path)
        best = [*self.best_checkpoints, (self.checkpoint, metrics)]
        self.best_checkpoints = [max(best, key=lambda item: item[1]["checkpoint_score"])]
        kept = {self.checkpoint.path, self.best_checkpoints[0][0].path}
        for other in self._folder.iterdir():
            if str(other) not in kept:
                shutil.rmtree(other)
        send(self._events, EpochDone(metrics))


def fit_in_process(job: Job, workers: WorkerPlan, folder: Path) -> LocalResult:
    """Train in this process until the run ends; keep the checkpoints in a folder that is empty.

    An error of the loop is raised as it is.
    """
    result = LocalResult(folder, job.events)
    loop = partial(train_loop, dataclasses.replace(job, report=result.report))
    trainer = TorchTrainer(
        loop,  # type: ignore[arg-type]  # Ray passes on what it returns, its types say None
        scaling_config=ray.train.ScalingConfig(num_workers=0, use_gpu=workers.use_gpu),
    )
    result.return_value = trainer.fit().return_value  # type: ignore[attr-defined]  # typed for Train V1
    return result
