"""What each training worker runs: epochs of training and validation, a checkpoint after each.

Every number that decides anything is reduced over all ranks, weighted by photos, before it is looked at;
the number of steps is planned beforehand. So ranks never wait for each other in vain, however few photos
one of them holds. All randomness is seeded by (seed, epoch, rank): a resumed epoch draws what it would
have drawn.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.util.queue import Queue
from torch import Tensor, nn
from torch.nn import functional

from physiq_ray.config import Settings
from physiq_ray.errors import DataError
from physiq_ray.ingest import Batch, Photos, Unreadable, check_unreadable
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import TRAIN, VALIDATION
from physiq_ray.model import StateDict, build_model, choose_precision, normalise, read_tensors
from physiq_ray.training.augment import augment_light
from physiq_ray.training.plan import (
    EarlyStopping,
    checkpoint_score,
    learning_rate,
    plan_epoch,
    validation_rows,
)
from physiq_ray.training.progress import BatchProgress, Resumed, send

STATE_FILE = "state.pt"
EVENT_INTERVAL_S = 0.3

IntArray = npt.NDArray[np.int64]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Job:
    """Everything a worker needs, as data: it travels to the workers once."""

    settings: Settings
    class_mapping: ClassMapping
    photos: Mapping[str, Photos]  # by split
    weights: "ray.ObjectRef[StateDict] | None"
    threads: int
    events: Queue


@dataclass(frozen=True)
class Outcome:
    """What a finished loop tells the driver; failure is the reason why it stopped before its end."""

    unreadable: tuple[Unreadable, ...]
    failure: str | None = None


@dataclass
class Progress:
    """The state of a run between two epochs, which a checkpoint holds beside model and optimizer.

    excluded: by split, the rows that cannot be read, with what is known of them.
    """

    early_stopping: EarlyStopping
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    excluded: dict[str, dict[int, Unreadable]] = field(default_factory=lambda: {TRAIN: {}, VALIDATION: {}})

    def unreadable(self) -> tuple[Unreadable, ...]:
        """All photos set aside so far."""
        return tuple(item for split in (TRAIN, VALIDATION) for item in self.excluded[split].values())

    def to_plain(self) -> dict[str, Any]:
        """Give plain values, which the restricted unpickler lets through."""
        excluded = {
            split: {row: asdict(item) for row, item in rows.items()} for split, rows in self.excluded.items()
        }
        return {
            "early_stopping": asdict(self.early_stopping),
            "epoch": self.epoch,
            "history": self.history,
            "excluded": excluded,
        }

    @classmethod
    def from_plain(cls, value: Mapping[str, Any], *, patience: int) -> "Progress":
        """Read what `to_plain` wrote; the patience is the current setting's."""
        excluded = {
            split: {int(row): Unreadable(**item) for row, item in rows.items()}
            for split, rows in value["excluded"].items()
        }
        stopping = EarlyStopping(**{**value["early_stopping"], "patience": patience})
        return cls(stopping, value["epoch"], list(value["history"]), excluded)


