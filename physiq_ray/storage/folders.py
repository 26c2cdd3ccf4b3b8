"""Local folders as sources: which files they contain, in the columns of a listing.

Hidden files and folders are left out. Links are followed, and each folder is read once. A folder that cannot
be read is an error, because a listing without it would be incomplete and nobody would notice.
"""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from physiq_ray.errors import StorageError
from physiq_ray.storage.etag import file_etag, file_md5
from physiq_ray.storage.objects import translate_os

MD5_THREADS = 8


@dataclass(frozen=True)
class FolderPage:
    """The files of one sub-folder by column: path below the source, size in bytes, ETag, time of change."""

    keys: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    etags: list[str] = field(default_factory=list)
    modified: list[datetime] = field(default_factory=list)


def list_files(folder: Path) -> Iterator[FolderPage]:
    """Give all files of a folder and its sub-folders, one page for each.

    Raises StorageError: it is no folder, or a part of it cannot be read.
    """

    def refuse(error: OSError) -> None:
        # Without this, os.walk ignores a folder that it cannot read.
        raise translate_os(error, f"list {error.filename}") from error

    try:
        is_file = stat.S_ISREG(folder.stat().st_mode)
    except OSError as error:
        raise translate_os(error, f"list {folder}") from error
    if is_file:
        raise StorageError(f"list {folder}: not a folder")
    for parent, names in _walk(folder, refuse):
        page = FolderPage()
        for name in names:
            if name.startswith("."):
                continue
            path = Path(parent, name)
            try:
                status = path.stat()
            except FileNotFoundError:  # a broken link, or deleted after its folder was read
                continue
            except OSError as error:
                raise translate_os(error, f"list {path}") from error
            if stat.S_ISREG(status.st_mode):
                page.keys.append(path.relative_to(folder).as_posix())
                page.sizes.append(status.st_size)
                page.etags.append(file_etag(status))
                page.modified.append(datetime.fromtimestamp(status.st_mtime, UTC))
        yield page


def list_file_names(folder: Path) -> tuple[str, ...]:
    """Give the sorted names of the files directly in a folder; a missing folder has none.

    Raises StorageError: it cannot be read.
    """
    try:
        return tuple(sorted(path.name for path in folder.iterdir() if path.is_file()))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise translate_os(error, f"list {folder}") from error


def hash_files(paths: Sequence[str]) -> list[str]:
    """Give the MD5 of each file, MD5_THREADS read at a time. Raises StorageError."""
    with ThreadPoolExecutor(MD5_THREADS) as threads:
        return list(threads.map(_hash_file, paths))


def _hash_file(path: str) -> str:
    try:
        return file_md5(Path(path))
    except OSError as error:
        raise translate_os(error, f"read {path}") from error


def _walk(top: Path, refuse: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Give each folder that is not hidden, once, with the names of its files; links to folders are followed.

    Real folders come before links: a photo keeps its path without links, which may name its pose.
    """
    visited: set[Path] = set()
    starts = deque([str(top)])
    while starts:
        for parent, folders, files in os.walk(starts.popleft(), onerror=refuse):
            real = Path(parent).resolve()
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            kept = sorted(name for name in folders if not name.startswith("."))
            is_link = {name: Path(parent, name).is_symlink() for name in kept}
            starts.extend(f"{parent}/{name}" for name in kept if is_link[name])
            folders[:] = [name for name in kept if not is_link[name]]
            yield parent, files
