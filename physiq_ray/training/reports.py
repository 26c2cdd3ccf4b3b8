"""The checkpoints of a run: what they are called, what they contain, and how they are reported to Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
from torch import Tensor

from physiq_ray.storage import join_uri
from physiq_ray.training.events import PARTIAL_PHOTOS
from physiq_ray.training.faults import partial_removed, store_translated
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.job import Job
from physiq_ray.training.network import Network
from physiq_ray.training.plan import checkpoint_score
from physiq_ray.training.saving import HostCopy, Saver
from physiq_ray.training.state import TrainingState, saved_state

# Lower than the score of each complete epoch, so that such a checkpoint is never the best one.
PARTIAL_SCORE = -1.0


@dataclass(frozen=True)
class Reports:
    """One rank's side of each checkpoint. All ranks report; rank 0 also writes it."""

    job: Job
    rank: int
    network: Network
    saver: Saver

    def epoch(
        self, metrics: Mapping[str, Any], progress: TrainingState, answers: Mapping[str, Tensor]
    ) -> None:
        """Save the checkpoint of a complete epoch; answers: to all validation photos."""
        score = checkpoint_score(metrics["validation_accuracy"], progress.epoch)
        name = f"epoch-{progress.epoch:04d}"
        self._save(name, {**metrics, "checkpoint_score": score}, progress, validation=answers)

    def partial(self, progress: TrainingState) -> None:
        """Save a checkpoint in the middle of an epoch, which progress.partial describes."""
        assert progress.partial is not None
        epoch, num_photos = progress.epoch + 1, progress.partial.num_photos
        metrics = {"epoch": epoch, PARTIAL_PHOTOS: num_photos, "checkpoint_score": PARTIAL_SCORE}
        self._save(f"epoch-{epoch:04d}-photos-{num_photos:09d}", metrics, progress)

    def _save(self, name: str, metrics: dict[str, Any], progress: TrainingState, **more: Any) -> None:
        """Copy the checkpoint's content; it is saved and reported while the training continues."""
        self.saver.wait()  # before the copy, so that there is only one copy
        report = partial(self.job.report or ray.train.report, metrics, checkpoint_dir_name=name)
        if self.rank != 0:
            self.saver.save(report)
            return
        settings = self.job.settings
        rest = {
            "progress": progress.to_plain(),
            "class_mapping": self.job.class_mapping.to_dict(),
            **more,
        }
        folder = RunFolder(settings.storage, ray.train.get_context().get_experiment_name())
        copy = HostCopy(self.network.state(), self.network.device)  # nothing changes the rest any more

        def write() -> None:
            with (
                store_translated(settings),
                saved_state(copy.wait() | rest) as checkpoint,
                partial_removed(join_uri(folder.uri, name)),
            ):
                report(checkpoint=checkpoint)

        self.saver.save(write)
