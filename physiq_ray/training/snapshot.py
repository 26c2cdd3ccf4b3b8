"""Ray's list of a run's checkpoints, and its repair after a kill.

Ray Train overwrites the list in place after each epoch, and refuses to start if the list is torn. It deletes
old checkpoints only afterwards, so all checkpoints in a copy of the list from the epoch before still exist.
"""

import json
from typing import Any

from ray.train import UserCallback

from physiq_ray.errors import NotFoundError, StorageError, TrainingError
from physiq_ray.storage import join_uri, read_bytes, write_bytes

SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"  # Ray's name for it
COPY_FILE = "checkpoint_manager_snapshot.copy.json"


class CopySnapshot(UserCallback):
    """Copy the list after each epoch's checkpoint was added; this runs in the controller's process."""

    def __init__(self, folder: str) -> None:
        """folder: the run's, a path or s3:// address."""
        self._folder = folder

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Write the copy; if the store is briefly away, the next epoch writes it."""
        del run_context, metrics, checkpoint
        try:
            write_bytes(read_bytes(join_uri(self._folder, SNAPSHOT_FILE)), join_uri(self._folder, COPY_FILE))
        except StorageError:
            return


def has_checkpoint(folder: str) -> bool:
    """Tell whether the run of a folder has a checkpoint, after repairing its list if it is torn.

    Raises TrainingError: torn, and no copy of it. StorageError: could not look.
    """
    uri = join_uri(folder, SNAPSHOT_FILE)
    try:
        listed = read_bytes(uri)
    except NotFoundError:
        return False
    if not _is_whole(listed):
        try:
            copy = read_bytes(join_uri(folder, COPY_FILE))
        except NotFoundError as error:
            raise TrainingError(
                f"{uri}: cut off in the middle, before a second epoch was done; delete it, and --resume "
                "starts at epoch 1"
            ) from error
        write_bytes(copy, uri)
    return True


def _is_whole(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
