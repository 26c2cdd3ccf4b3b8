"""Listing × folder → which photos to download, to skip, or to refuse; nothing is written here.

A file's time of change stores its version: the whole seconds are those of the object, and the nanoseconds are
a hash of its ETag. So one `stat` tells whether it is the listed version, and no index is needed. `aws s3
sync` compares size and age instead, and skips an object that was overwritten by one of equal size if the file
is younger. The cost: a file's time is not that of its download, and on a file system with coarse times (2 s
in FAT) each file whose ETag is an MD5 is read in every run. A file from another program has another time; it
is read once, and then gets the right one.

| file             | time of change     | ETag      |                             |
|------------------|--------------------|-----------|-----------------------------|
| absent           |                    |           | download                    |
| a link, a folder |                    |           | refuse                      |
| other size       |                    |           | download                    |
| same size        | the version's      |           | skip                        |
| same size        | other              | an MD5    | compare, then skip or not   |
| same size        | same, but rounded  | multipart | skip                        |
| same size        | other              | multipart | download                    |
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from physiq_ray.storage.etag import is_md5

BLOCK_BYTES: Final = 4096  # the least that a file takes on a disk

_SECOND_NS = 10**9
# File systems round times down: NTFS to 100 ns, some network file systems to 1 µs. A hash rounded to that
# still distinguishes two ETags, except one pair in a million.
_FINE_NS = (100, 1_000)
_COARSE_NS = (1_000_000, _SECOND_NS, 2 * _SECOND_NS)


class Photo(NamedTuple):
    """A listed photo and the path of its file; source: its number among the sources."""

    uri: str
    path: str  # below the folder, with "/"
    size: int  # bytes
    etag: str
    modified_s: int
    source: int


class Found(NamedTuple):
    """What is at a path. kind: "file", "absent", or the reason why nothing may be written there."""

    kind: str
    size: int = -1
    mtime_ns: int = -1


ABSENT: Final = Found("absent")


@dataclass(frozen=True)
class Plan:
    """What to do with each photo, in their order; refused: photo and reason."""

    downloads: list[Photo] = field(default_factory=list)
    comparisons: list[Photo] = field(default_factory=list)
    skips: list[Photo] = field(default_factory=list)
    refused: list[tuple[Photo, str]] = field(default_factory=list)


def version_ns(etag: str, modified_s: int) -> int:
    """Give the time of change, in nanoseconds, that marks a file as this version."""
    digest = hashlib.sha256(etag.encode()).digest()
    return modified_s * _SECOND_NS + int.from_bytes(digest[:8]) % _SECOND_NS


def plan_downloads(
    photos: Sequence[Photo], look: Callable[[str], Found], clashes: dict[str, str] | None = None
) -> Plan:
    """Decide what to do with each photo, by what `look` finds at its path.

    clashes: paths that this file system does not distinguish from another path → that other path.
    """
    plan = Plan()
    for photo in photos:
        if clashes and photo.path in clashes:
            plan.refused.append(
                (
                    photo,
                    "the file system of the folder cannot distinguish its name from that of "
                    f"{clashes[photo.path]}; rename one of the two photos",
                )
            )
            continue
        found = look(photo.path)
        if found.kind == "absent":
            plan.downloads.append(photo)
        elif found.kind != "file":
            plan.refused.append((photo, found.kind))
        elif found.size != photo.size:
            plan.downloads.append(photo)
        else:
            _by_time(plan, photo, found.mtime_ns)
    return plan


def _by_time(plan: Plan, photo: Photo, mtime_ns: int) -> None:
    expected = version_ns(photo.etag, photo.modified_s)
    if mtime_ns == expected or any(mtime_ns == expected - expected % unit for unit in _FINE_NS):
        plan.skips.append(photo)
    elif is_md5(photo.etag):
        plan.comparisons.append(photo)
    elif any(mtime_ns == expected - expected % unit for unit in _COARSE_NS):
        plan.skips.append(photo)
    else:
        plan.downloads.append(photo)


def needed_bytes(photos: Sequence[Photo]) -> int:
    """Give the bytes that photos take on a disk, each rounded up to whole blocks."""
    return sum(-(-photo.size // BLOCK_BYTES) * BLOCK_BYTES for photo in photos)


class LocalFiles:
    """The files in a folder; each sub-folder is read once and kept. Links are reported and never followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._read: dict[str, dict[str, os.DirEntry[str]] | Found] = {}

    def look(self, path: str) -> Found:
        """Find out what is at a path below the folder.

        Raises OSError: a sub-folder cannot be read.
        """
        entry = self._entry(path)
        if isinstance(entry, Found):
            return entry
        if entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            return Found("file", status.st_size, status.st_mtime_ns)
        what = "a folder" if entry.is_dir(follow_symlinks=False) else "no file"
        return Found(f"{path} is {what}; move it away")

    def names(self, path: str) -> list[str]:
        """Give the sorted names in a sub-folder; none if it is absent, a link or a file."""
        entries = self._entries(path)
        return [] if isinstance(entries, Found) else sorted(entries)

    def _entry(self, path: str) -> os.DirEntry[str] | Found:
        """Find the file or folder at a path, or say what is there instead."""
        parent, _, name = path.rpartition("/")
        entries = self._entries(parent)
        if isinstance(entries, Found):
            return entries
        entry = entries.get(name)
        if entry is None:
            return ABSENT
        if entry.is_symlink():
            return Found(f"{path} is a link, which is not followed; remove it")
        return entry

    def _entries(self, path: str) -> dict[str, os.DirEntry[str]] | Found:
        known = self._read.get(path)
        if known is None:
            known = self._read[path] = self._scan(path)
        return known

    def _scan(self, path: str) -> dict[str, os.DirEntry[str]] | Found:
        """Read a sub-folder, or say why it cannot be read."""
        if path:
            entry = self._entry(path)
            if isinstance(entry, Found):
                return entry
            if not entry.is_dir(follow_symlinks=False):
                return Found(f"{path} is a file where a folder should be; move it away")
        try:
            with os.scandir(f"{self._folder}/{path}") as entries:
                return {entry.name: entry for entry in entries}
        except FileNotFoundError:
            return ABSENT
