"""What each training worker runs: epochs of training and validation, with a checkpoint after each.

Every number that a decision uses is first reduced over all ranks, weighted by photos. The number of steps is
planned in advance. So no rank waits for a step that another rank does not take, however few photos it has.
All randomness is seeded by (seed, epoch, rank, step): a resumed epoch draws the same numbers.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.exceptions import RayError
from torch import Tensor
from torch.nn import functional

from physiq_ray.errors import DataError
from physiq_ray.ingest import in_use
from physiq_ray.manifest import TRAIN, VALIDATION
from physiq_ray.model import normalise
from physiq_ray.quarantine import check_unreadable
from physiq_ray.training.augment import Change, make_change
from physiq_ray.training.events import BatchProgress, Note, Resumed, Stalled, send
from physiq_ray.training.faults import memory_translated, store_translated
from physiq_ray.training.feed import Feed
from physiq_ray.training.feed import Worker as FeedWorker
from physiq_ray.training.job import Job
from physiq_ray.training.measures import Divergence, FirstBadStep, Means, Sums, gather
from physiq_ray.training.network import Network
from physiq_ray.training.outcome import Outcome
from physiq_ray.training.plan import (
    EarlyStopping,
    EpochPlan,
    fits,
    learning_rate,
    may_stop,
    plan_epoch,
    train_size,
    validation_rows,
)
from physiq_ray.training.preemption import Notices
from physiq_ray.training.reports import Reports
from physiq_ray.training.saving import Saver
from physiq_ray.training.state import PartialEpoch, TrainingState, read_state
from physiq_ray.training.watchdog import Watchdog

EVENT_INTERVAL_S = 1.0
# How long torch.compile may take for one size of images, in addition to stall_timeout_s.
COMPILE_S = 900.0
# Steps between two checks of the loss and of Ray's notices, for one worker and for several. On a GPU, a check
# waits for the last step; several workers wait for each other.
CHECK_STEPS = {"cuda": (20, 20), "cpu": (1, 5)}

IntArray = npt.NDArray[np.int64]


def train_loop(job: Job) -> Outcome:
    """Train on one worker from the start or from the run's latest checkpoint."""
    with memory_translated(job.settings), in_use(job.photos):
        return Worker(job).run()


def set_up_cudnn(reproducible: Literal["no", "yes"]) -> None:
    """Let cuDNN choose its fastest algorithms, or always use the same deterministic ones.

    The fastest ones may add up gradients in a different order each time, so that epoch tables differ.
    """
    torch.backends.cudnn.deterministic = reproducible == "yes"
    torch.backends.cudnn.benchmark = reproducible == "no"


