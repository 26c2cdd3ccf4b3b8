"""What a checkpoint contains, and how it is written and read."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch

from physiq_ray.checkpoint import translated_disk
from physiq_ray.manifest import TRAIN, VALIDATION
from physiq_ray.model import read_tensors
from physiq_ray.quarantine import Unreadable
from physiq_ray.training.plan import EarlyStopping

STATE_FILE = "state.pt"


@dataclass(frozen=True)
class PartialEpoch:
    """What an epoch did before a checkpoint in its middle.

    excluded: rows of the training photos that the epoch's order leaves out. num_photos: the first photos of
    this order, over all ranks, which must not train again. loss_sum, num_correct, num_read: sums over those
    of them that could be read. seconds: since the epoch began.
    """

    excluded: frozenset[int]
    num_photos: int = 0
    loss_sum: float = 0.0
    num_correct: float = 0.0
    num_read: int = 0
    seconds: float = 0.0


@dataclass
class TrainingState:
    """The state of a run, which a checkpoint contains in addition to the network's state.

    epoch: the last one that is complete, counted from 1. partial: what the next one did, if the checkpoint is
    in its middle. excluded: by split, the unreadable photos by row.
    """

    early_stopping: EarlyStopping
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    excluded: dict[str, dict[int, Unreadable]] = field(default_factory=lambda: {TRAIN: {}, VALIDATION: {}})
    partial: PartialEpoch | None = None

    def unreadable(self) -> tuple[Unreadable, ...]:
        """All unreadable photos so far."""
        return tuple(item for split in (TRAIN, VALIDATION) for item in self.excluded[split].values())

    def to_plain(self) -> dict[str, Any]:
        """Give plain values, which the restricted unpickler accepts."""
        excluded = {
            split: {row: asdict(item) for row, item in rows.items()} for split, rows in self.excluded.items()
        }
        partial = asdict(self.partial) if self.partial is not None else None
        if partial is not None:
            partial["excluded"] = sorted(partial["excluded"])
        return {
            "early_stopping": asdict(self.early_stopping),
            "epoch": self.epoch,
            "partial": partial,
            "history": list(self.history),
            "excluded": excluded,
        }

    @classmethod
    def from_plain(cls, value: Mapping[str, Any], *, patience: int) -> "TrainingState":
        """Read what `to_plain` wrote; the patience is the current setting's."""
        excluded = {
            split: {int(row): Unreadable(**item) for row, item in rows.items()}
            for split, rows in value["excluded"].items()
        }
        stopping = EarlyStopping(**{**value["early_stopping"], "patience": patience})
        partial = value.get("partial")  # a checkpoint of an earlier version has none
        if partial:
            partial = PartialEpoch(**{**partial, "excluded": frozenset(partial["excluded"])})
        return cls(stopping, value["epoch"], list(value["history"]), excluded, partial)


@contextmanager
def saved_state(state: Mapping[str, Any]) -> Iterator[ray.train.Checkpoint]:
    """Write a state into a temporary folder; give it as a checkpoint that can be reported while inside.

    Raises StorageError: no space left for it.
    """
    with tempfile.TemporaryDirectory() as folder:
        with translated_disk("checkpoint"), Path(folder, STATE_FILE).open("wb") as file:
            torch.save(state, file)
        yield ray.train.Checkpoint.from_directory(folder)


def read_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """Read what a worker saved: the network's state, progress, class_mapping and validation."""
    with checkpoint.as_directory() as folder:
        path = Path(folder, STATE_FILE)
        state: dict[str, Any] = read_tensors(path.read_bytes(), name=f"{checkpoint.path}/{STATE_FILE}")
    return state
