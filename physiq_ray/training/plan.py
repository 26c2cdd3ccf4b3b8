"""The decisions of a run as functions of values.

They say which rank takes which photos, the learning rate, and when to stop. They use no Ray, no clock and no
state, so all ranks decide alike.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from physiq_ray.config import Settings

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EpochPlan:
    """One rank's part of a training epoch, or of the rest of an epoch that resumes.

    rows: int64, the photos in order, which are read in batches of batch_size. step_sizes: photos of all ranks
    in each step. part_sizes: photos of this rank in each step, which may be 0 in the last step. num_batches:
    batches in each step, equal on all ranks; the last ones may be empty. num_done: photos of all ranks in the
    steps before. first_step: how many steps those were.
    """

    rows: IntArray
    batch_size: int
    step_sizes: tuple[int, ...]
    part_sizes: tuple[int, ...]
    num_batches: tuple[int, ...]
    num_done: int = 0
    first_step: int = 0

    @property
    def photos_before(self) -> tuple[int, ...]:
        """The photos of all ranks that the epoch takes before each step, and at last all of them."""
        return tuple(itertools.accumulate(self.step_sizes, initial=self.num_done))

    def rows_of_step(self, step: int) -> IntArray:
        """Give this rank's rows in a step, steps counted from 0."""
        start = sum(self.part_sizes[:step])
        return self.rows[start : start + self.part_sizes[step]]


def plan_epoch(
    available: IntArray,
    *,
    batch_size: int,
    world_size: int,
    world_rank: int,
    seed: int,
    epoch: int,
    accumulation: int = 1,
    num_done: int = 0,
) -> EpochPlan:
    """Deal the available rows to the ranks, in an order that the seed and the epoch decide.

    Step k takes the next batch_size · accumulation · world_size rows of one permutation. So equal global
    batches contain the same photos for any number of workers. The remaining rows make one more step, dealt
    evenly, unless they are less than half a step: so few photos would disturb the batch norms.

    num_done: the first photos of the permutation, which the epoch took before it was interrupted. The plan
    deals the others, also to another number of workers.
    """
    order = np.random.default_rng((seed, epoch)).permutation(np.sort(available))[num_done:]
    share = batch_size * accumulation
    step = share * world_size
    num_full, rest = divmod(len(order), step)
    sizes = [step] * num_full
    parts = [order[k * step + world_rank * share :][:share] for k in range(num_full)]
    if rest and (2 * rest >= step or not num_full):
        sizes.append(rest)
        parts.append(np.array_split(order[num_full * step :], world_size)[world_rank])
    return EpochPlan(
        rows=np.concatenate(parts) if parts else order[:0],
        batch_size=batch_size,
        step_sizes=tuple(sizes),
        part_sizes=tuple(map(len, parts)),
        num_batches=tuple(math.ceil(math.ceil(size / world_size) / batch_size) for size in sizes),
        num_done=num_done,
        first_step=math.ceil(num_done / step),
    )


def validation_rows(available: IntArray, *, world_size: int, world_rank: int) -> IntArray:
    """Deal each available row to exactly one rank."""
    return available[world_rank::world_size]


@dataclass(frozen=True)
class EarlyStopping:
    """Patience as a value: the latest epoch, the best one, and the epochs since then, counted from 1."""

    patience: int
    epoch: int = 0
    best_accuracy: float = -1.0
    best_epoch: int = 0
    waited: int = 0

    def after(self, epoch: int, accuracy: float, *, counts: bool = True) -> "EarlyStopping":
        """Give the state after an epoch's validation; only a strictly higher accuracy is better.

        counts: whether this epoch counts against the patience.
        """
        if accuracy > self.best_accuracy:
            return replace(self, epoch=epoch, best_accuracy=accuracy, best_epoch=epoch, waited=0)
        return replace(self, epoch=epoch, waited=self.waited + counts)

    @property
    def is_finished(self) -> bool:
        """Whether patience has run out."""
        return self.waited >= self.patience

    @property
    def status(self) -> str:
        """The status of the latest epoch in the epoch table."""
        if self.epoch == self.best_epoch:
            return "✓ Best Model"
        return "Early Stop" if self.is_finished else f"Wait {self.waited}/{self.patience}"


def fits(settings: Settings, latest: Mapping[str, Any], left_s: float) -> bool:
    """Tell whether the epoch after the latest one ends within the time left, or no epoch is left.

    latest: the values of the latest epoch, as in the history. An epoch takes as long as the one before; if it
    trains at a larger size, the training takes longer in proportion to the pixels.
    """
    epoch = latest["epoch"] + 1
    if epoch > settings.epochs:
        return True
    growth = (train_size(settings, epoch) / latest["train_size"]) ** 2
    return float(latest["seconds"] + (growth - 1) * latest["train_seconds"]) <= left_s


def checkpoint_score(accuracy: float, epoch: int) -> float:
    """Order checkpoints by validation accuracy; of two equal ones, the earlier one scores higher.

    Ray would keep the later one, while early stopping counts from the earlier one. 1e-9 is less than any
    difference between two accuracies.
    """
    return accuracy - 1e-9 * epoch


def learning_rate(settings: Settings, epochs_done: float) -> float:
    """Give Adam's learning rate after a number of epochs, which may be fractional.

    constant: always settings.learning_rate. cosine: a linear rise over warmup_epochs, then half a cosine
    down to zero at settings.epochs (Loshchilov and Hutter 2017, without restarts).
    """
    if settings.schedule == "constant":
        return settings.learning_rate
    if epochs_done < settings.warmup_epochs:
        # Not from zero: the first step would change nothing.
        return settings.learning_rate * max(0.01, epochs_done / settings.warmup_epochs)
    span = max(1e-9, settings.epochs - settings.warmup_epochs)
    done = min(1.0, (epochs_done - settings.warmup_epochs) / span)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train_size(settings: Settings, epoch: int) -> int:
    """Give the side in pixels to train at in an epoch; each of train_sizes gets an equal share of the epochs.

    Small images train faster, and convolutions learn at any size (Howard 2018, "Training Imagenet in 3 hours
    for 25 minutes").
    """
    sizes = settings.train_sizes
    if not sizes:
        return settings.image_size
    return sizes[min(len(sizes) - 1, (epoch - 1) * len(sizes) // settings.epochs)]


def may_stop(settings: Settings, epoch: int) -> bool:
    """Tell whether an epoch without a better score counts against the patience.

    It does not before the whole network trains at the full size: a plateau before that is expected.
    """
    return epoch > settings.head_epochs and train_size(settings, epoch) == settings.image_size


def balanced_weights(class_indices: IntArray, num_classes: int) -> tuple[float, ...]:
    """Weigh each class by the inverse of its share: classes weigh the same, and photos 1 on average.

    n / (k · n_c), as scikit-learn's "balanced" (King and Zeng 2001); 0 for a class without photos.
    """
    counts = np.bincount(class_indices, minlength=num_classes)
    num_present = np.count_nonzero(counts)
    weights = np.divide(counts.sum(), num_present * counts, out=np.zeros(num_classes), where=counts > 0)
    return tuple(weights.tolist())
