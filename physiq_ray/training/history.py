"""The epochs of a run as files next to the model: history.json, and logs for TensorBoard.

Both are rewritten after each epoch. So a run can be followed while it trains, also on S3, and a resumed run
has a single curve.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from physiq_ray.errors import StorageError
from physiq_ray.storage import join_uri, write_bytes, write_file
from physiq_ray.training.events import EpochDone, Event, Resumed

HISTORY_FILE = "history.json"
TENSORBOARD_FOLDER = "tensorboard"
# Values with the same prefix share a chart.
SCALARS = {
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "validation_accuracy",
    "learning_rate": "learning_rate",
    "seconds": "seconds",
}


class HistoryFiles:
    """Keep the files up to date with a run's events, in a folder or s3:// prefix."""

    def __init__(self, output: str, run_name: str) -> None:
        self._output, self._run_name = output, run_name
        self._epochs: list[Mapping[str, Any]] = []

    def handle(self, event: Event) -> None:
        """Handle one event; if the store is briefly away, the next epoch writes the files."""
        if isinstance(event, Resumed):
            self._epochs = list(event.history)
        elif isinstance(event, EpochDone):
            self._epochs.append(event.metrics)
            try:
                write_history(self._epochs, self._output, self._run_name)
            except (StorageError, OSError):  # of the store, or of this machine's temporary folder
                return  # the end of the run writes them again, and reports what is wrong


def write_history(history: Sequence[Mapping[str, Any]], output: str, run_name: str) -> tuple[str, ...]:
    """Write history.json and the TensorBoard log; give their uris.

    Raises StorageError.
    """
    history_uri = join_uri(output, HISTORY_FILE)
    write_bytes((json.dumps(list(history), indent=2) + "\n").encode(), history_uri)
    log_uri = join_uri(output, TENSORBOARD_FOLDER, f"events.out.tfevents.{run_name}")
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for epoch in history:
                for tag, key in SCALARS.items():
                    writer.add_scalar(tag, epoch[key], epoch["epoch"], walltime=epoch["time"])
        (log,) = Path(folder).iterdir()
        write_file(log, log_uri)
    return history_uri, log_uri