@dataclass
class Sums:
    """Running sums over photos, kept on the device: reading them back each step would stall a GPU."""

    loss: Tensor
    correct: Tensor
    num_photos: int = 0

    @classmethod
    def zero(cls, device: torch.device) -> "Sums":
        """Start at nothing."""
        return cls(torch.zeros((), device=device), torch.zeros((), device=device))

    def add(self, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch; loss_sum is the sum over its photos."""
        self.loss += loss_sum.detach()
        self.correct += (logits.detach().argmax(dim=1) == labels).sum()
        self.num_photos += len(labels)

    def means(self) -> tuple[float, float, int]:
        """Give loss and accuracy per photo over all ranks, and how many photos; 0 where there is none."""
        sums = torch.stack(
            [self.loss.double(), self.correct.double(), torch.tensor(self.num_photos).to(self.loss).double()]
        )
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        loss, correct, num_photos = sums.tolist()
        return loss / max(1, num_photos), correct / max(1, num_photos), int(num_photos)


def train_loop(config: dict[str, Job]) -> Outcome:
    """Train on one worker from the start or from the run's latest checkpoint."""
    return Worker(config["job"]).run()


class Worker:
    """One rank of a run."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._settings = job.settings
        context = ray.train.get_context()
        self._rank, self._world_size = context.get_world_rank(), context.get_world_size()
        self._device = ray.train.torch.get_device()
        if self._device.type == "cpu":
            torch.set_num_threads(job.threads)  # Ray sets as many as CPUs were reserved: often one
        self._dtype = choose_precision(job.settings.precision, self._device)
        torch.manual_seed(job.settings.seed)  # the head's weights
        weights = ray.get(job.weights) if job.weights is not None else None
        model = build_model(len(job.class_mapping.classes), weights)
        self._model = model.to(self._device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.Adam(
            self._model.parameters(), lr=job.settings.learning_rate, fused=True
        )
        self._progress = self._restore()
        # Batch norm statistics are averaged once an epoch, not sent before each step.
        self._parallel = ray.train.torch.prepare_model(
            self._model,
            parallel_strategy_kwargs={"broadcast_buffers": False, "gradient_as_bucket_view": True},
        )

    def run(self) -> Outcome:
        """Go through the epochs that are left."""
        progress = self._progress
        failure = None
        while progress.epoch < self._settings.epochs and not progress.early_stopping.is_finished:
            started_s = time.monotonic()
            train_loss, train_accuracy, train_photos = self._train(progress.epoch + 1)
            validation_loss, validation_accuracy, validation_photos = self._validate(progress.epoch + 1)
            if failure := self._too_many_unreadable():
                break
            progress.epoch += 1
            progress.early_stopping = progress.early_stopping.after(progress.epoch, validation_accuracy)
            metrics = {
                "epoch": progress.epoch,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "validation_loss": validation_loss,
                "validation_accuracy": validation_accuracy,
                "train_photos": train_photos,
                "validation_photos": validation_photos,
                "learning_rate": learning_rate(self._settings, progress.epoch),
                "seconds": time.monotonic() - started_s,
                "status": progress.early_stopping.status,
            }
            progress.history.append(metrics)
            self._report(
                {**metrics, "checkpoint_score": checkpoint_score(validation_accuracy, progress.epoch)}
            )
        return Outcome(progress.unreadable(), failure)

    def _train(self, epoch: int) -> tuple[float, float, int]:
        settings, photos = self._settings, self._job.photos[TRAIN]
        plan = plan_epoch(
            self._available(TRAIN),
            batch_size=settings.batch_size,
            world_size=self._world_size,
            world_rank=self._rank,
            seed=settings.seed,
            epoch=epoch,
        )
        draw = np.random.SeedSequence((settings.seed, epoch, self._rank)).generate_state(1)
        generator = torch.Generator().manual_seed(int(draw[0]))
        batches = ahead(self._to_device(photos.batches(plan.rows, settings.batch_size), TRAIN))
        sums = Sums.zero(self._device)
        emit = self._emitter(epoch, TRAIN, sum(plan.step_sizes))
        self._parallel.train()
        for step, step_size in enumerate(plan.step_sizes):
            rate = learning_rate(settings, epoch - 1 + step / len(plan.step_sizes))
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            images, labels = next(batches, (None, None))
            if images is not None and labels is not None and len(labels):
                inputs = normalise(images)
                if settings.augment == "light":
                    inputs = augment_light(inputs, generator)
                logits = self._forward(self._parallel, inputs)
                loss_sum = functional.cross_entropy(
                    logits, labels, reduction="sum", label_smoothing=settings.label_smoothing
                )
                sums.add(loss_sum, logits, labels)
            elif self._world_size > 1:
                loss_sum = self._idle_loss()
            else:
                continue
            # Ranks' gradients are averaged: times their number, over the photos of all, gives the mean
            # over photos, however unevenly they are dealt.
            (loss_sum * (self._world_size / step_size)).backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            emit(sums)
        emit(sums, force=True)
        self._average_batch_norms(sums.num_photos)
        return sums.means()

    def _validate(self, epoch: int) -> tuple[float, float, int]:
        available = self._available(VALIDATION)
        rows = validation_rows(available, world_size=self._world_size, world_rank=self._rank)
        photos = self._job.photos[VALIDATION]
        sums = Sums.zero(self._device)
        emit = self._emitter(epoch, VALIDATION, len(available))
        self._model.eval()
        with torch.inference_mode():
            batches = photos.batches(rows, self._settings.batch_size)
            for images, labels in ahead(self._to_device(batches, VALIDATION)):
                logits = self._forward(self._model, normalise(images))
                sums.add(functional.cross_entropy(logits, labels, reduction="sum"), logits, labels)
                emit(sums)
        emit(sums, force=True)
        self._gather_unreadable()
        return sums.means()

    def _forward(self, model: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits: Tensor = model(images)
        return logits.float()

    def _idle_loss(self) -> Tensor:
        """Take part in a step without a photo: zero gradients, and batch norms left as they are."""
        self._parallel.eval()
        size = self._job.photos[TRAIN].image_size
        logits = self._forward(self._parallel, torch.zeros(1, 3, size, size, device=self._device))
        self._parallel.train()
        return logits.sum() * 0

    def _to_device(self, batches: Iterator[Batch], split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Note what cannot be read; give uint8 images (B, H, W, 3) and labels (B,) on the device.

        Runs in a thread of its own, so it computes nothing: a second thread that calls torch's CPU kernels
        brings a second pool of OpenMP threads, and both pools spin on the same cores.
        """
        on_gpu = self._device.type == "cuda"
        for batch in batches:
            self._progress.excluded[split].update(batch.unreadable)
            # Ray hands out its store's memory read-only; torch wants to be able to write.
            images = torch.from_numpy(np.require(batch.images, requirements="W"))
            labels = torch.from_numpy(np.require(batch.labels, requirements="W"))
            if on_gpu:  # pinned, the copies run beside the previous step
                images, labels = images.pin_memory(), labels.pin_memory()
            yield images.to(self._device, non_blocking=on_gpu), labels.to(self._device, non_blocking=on_gpu)

    def _available(self, split: str) -> IntArray:
        excluded = np.fromiter(self._progress.excluded[split], np.int64)
        return np.setdiff1d(np.arange(self._job.photos[split].num_rows), excluded)

    def _average_batch_norms(self, num_photos: int) -> None:
        """Make running statistics equal on all ranks, weighted by the photos each has seen."""
        if self._world_size == 1:
            return
        statistics = [
            buffer
            for name, buffer in self._model.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        ]
        weight = torch.tensor([float(num_photos)], device=self._device)
        flat = torch.cat([*(buffer.flatten() * weight for buffer in statistics), weight])
        torch.distributed.all_reduce(flat)
        if flat[-1] == 0:  # nobody has seen a photo: nothing to average
            return
        flat, start = flat[:-1] / flat[-1], 0
        for buffer in statistics:
            buffer.copy_(flat[start : start + buffer.numel()].view_as(buffer))
            start += buffer.numel()

    def _gather_unreadable(self) -> None:
        """Let every rank know what any rank could not read, so that all plan alike."""
        if self._world_size == 1:
            return
        found: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(found, self._progress.excluded)
        for excluded in found:
            for split, rows in excluded.items():
                self._progress.excluded[split].update(rows)

    def _too_many_unreadable(self) -> str | None:
        num_photos = sum(photos.num_rows for photos in self._job.photos.values())
        try:
            check_unreadable(self._progress.unreadable(), num_photos, self._settings.max_unreadable_share)
        except DataError as error:
            return str(error)  # not raised: Ray would start the workers again and again
        return None

    def _emitter(self, epoch: int, split: str, total: int) -> Callable[..., None]:
        last_s = time.monotonic()

        def emit(sums: Sums, *, force: bool = False) -> None:
            nonlocal last_s
            if force or time.monotonic() - last_s >= EVENT_INTERVAL_S:
                last_s = time.monotonic()
                loss, correct = float(sums.loss), int(sums.correct)
                send(
                    self._job.events,
                    BatchProgress(epoch, split, self._rank, sums.num_photos, loss, correct, total),
                )

        return emit

    def _report(self, metrics: dict[str, Any]) -> None:
        name = f"epoch-{self._progress.epoch:04d}"
        if self._rank != 0:
            ray.train.report(metrics, checkpoint_dir_name=name)
            return
        with tempfile.TemporaryDirectory() as folder:
            state = {
                "model": self._model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "progress": self._progress.to_plain(),
                "class_mapping": self._job.class_mapping.to_dict(),
            }
            torch.save(state, Path(folder, STATE_FILE))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=name)

    def _restore(self) -> Progress:
        progress = Progress(EarlyStopping(self._settings.patience))
        for split, photos in self._job.photos.items():
            progress.excluded[split].update(photos.unreadable)
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return progress
        state = read_state(checkpoint)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        progress = Progress.from_plain(state["progress"], patience=self._settings.patience)
        if self._rank == 0:
            send(self._job.events, Resumed(tuple(progress.history)))
        return progress


def read_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """Read what `Worker` saved: model, optimizer, progress, class_mapping."""
    with checkpoint.as_directory() as folder:
        path = Path(folder, STATE_FILE)
        state: dict[str, Any] = read_tensors(path.read_bytes(), name=f"{checkpoint.path}/{STATE_FILE}")
    return state


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Prepare the next item in a thread while the last one is worked on."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        end = object()
        future = thread.submit(next, items, end)
        while (item := future.result()) is not end:
            future = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
