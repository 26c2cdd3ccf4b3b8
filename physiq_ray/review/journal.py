"""The journal of a review: a JSON object for each decision and each undo, on the disk before the next photo.

    {"s3Filename": "s3://checkins/a.jpg", "poseId": 7, "by": "review", "time": …}  poseId null: no known pose
    {…, "replaces": 5}  the photo had a label of pose 5, which the person saw
    {"s3Filename": …, "undo": <time of the decision>, "by": "review", "time": …}

Each reviewer writes a journal of their own. A killed review leaves at most one incomplete last line, whose
decision was not confirmed to the page; it is reported and ignored.
"""

import contextlib
import errno
import json
import os
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from physiq_ray.errors import ReviewError
from physiq_ray.labels.merge import BY_KEY, NAME_KEY, POSE_KEY, TIME_KEY
from physiq_ray.labels.values import WrongValueError, read_name, read_pose_id, read_text

REVIEW, FEEDBACK = "review", "feedback"
REPLACES_KEY, UNDO_KEY = "replaces", "undo"


@dataclass(frozen=True)
class Decision:
    """One decision, or the undo of an earlier one: undone is the time of that one.

    name, source: as in a label record; photo_md5, request_id: if the photo has no name. pose_id: None for no
    known pose. has_label: the photo had a label of the pose `replaces`.
    """

    name: str | None
    pose_id: int | None
    by: str
    time: str
    source: str | None = None
    photo_md5: str | None = None
    request_id: str | None = None
    has_label: bool = False
    replaces: int | None = None
    undone: str | None = None

    @property
    def is_named_by_request(self) -> bool:
        """Whether only the id of a request says which photo is meant."""
        return self.name is None and self.photo_md5 is None

    def to_record(self) -> dict[str, Any]:
        """Give the line of the journal."""
        record: dict[str, Any] = {NAME_KEY: self.name}
        if self.undone is not None:
            record[UNDO_KEY] = self.undone
        else:
            record[POSE_KEY] = self.pose_id
        if self.has_label:
            record[REPLACES_KEY] = self.replaces
        return record | {BY_KEY: self.by, TIME_KEY: self.time}


def parse_decision(record: Any) -> Decision:
    """Read a line of a journal or a feedback record. Raises ValueError: it is neither."""
    if not isinstance(record, dict) or record.get(BY_KEY) not in (REVIEW, FEEDBACK):
        raise WrongValueError("expected an object with by=review or by=feedback")
    time, undone = read_text(record.get(TIME_KEY)), read_text(record.get(UNDO_KEY))
    if time is None or (undone is None and POSE_KEY not in record):
        raise WrongValueError("time or poseId is missing")
    name, md5 = record.get(NAME_KEY), read_text(record.get("photoMd5"))
    request_id = read_text(record.get("requestId"))
    if name is None and md5 is None and request_id is None:
        raise WrongValueError("s3Filename, photoMd5 and requestId are missing")
    return Decision(
        name=None if name is None else read_name(name),
        pose_id=read_pose_id(record.get(POSE_KEY)),
        by=record[BY_KEY],
        time=time,
        source=read_text(record.get("source")),
        photo_md5=None if md5 is None else md5.lower(),
        request_id=request_id,
        has_label=REPLACES_KEY in record,
        replaces=read_pose_id(record.get(REPLACES_KEY)),
        undone=undone,
    )


def now_text() -> str:
    """Give the time in UTC with microseconds, which identifies a decision."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def name_journal(folder: Path, now: datetime) -> Path:
    """Give a name for a new journal, different for each machine, process and time."""
    host = "".join(letter for letter in socket.gethostname() if letter.isalnum() or letter == "-")
    return folder / f"review-{now:%Y%m%dT%H%M%SZ}-{host}-{os.getpid()}.jsonl"


def find_journals(folder: Path) -> list[Path]:
    """Find the journals in a folder, oldest first."""
    return sorted(folder.glob("review-*.jsonl"))


def read_journal(path: Path) -> tuple[list[Decision], str | None]:
    """Read a journal; also give its incomplete last line, None if there is none.

    Raises ReviewError: it cannot be read, or another line is not one of a journal.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ReviewError(f"{path}: the journal cannot be read: {error.strerror}") from error
    decisions = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break is incomplete
        try:
            decisions.append(parse_decision(json.loads(line)))
        except ValueError as error:
            raise ReviewError(
                f"{path}: line {number} is not a line of a review's journal ({error}): "
                f"{line[:200].decode(errors='replace')}"
            ) from error
    return decisions, lines[-1].decode(errors="replace") or None


def is_in_use(path: Path) -> bool:
    """Tell whether a review writes this journal now."""
    owner = _owner_of(path)
    try:
        owner.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    _release(owner)
    return False


def _owner_of(path: Path) -> FileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))


def _release(owner: FileLock) -> None:
    with contextlib.suppress(OSError):
        Path(owner.lock_file).unlink(missing_ok=True)
    owner.release()


class Journal:
    """A journal that is being written; only one process writes it."""

    def __init__(self, path: Path) -> None:
        """Create the file or continue it; an incomplete last line is removed.

        decisions: those that it held. torn: the incomplete line. Raises ReviewError: it cannot be read or
        written, or another review writes it.
        """
        self.path = path
        self._lock = threading.Lock()
        self._owner = _owner_of(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._owner.acquire(timeout=0)
            path.touch()
            _sync_folder(path.parent)
        except Timeout as error:
            raise ReviewError(
                f"{path}: another review writes this journal; give another --journal, or leave it out"
            ) from error
        except OSError as error:
            raise ReviewError(f"{path}: the journal cannot be created: {error.strerror}") from error
        self.decisions, self.torn = read_journal(path)
        self._file = path.open("r+b", buffering=0)  # so that nothing of a failed write is written later
        self._file.seek(0, os.SEEK_END)
        if self.torn is not None:
            end = path.read_bytes().rfind(b"\n") + 1
            self._file.truncate(end)
            self._file.seek(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        _release(self._owner)

    def write(self, decisions: Iterable[Decision]) -> None:
        """Append lines, which are on the disk when this returns.

        Raises ReviewError: the disk is full or gone; the journal is then as it was before.
        """
        lines = (json.dumps(item.to_record(), ensure_ascii=False) for item in decisions)
        data = "".join(f"{line}\n" for line in lines).encode()
        with self._lock:
            end = self._file.tell()
            try:
                if self._file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._file.truncate(end)
                    self._file.seek(end)
                raise ReviewError(
                    f"{self.path}: the journal cannot be written: {error.strerror}; the decision is not kept"
                ) from error


def _sync_folder(folder: Path) -> None:
    """Put the name of a new file on the disk, too; some systems cannot open folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
