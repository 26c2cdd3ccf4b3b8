"""The journal `deleted-<time>.jsonl`: it names every photo before and after its removal.

A photo's first line is on the disk before its removal is requested; the second says what happened. If the
command was killed in between, only the first exists, and `--restore` checks what is in the bucket. The lines:

    {"state": "deleting", "uri": …, "size": …, "etag": …, "modified": …}      or "moving", with "moved_to"
    {"state": "deleted", "uri": …, "delete_marker": …}       or "moved", "changed", "gone", "failed": "error"
"""

import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from physiq_ray.errors import CleanseError

REMOVAL = "deleted"
DELETING, MOVING, MOVED = "deleting", "moving", "moved"
STATES = (DELETING, MOVING, MOVED, "deleted", "changed", "gone", "failed")


@dataclass(frozen=True)
class Entry:
    """What the journal says about one photo, from all of its lines; state: that of the last line."""

    uri: str
    state: str
    size: int
    etag: str
    moved_to: str | None = None
    delete_marker: str | None = None


class Journal:
    """A journal that is being written; the lines of a call are on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        """Create the file. Raises CleanseError: a file of that name exists, or it cannot be created."""
        self.path = path
        self._lock = threading.Lock()
        try:
            self._file = path.open("x", encoding="utf-8")
        except OSError as error:
            raise CleanseError(
                f"{path}: the journal cannot be created, so nothing is deleted: {error.strerror}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines. Raises CleanseError: the disk is full or gone; then nothing more may be deleted."""
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        with self._lock:
            try:
                self._file.write(text)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise CleanseError(
                    f"{self.path}: the journal cannot be written: {error.strerror}; nothing more is deleted"
                ) from error


def find_journals(folder: Path) -> list[Path]:
    """Find the journals of `cleanse` in a folder, oldest first."""
    return sorted(folder.glob(f"{REMOVAL}-*.jsonl"))


def name_journal(folder: Path, now: datetime, kind: str = REMOVAL) -> Path:
    """Give a name for a new journal; kind: the first word of the name."""
    stem = f"{kind}-{now:%Y%m%dT%H%M%SZ}"
    path, number = folder / f"{stem}.jsonl", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.jsonl"
    return path


def read_journal(path: Path) -> list[Entry]:
    """Read a journal; it gives one entry for each photo, in the order of their first lines.

    The last line may be incomplete, because the command that wrote it was killed.
    Raises CleanseError: no such file, or it is not a journal.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CleanseError(f"{path}: the journal cannot be read: {error}") from error
    entries: dict[str, Entry] = {}
    for number, line in enumerate(
        lines[:-1], start=1
    ):  # the text after the last line break is empty or incomplete
        try:
            record = json.loads(line)
            uri, state = record["uri"], record["state"]
            if state not in STATES or not uri.startswith("s3://"):
                raise ValueError(state)
            if state in (DELETING, MOVING):
                entry = Entry(uri, state, record["size"], record["etag"], record.get("moved_to"))
            else:
                first = entries[uri]
                entry = Entry(uri, state, first.size, first.etag, first.moved_to, record.get("delete_marker"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CleanseError(f"{path}: line {number} is not a line of a journal: {line[:200]}") from error
        entries[uri] = entry
    return list(entries.values())
