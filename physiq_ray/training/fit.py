"""Ray Train's side of a run: the trainer, and what ends it in our words."""

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray.train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer

from physiq_ray.errors import PhysiqError, TrainingError
from physiq_ray.model import KEEP_MEMORY
from physiq_ray.storage import absolute_uri
from physiq_ray.training.events import ReportEpochs
from physiq_ray.training.faults import EndWithoutMemory, is_out_of_memory, out_of_memory
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.job import Job
from physiq_ray.training.loop import train_loop
from physiq_ray.training.snapshot import CopySnapshot
from physiq_ray.training.workers import WorkerPlan

# By default Ray polls its workers every 2 s: an epoch of a small set would wait longer than it trains.
POLL_INTERVAL_S = "0.5"


class InterruptedRunError(TrainingError):
    """The run was stopped by Ctrl-C; the sentence says how to resume it."""


@contextmanager
def interruption_translated(folder: RunFolder) -> Iterator[None]:
    """Turn Ctrl-C into InterruptedRunError, whose sentence says how to resume the run."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:  # Ray's handler ends a stopped run by sys.exit(0)
        raise InterruptedRunError(
            f"interrupted; the last checkpoint is safe, resume with: {folder.resume_command}"
            if folder.has_checkpoint()
            else f"interrupted before the first epoch was done; start again with: {folder.resume_command}"
        ) from error


def fit(job: Job, workers: WorkerPlan, folder: RunFolder) -> Any:
    """Train until the run ends; give Ray's result, whose return_value is the loop's Outcome.

    Raises PhysiqError: what ended the run, and the command that resumes it.
    """
    settings, trainer = job.settings, _make_trainer(job, workers, folder)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_INTERVAL_S)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(settings.stall_timeout_s)
    try:
        with _sigint_restored():
            return trainer.fit()
    except ray.train.ControllerError as error:
        failure = error.controller_failure
        reason = f"{failure}" if isinstance(failure, PhysiqError) else f"Ray Train: {failure}"
        raise TrainingError(f"{reason}; resume with: {folder.resume_command}") from error
    except ray.train.WorkerGroupError as error:
        causes = {
            rank: getattr(cause, "cause", None) or cause for rank, cause in error.worker_failures.items()
        }
        ours = [cause for cause in causes.values() if isinstance(cause, PhysiqError)]
        if ours:
            raise type(ours[0])(f"{ours[0]}; resume with: {folder.resume_command}") from error
        rank, cause = min(causes.items(), key=lambda item: item[0])
        if is_out_of_memory(cause):  # killed for it, it could not say so itself
            raise TrainingError(f"{out_of_memory(settings)}; resume with: {folder.resume_command}") from error
        raise TrainingError(
            f"training worker {rank} failed: {_last_line(cause)}; --debug shows more; "
            f"resume with: {folder.resume_command}"
        ) from error
    except RayError as error:  # the controller or the cluster itself is gone
        raise TrainingError(f"Ray: {_last_line(error)}; resume with: {folder.resume_command}") from error


def _make_trainer(job: Job, workers: WorkerPlan, folder: RunFolder) -> TorchTrainer:
    settings = job.settings
    at_most = settings.num_workers
    num_workers = at_most if settings.min_workers is None else (settings.min_workers, at_most)
    return TorchTrainer(
        # Ray's controller reads a train_loop_config. So it would import all that a job needs, for seconds.
        partial(train_loop, job),  # type: ignore[arg-type]  # Ray passes on what it returns, its types say None
        # Longer than the watchdog's, which names the worker that does nothing; this ends a waiting one by an
        # error of its libraries.
        torch_config=TorchConfig(timeout_s=math.ceil(2 * settings.stall_timeout_s)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,  # type: ignore[arg-type]  # typed for Train V1
            use_gpu=workers.use_gpu,
            placement_strategy=workers.placement,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": 1.0} if workers.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # typed for Train V1
            name=folder.name,
            storage_path=absolute_uri(settings.storage),
            failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
            worker_runtime_env={"env_vars": {} if workers.use_gpu else KEEP_MEMORY},
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=1,  # the best one; Ray keeps the latest besides
                checkpoint_score_attribute="checkpoint_score",
                checkpoint_score_order="max",
            ),
            callbacks=[  # typed for Train V1
                ReportEpochs(job.events),  # type: ignore[list-item]
                EndWithoutMemory(settings),  # type: ignore[list-item]
                CopySnapshot(folder.uri),  # type: ignore[list-item]
            ],
        ),
    )


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _sigint_restored() -> Iterator[None]:
    """Give Ctrl-C back afterwards: Ray Train leaves its own handler installed."""
    try:
        before = signal.getsignal(signal.SIGINT)
        yield
    finally:
        signal.signal(signal.SIGINT, before)