class Worker:
    """One rank of a run."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._settings = job.settings
        context = ray.train.get_context()
        self._rank, self._world_size = context.get_world_rank(), context.get_world_size()
        self._device = ray.train.torch.get_device()
        if self._device.type == "cpu":
            torch.set_num_threads(job.threads)  # Ray sets the number of reserved CPUs: often one
        else:
            set_up_cudnn(self._settings.reproducible)
        weights = ray.get(job.weights) if job.weights is not None else None
        self._network = Network(self._settings, job.class_mapping.pose_ids, weights, self._device)
        self._class_weights = (
            torch.tensor(job.class_weights, device=self._device) if job.class_weights else None
        )
        self._progress = self._restore()
        self._feed = self._make_feed()
        # A debugger stops this process for any time, and it is not ours to end.
        patience_s = self._settings.stall_timeout_s if job.report is None else math.inf
        self._watchdog = Watchdog(patience_s, self._give_up)
        self._saver = Saver()
        self._notices = Notices(self._saver.ask)
        self._reports = Reports(job, self._rank, self._network, self._saver)

    def run(self) -> Outcome:
        """Train the remaining epochs, and wait until the last checkpoint is saved."""
        with self._saver:
            return self._go_through()

    def _go_through(self) -> Outcome:
        progress = self._progress
        while progress.epoch < self._settings.epochs and not progress.early_stopping.is_finished:
            begun = progress.partial or PartialEpoch(frozenset(progress.excluded[TRAIN]))
            epoch, started_s = progress.epoch + 1, time.monotonic() - begun.seconds
            with self._watchdog.watching():
                plan = self._plan(epoch, begun)
                report = partial(self._report_partial, begun, started_s)
                trained = self._train(epoch, plan, begun, report)
            if isinstance(trained, Divergence):
                return Outcome(progress.unreadable(), divergence=trained)
            trained_s = time.monotonic()
            with self._watchdog.watching():
                validated, answers = self._validate(epoch)
            if failure := self._too_many_unreadable():
                return Outcome(progress.unreadable(), failure)
            if not math.isfinite(validated.loss):  # after the last step, whose own loss was finite
                return Outcome(progress.unreadable(), divergence=Divergence(epoch))
            progress.epoch, progress.partial = epoch, None
            progress.early_stopping = progress.early_stopping.after(
                epoch, validated.accuracy, counts=may_stop(self._settings, epoch)
            )
            metrics = {
                "epoch": epoch,
                "train_loss": trained.loss,
                "train_accuracy": trained.accuracy,
                "validation_loss": validated.loss,
                "validation_accuracy": validated.accuracy,
                "train_photos": trained.num_photos,
                "validation_photos": validated.num_photos,
                "train_size": train_size(self._settings, epoch),
                "learning_rate": learning_rate(self._settings, epoch),
                "num_workers": self._world_size,
                "seconds": time.monotonic() - started_s,
                "train_seconds": trained_s - started_s,
                "time": time.time(),
                "status": progress.early_stopping.status,
            }
            progress.history.append(metrics)
            self._reports.epoch(metrics, progress, answers)
            if not progress.early_stopping.is_finished and self._is_out_of_time(metrics):
                return Outcome(progress.unreadable(), is_out_of_time=True)
        return Outcome(progress.unreadable())

    def _make_feed(self) -> Feed:
        settings = self._settings
        feed = Feed(
            self._job.photos,
            FeedWorker(self._rank, self._world_size, self._device),
            batch_size=settings.batch_size,
            stream=self._job.stream,
            on_unreadable=lambda split, photos: self._progress.excluded[split].update(photos),
        )
        if settings.cache == "gpu" or (settings.cache == "auto" and feed.fits_device()):
            feed.load_all()
            if self._rank == 0:
                size = f"{feed.needed_bytes / 2**20:.0f} MiB"
                send(self._job.events, Note(f"cache {settings.cache}: gpu: {size} are on each GPU"))
        return feed

    def _plan(self, epoch: int, begun: PartialEpoch) -> EpochPlan:
        """Decide which photos this rank trains on; announce them and its validation photos to the feed."""
        settings = self._settings
        plan = plan_epoch(
            self._available(TRAIN, begun.excluded),
            batch_size=settings.batch_size,
            accumulation=settings.gradient_accumulation,
            world_size=self._world_size,
            world_rank=self._rank,
            seed=settings.seed,
            epoch=epoch,
            num_done=begun.num_photos,
        )
        self._feed.begin(epoch, {TRAIN: plan.rows, VALIDATION: self._validation_rows()})
        return plan

    def _validation_rows(self) -> IntArray:
        available = self._available(VALIDATION, self._progress.excluded[VALIDATION])
        return validation_rows(available, world_size=self._world_size, world_rank=self._rank)

    def _train(
        self, epoch: int, plan: EpochPlan, begun: PartialEpoch, report: Callable[[int, Sums], None]
    ) -> Means | Divergence:
        """Train on the photos of the plan.

        begun: what the epoch did before. report: saves a checkpoint, given the photos of all ranks so far and
        their sums.
        """
        settings = self._settings
        batches = self._feed.batches(TRAIN)
        num_classes = len(self._job.class_mapping.classes)
        sums, first_bad = self._sums_of(begun), FirstBadStep(self._device)
        num_before, photos_before = sums.num_photos, plan.photos_before
        emit = self._emitter(epoch, TRAIN, photos_before[-1])
        alone, several = CHECK_STEPS[self._device.type]
        check_steps = alone if self._world_size == 1 else several
        self._network.begin_epoch(epoch)
        self._allow_compiling()
        for step in range(len(plan.step_sizes)):
            change = make_change(
                settings, num_classes, epoch=epoch, rank=self._rank, step=plan.first_step + step
            )
            first_bad.note(step, self._take_step(plan, step, batches, change, sums))
            epochs_done = epoch - 1 + photos_before[step] / photos_before[-1]
            self._network.step(learning_rate(settings, epochs_done))
            emit(sums)
            is_last = step == len(plan.step_sizes) - 1
            if is_last or step % check_steps == 0:
                if first_bad.was_seen():
                    return first_bad.describe(epoch, plan)
                if not is_last and self._notices.is_new():
                    self._network.average_buffers(sums.num_photos - num_before)
                    num_before = sums.num_photos
                    report(photos_before[step + 1], sums)
        emit(sums, force=True)
        self._network.average_buffers(sums.num_photos - num_before)
        return sums.means()

    def _sums_of(self, begun: PartialEpoch) -> Sums:
        if self._rank != 0:  # the sums are over all ranks, and one rank counts them
            return Sums.zero(self._device)
        return Sums.of(self._device, begun.loss_sum, begun.num_correct, begun.num_read)

    def _take_step(
        self,
        plan: EpochPlan,
        step: int,
        batches: Iterator[tuple[Tensor, Tensor]],
        change: Change,
        sums: Sums,
    ) -> Tensor:
        """Add up the gradients of one step; give this rank's loss."""
        loss = torch.zeros((), device=self._device)
        left = plan.part_sizes[step]
        for batch in range(plan.num_batches[step]):
            images, labels = next(batches) if left > 0 else (None, None)
            left -= plan.batch_size
            with self._network.only_adding_up(batch < plan.num_batches[step] - 1):
                if images is not None and labels is not None and len(labels):
                    inputs, targets = change(images, labels)
                    logits = self._network.forward(inputs)
                    part = functional.cross_entropy(
                        logits,
                        targets,
                        weight=self._class_weights,
                        reduction="sum",
                        label_smoothing=self._settings.label_smoothing,
                    )
                    sums.add(part, logits, labels)
                elif self._world_size > 1:
                    part = self._network.zero_loss(self._job.photos[TRAIN].image_size)
                else:
                    continue
                # The gradients of the ranks are averaged. Multiplied by the number of ranks and divided by
                # the photos of all ranks, they are the mean over photos, however unevenly photos are dealt.
                self._network.backward(part * (self._world_size / plan.step_sizes[step]))
            loss += part.detach()
        return loss

    def _validate(self, epoch: int) -> tuple[Means, dict[str, Tensor]]:
        """Give loss and accuracy over all ranks, and all ranks' answers: rows, labels and logits."""
        rows = self._validation_rows()
        sums, answers = Sums.zero(self._device), [self._no_answers()]
        num_photos = self._job.photos[VALIDATION].num_rows - len(self._progress.excluded[VALIDATION])
        emit = self._emitter(epoch, VALIDATION, num_photos)
        self._allow_compiling()
        for images, labels in self._feed.batches(VALIDATION):
            logits = self._network.evaluate(normalise(images))
            sums.add(functional.cross_entropy(logits, labels, reduction="sum"), logits, labels)
            answers.append((labels, logits))
            emit(sums)
        emit(sums, force=True)
        self._gather_unreadable()
        # Copy once: each copy to the host waits for the device.
        mine = tuple(torch.cat(part).cpu() for part in zip(*answers, strict=True))
        read = rows[~np.isin(rows, list(self._progress.excluded[VALIDATION]))]
        found = gather((torch.from_numpy(read), *mine))
        joined = (torch.cat(part) for part in zip(*found, strict=True))
        return sums.means(), dict(zip(("rows", "labels", "logits"), joined, strict=True))

    def _no_answers(self) -> tuple[Tensor, Tensor]:
        """Give labels and logits of no photos: a rank may have no validation photo."""
        num_classes = len(self._job.class_mapping.classes)
        labels = torch.empty(0, dtype=torch.int64, device=self._device)
        return labels, torch.empty(0, num_classes, device=self._device)

    def _available(self, split: str, excluded: Collection[int]) -> IntArray:
        return np.setdiff1d(np.arange(self._job.photos[split].num_rows), np.fromiter(excluded, np.int64))

    def _gather_unreadable(self) -> None:
        """Share each rank's unreadable photos with all ranks, so that all ranks plan the same epochs."""
        # Copies, because the feed's thread may add photos in the middle of an epoch.
        for excluded in gather({split: dict(rows) for split, rows in self._progress.excluded.items()}):
            for split, rows in excluded.items():
                self._progress.excluded[split].update(rows)

    def _is_out_of_time(self, metrics: Mapping[str, Any]) -> bool:
        left_s = self._job.deadline_s - time.time()
        return math.isfinite(left_s) and not all(gather(fits(self._settings, metrics, left_s)))

    def _too_many_unreadable(self) -> str | None:
        num_photos = sum(photos.num_rows for photos in self._job.photos.values())
        try:
            check_unreadable(self._progress.unreadable(), num_photos, self._settings.max_unreadable_share)
        except DataError as error:
            return str(error)  # not raised: Ray would restart the workers
        return None

    def _emitter(self, epoch: int, split: str, total: int) -> Callable[..., None]:
        last_s = time.monotonic()

        def emit(sums: Sums, *, force: bool = False) -> None:
            nonlocal last_s
            self._watchdog.beat()
            self._saver.check()
            if force or time.monotonic() - last_s >= EVENT_INTERVAL_S:
                last_s = time.monotonic()
                loss, correct = float(sums.loss), int(sums.correct)
                part = (self._rank, sums.num_photos, loss, correct, total, self._feed.waited_s)
                send(self._job.events, BatchProgress(epoch, split, *part))

        return emit

    def _allow_compiling(self) -> None:
        if self._settings.compile == "yes":
            self._watchdog.beat(allow_s=COMPILE_S)

    def _give_up(self) -> None:
        """End this process from the watchdog's thread, because the training thread does not react."""
        seconds = self._settings.stall_timeout_s
        with contextlib.suppress(RayError):
            event = Stalled(self._rank, self._progress.epoch + 1, seconds)
            ray.get(send(self._job.events, event), timeout=10)
        os._exit(1)

    def _report_partial(self, begun: PartialEpoch, started_s: float, num_photos: int, sums: Sums) -> None:
        """Save a checkpoint in the middle of an epoch, after num_photos of it."""
        self._gather_unreadable()
        excluded = {split: dict(rows) for split, rows in self._progress.excluded.items()}
        loss_sum, num_correct, num_read = sums.totals()
        seconds = time.monotonic() - started_s
        done = PartialEpoch(begun.excluded, num_photos, loss_sum, num_correct, num_read, seconds)
        self._reports.partial(replace(self._progress, partial=done, excluded=excluded))

    def _restore(self) -> TrainingState:
        progress = TrainingState(EarlyStopping(self._settings.patience))
        for split, photos in self._job.photos.items():
            progress.excluded[split].update(photos.unreadable)
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return progress
        with store_translated(self._settings):
            state = read_state(checkpoint)
        self._network.load(state)
        found, progress = (
            progress.excluded,
            TrainingState.from_plain(state["progress"], patience=self._settings.patience),
        )
        for split, rows in found.items():  # changed or gone since the checkpoint
            progress.excluded[split].update(rows)
        if self._rank == 0:
            num_photos = progress.partial.num_photos if progress.partial is not None else 0
            send(self._job.events, Resumed(tuple(progress.history), num_photos))
        return progress
