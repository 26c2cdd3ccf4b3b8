"""Loss and accuracy of an epoch: summed on each rank, reduced over all ranks, then read."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from physiq_ray.training.plan import EpochPlan

Item = TypeVar("Item")
NO_STEP = 2**62


@dataclass(frozen=True)
class Means:
    """Loss and accuracy per photo over all ranks, and the number of photos; 0 without photos."""

    loss: float
    accuracy: float
    num_photos: int


@dataclass
class Sums:
    """Running sums over photos. They stay on the device: reading them in each step would stall a GPU."""

    loss: Tensor
    correct: Tensor
    num_photos: int = 0

    @classmethod
    def zero(cls, device: torch.device) -> "Sums":
        """Give sums over no photos."""
        return cls.of(device, 0.0, 0.0, 0)

    @classmethod
    def of(cls, device: torch.device, loss: float, correct: float, num_photos: int) -> "Sums":
        """Give sums over photos that were counted before."""
        return cls(torch.tensor(loss, device=device), torch.tensor(correct, device=device), num_photos)

    def add(self, loss_sum: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count a batch; loss_sum is the sum over its photos."""
        self.loss += loss_sum.detach()
        self.correct += (logits.detach().argmax(dim=1) == labels).sum()
        self.num_photos += len(labels)

    def totals(self) -> tuple[float, float, int]:
        """Give loss, correct photos and photos over all ranks."""
        sums = torch.stack(
            [self.loss.double(), self.correct.double(), torch.tensor(self.num_photos).to(self.loss).double()]
        )
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        loss, correct, num_photos = sums.tolist()
        return loss, correct, int(num_photos)

    def means(self) -> Means:
        """Divide by the photos of all ranks."""
        loss, correct, num_photos = self.totals()
        return Means(loss / max(1, num_photos), correct / max(1, num_photos), num_photos)


@dataclass(frozen=True)
class Divergence:
    """A loss that is not finite: its epoch and step, both counted from 1, and its training rows.

    step: None if it is the validation loss, after the epoch's last step.
    """

    epoch: int
    step: int | None = None
    num_steps: int = 0
    rows: tuple[int, ...] = ()


class FirstBadStep:
    """The first step of an epoch, on any rank, whose loss is not finite; it is not read in each step."""

    def __init__(self, device: torch.device) -> None:
        self._own = torch.full((), NO_STEP, dtype=torch.int64, device=device)
        self._of_all = NO_STEP

    def note(self, step: int, loss: Tensor) -> None:
        """Remember a step, counted from 0, without waiting for the device."""
        bad = torch.where(torch.isfinite(loss), NO_STEP, step)
        self._own = torch.minimum(self._own, bad)

    def was_seen(self) -> bool:
        """Tell whether there was one on any rank; the answer is equal on all ranks."""
        first = self._own.clone()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        self._of_all = int(first)
        return self._of_all < NO_STEP

    def describe(self, epoch: int, plan: EpochPlan) -> Divergence:
        """Name the step, and the rows of the ranks on which it was the first."""
        is_own = int(self._own) == self._of_all
        rows = plan.rows_of_step(self._of_all).tolist() if is_own else []
        all_rows = tuple(row for part in gather(rows) for row in part)
        step, num_steps = plan.first_step + self._of_all + 1, plan.first_step + len(plan.step_sizes)
        return Divergence(epoch, step, num_steps, all_rows)


def gather(item: Item) -> list[Item]:
    """Give every rank's item to every rank, in the ranks' order."""
    if not torch.distributed.is_initialized():
        return [item]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, item)
    return found
