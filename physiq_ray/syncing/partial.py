"""Temporary folders for photos that are not complete yet: `.partial-<machine>-<process>-<random>`.

A photo is written there, on the file system of its folder, and gets its final name only when it is complete.
A sync removes its temporary folder when it ends. If it was killed, the next sync removes what is left: at
once if the process ran on this machine and no longer exists, otherwise when nothing in it has changed for a
day.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_AGE_S: Final = 86_400.0

_NAME: Final = re.compile(r"\.partial-([0-9a-f]{8})-(\d{1,9})-\w+")  # no bucket's name begins with a dot


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder in `folder`, for this process alone, and remove it at the end of the block.

    Raises OSError: it cannot be created.
    """
    path = Path(tempfile.mkdtemp(prefix=f".partial-{name_machine()}-{os.getpid()}-", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(folder: Path, *, now_s: float | None = None) -> int:
    """Remove the temporary folders of syncs that were killed; tell how many there were."""
    now_s = time.time() if now_s is None else now_s
    try:
        paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink()]
    except OSError:
        return 0  # the folder does not exist; any other error is raised when a photo is written
    abandoned = [path for path in paths if _is_abandoned(path, now_s)]
    for path in abandoned:
        shutil.rmtree(path, ignore_errors=True)
    return len(abandoned)


def name_machine() -> str:
    """Identify what a process number belongs to: the machine since its start, and on Linux the container."""
    words = [platform.node()]
    with contextlib.suppress(OSError):
        boot, container = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
        words += [boot.read_text(), str(container.readlink())]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:8]


def _is_abandoned(path: Path, now_s: float) -> bool:
    """Tell whether no sync uses a temporary folder any more.

    | machine | process        | unchanged for | abandoned |
    |---------|----------------|---------------|-----------|
    | this    | has ended      |               | yes       |
    | this    | exists         |               | no        |
    | another | cannot be seen | up to a day   | no        |
    | another | cannot be seen | more          | yes       |
    """
    name = _NAME.fullmatch(path.name)
    if name is not None and name[1] == name_machine() and os.name == "posix":
        return not _exists(int(name[2]))
    try:
        changed_s = max(found.stat().st_mtime for found in (path, *path.iterdir()))
    except OSError:  # its sync is just now changing or removing it
        return False
    return now_s - changed_s > MAX_AGE_S


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing; on Windows it would end the process
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True
