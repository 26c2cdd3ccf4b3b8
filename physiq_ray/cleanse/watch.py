"""The label files between the scan and the last deletion: read again where one of them has changed.

A look costs one `stat` a file, or one request where it lies in S3; only a change costs a reading.
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

TRIES = 5  # to read files that are being written

FileState = tuple[str | int, ...]


def look_at_file(address: str) -> FileState:
    """Give what changes whenever a file or an s3:// object is written; equal where it is not there.

    Raises StorageError: S3 gives no answer.
    """
    if address.startswith("s3://"):
        found = find_object(*split_uri(address))
        return (found.etag, found.size) if found is not None else ()
    try:
        if not stat.S_ISREG(Path(address).stat().st_mode):
            return ("stream",)  # a pipe, which can be read once
        with Path(address).open("rb") as file:  # opened, as NFS may answer a stat from its memory
            found_file = os.fstat(file.fileno())
    except OSError as error:
        return (error.errno or 0,)  # the reading says what is wrong
    return (
        found_file.st_dev,
        found_file.st_ino,
        found_file.st_size,
        found_file.st_mtime_ns,
        found_file.st_ctime_ns,
    )


class LabelFiles:
    """The poses and labels of the settings' files, as they were read last."""

    def __init__(self, settings: CleanseSettings) -> None:
        """Read them. Raises LabelError, StorageError."""
        self._settings = settings
        self._addresses = (settings.poses, *settings.labels)
        self._states: tuple[FileState, ...] | None = None
        self.poses: dict[int, str] = {}
        self.labels: Labels
        self.refresh()

    def refresh(self) -> bool:
        """Read the files again if one of them has changed; tell whether.

        Raises LabelError: they cannot be read or do not come to rest. StorageError.
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
            f"{', '.join(self._addresses)}: changed while they were read, {TRIES} times; "
            "try again when nobody writes them"
        )

    def _look(self) -> tuple[FileState, ...]:
        return tuple(look_at_file(address) for address in self._addresses)


class Recheck:
    """Gives a confirmed plan as the labels of now have it; `plan_again` makes it from files just read."""

    def __init__(
        self, files: LabelFiles, confirmed: CleansePlan, plan_again: Callable[[], CleansePlan]
    ) -> None:
        self._files, self._latest, self._plan_again = files, confirmed, plan_again
        self._is_current = True

    def __call__(self) -> CleansePlan:
        """Give the latest plan, the same object where no file changed.

        Raises LabelError: the files cannot be read or hold no label.
        """
        try:
            if self._files.refresh():
                self._is_current = False
            if not self._is_current:  # also where the files were read, but no plan came of them
                self._latest = self._plan_again()
                self._is_current = True
        except PhysiqError as error:
            raise LabelError(f"the label file changed: {error}") from error
        return self._latest
