"""What training leaves at the end of a run, for tests of `finish` that train nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray.train
import torch

from physiq_ray.training.history import SCALARS
from physiq_ray.training.outcome import Outcome
from physiq_ray.training.plan import EarlyStopping
from physiq_ray.training.state import STATE_FILE, TrainingState

METRICS = dict.fromkeys((*SCALARS.values(), "train_photos", "validation_photos"), 0.5)


def save_checkpoint(
    folder: Path, epoch: int, model: dict[str, Any], validation: dict[str, Any]
) -> ray.train.Checkpoint:
    """Save the checkpoint of an epoch; validation: rows, labels and logits of the validation photos."""
    history = [{**METRICS, "epoch": done, "time": 1.7e9, "status": ""} for done in range(1, epoch + 1)]
    state = {
        "model": model,
        "optimizer": {},
        "progress": TrainingState(EarlyStopping(1), epoch, history).to_plain(),
        "validation": validation,
    }
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / STATE_FILE)
    return ray.train.Checkpoint.from_directory(folder)


def result_of(checkpoint: ray.train.Checkpoint) -> SimpleNamespace:
    """Give Ray's result of a run whose only epoch has this checkpoint."""
    return SimpleNamespace(
        return_value=Outcome(()),
        checkpoint=checkpoint,
        best_checkpoints=[(checkpoint, {**METRICS, "epoch": 1, "checkpoint_score": 0.5})],
    )
