"""The label files between the scan and the last deletion: they are read again if one of them has changed.

To find that out costs one `stat` for each file, or one request for a file in S3.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from physiq_ray.cleanse.plan import CleansePlan
from physiq_ray.config import CleanseSettings
from physiq_ray.errors import LabelError, PhysiqError
from physiq_ray.labels import Labels, load_configured_labels, load_configured_poses
from physiq_ray.storage import split_uri
from physiq_ray.storage.versions import find_object

TRIES = 5  # to read files while somebody writes them

FileState = tuple[str | int, ...]


def look_at_file(address: str) -> FileState:
    """Give values that change with every write to a file or s3:// object, and are constant if it is absent.

    Raises StorageError: S3 does not answer.
    """
    if address.startswith("s3://"):
        found = find_object(*split_uri(address))
        return (found.etag, found.size) if found is not None else ()
    try:
        if not stat.S_ISREG(Path(address).stat().st_mode):
            return ("stream",)  # a pipe, which can be read only once
        with Path(address).open("rb") as file:  # opened, because NFS may answer a stat from its cache
            found_file = os.fstat(file.fileno())
    except OSError as error:
        return (error.errno or 0,)  # reading the file will report what is wrong
    return (
        found_file.st_dev,
        found_file.st_ino,
        found_file.st_size,
        found_file.st_mtime_ns,
        found_file.st_ctime_ns,
    )


class LabelFiles:
    """The poses and labels of the settings' files, as they were when last read."""

    def __init__(self, settings: CleanseSettings) -> None:
        """Read them. Raises LabelError, StorageError."""
        self._settings = settings
        self._addresses = (settings.poses, *settings.labels)
        self._states: tuple[FileState, ...] | None = None
        self.poses: dict[int, str] = {}
        self.labels: Labels
        self.refresh()

    def refresh(self) -> bool:
        """Read the files again if one of them has changed, and tell whether one has.

        Raises LabelError: they cannot be read, or change during every attempt. StorageError.
        """
        states = self._look()
        if states == self._states:
            return False
        for _ in range(TRIES):
            before = states
            poses = load_configured_poses(self._settings)
            labels = load_configured_labels(self._settings, poses)
            states = self._look()
            if states == before:
                self.poses, self.labels, self._states = poses, labels, states
                return True
        raise LabelError(
            f"{', '.join(self._addresses)}: changed while they were read, {TRIES} times; try again when "
            "nobody writes them"
        )

    def _look(self) -> tuple[FileState, ...]:
        return tuple(look_at_file(address) for address in self._addresses)


class Recheck:
    """Compares a confirmed plan with the current labels; `plan_again` makes a new plan from them."""

    def __init__(
        self, files: LabelFiles, confirmed: CleansePlan, plan_again: Callable[[], CleansePlan]
    ) -> None:
        self._files, self._latest, self._plan_again = files, confirmed, plan_again
        self._is_current = True

    def __call__(self) -> CleansePlan:
        """Give the latest plan, which is the same object if no file changed.

        Raises LabelError: the files cannot be read or contain no label.
        """
        try:
            if self._files.refresh():
                self._is_current = False
            if not self._is_current:  # also if the files were read before, but making a plan failed
                self._latest = self._plan_again()
                self._is_current = True
        except PhysiqError as error:
            raise LabelError(f"the label file changed: {error}") from error
        return self._latest
