"""Where files are until they are whole: `.partial/<random>/` in the folder, on its own file system.

Each process has one, and a lock in it that the system lets go when the process ends, however it ends. Whose
lock can be taken is dead, and what it left is removed. Where there are no such locks (Windows, some network
file systems), a folder of more than a day is taken for dead.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Final, Self

from physiq_ray.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL: Final = ".partial"  # no bucket has such a name
MAX_AGE_S: Final = 86_400.0

_LOCK = "lock"
_NAME = "[0-9a-f]{16}"  # of a process's folder: nothing else in there is removed
_TRIES = 100  # to make a folder that no other process takes for a dead one's


class PartialFolder:
    """A folder of this process alone, as long as a with-block lasts.

    Raises OSError: it cannot be made. StorageError: a link is in its place.
    """

    def __init__(self, folder: Path) -> None:
        """folder: where the whole files go; it is there."""
        self._base = folder / PARTIAL
        self._lock = -1
        self.path = self._base

    def __enter__(self) -> Self:
        if self._base.is_symlink():
            raise StorageError(f"write {self._base}: a link, which is not followed; remove it")
        for _ in range(_TRIES):
            self.path = self._base / secrets.token_hex(8)
            try:
                self._base.mkdir(exist_ok=True)
                self.path.mkdir()
                self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                if self._is_ours():
                    return self
                self.close()
            except FileNotFoundError:  # another process ends just now, and removes what is empty
                self.close()
        raise StorageError(f"write {self._base}: what is made there disappears; see who removes it")

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what is left in it, and the folder of all of them where it is empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        with contextlib.suppress(OSError):  # others are at work
            self._base.rmdir()

    def _is_ours(self) -> bool:
        """Take the lock; false where another process took the new folder for a dead one's first."""
        if not _take(self._lock, is_default=True):
            return False
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._lock), (self.path / _LOCK).stat())
        return False


def remove_dead(folder: Path, *, now_s: float | None = None) -> int:
    """Remove the partial folders of processes that have ended; tell how many there were."""
    now_s = time.time() if now_s is None else now_s
    num_dead = 0
    base = folder / PARTIAL
    if base.is_symlink():
        return 0  # what it leads to is not ours
    try:
        paths = [path for path in base.iterdir() if re.fullmatch(_NAME, path.name)]
    except OSError:
        return 0  # none, or one that says so when it is written to
    for path in paths:
        if _is_dead(path, now_s):
            shutil.rmtree(path, ignore_errors=True)
            num_dead += 1
    with contextlib.suppress(OSError):
        base.rmdir()
    return num_dead


def _is_dead(path: Path, now_s: float) -> bool:
    try:
        is_old = now_s - path.stat().st_mtime > MAX_AGE_S
        lock = os.open(path / _LOCK, os.O_RDWR)
    except OSError:
        # Killed, or not yet done, between making the folder and its lock.
        with contextlib.suppress(OSError):
            return now_s - path.stat().st_mtime > 60
        return False
    try:
        return _take(lock, is_default=is_old)
    finally:
        os.close(lock)


def _take(lock: int, *, is_default: bool) -> bool:
    """Take a file's lock unless another process has it; is_default: where there are no locks."""
    if fcntl is None:
        return is_default
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        return is_default
    return True
