"""Download photos, several at a time: first to a temporary file, then under the final name.

Each thread takes photo after photo from one list, so memory holds one photo of at most 16 MiB for each
thread. If a photo fails, it is noted by its name and the others continue; an error of the disk ends
everything. After an interrupt, the threads have a few seconds to end; what they write later would be in a
folder that is gone.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from botocore.exceptions import ClientError

from physiq_ray.constants import OUTAGE_RUN
from physiq_ray.errors import NotFoundError, StorageError, UnreachableError
from physiq_ray.storage import split_uri
from physiq_ray.storage.download import (
    MAX_MEMORY_BYTES,
    PARTS_AT_ONCE,
    EtagJudge,
    OtherContentError,
    download,
)
from physiq_ray.storage.etag import file_md5
from physiq_ray.storage.refusal import read_error
from physiq_ray.syncing.plan import Photo, version_ns

THREAD_NAME: Final = "physiq-sync"
TICK_S: Final = 0.2  # between two updates of the progress
WIND_UP_S: Final = 2.0  # for the threads to end after an interrupt
LAST_REQUESTS_S: Final = 60.0  # for the threads to end after an error: running requests may finish
# EFBIG: a limit of the file system, or ulimit's.
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else [])}

Item = TypeVar("Item")


@dataclass
class Tally:
    """What happened to one source's photos; failures: uri and sentence."""

    downloaded: int = 0
    skipped: int = 0
    bytes: int = 0
    gone: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    started_s: float | None = None
    finished_s: float | None = None
    num_unreachable: int = 0  # in a row

    @property
    def done(self) -> int:
        """Number of photos that are finished."""
        return self.downloaded + self.skipped + len(self.gone) + len(self.failures)

    @property
    def seconds(self) -> float:
        """Time from the start of the first download to the end of the last."""
        return 0.0 if self.started_s is None or self.finished_s is None else self.finished_s - self.started_s


class Transfer:
    """The downloads of one sync; tallies are by the photos' source."""

    def __init__(self, folder: Path, tallies: Sequence[Tally], on_tick: Callable[[], None]) -> None:
        """on_tick: the waiting thread calls it every TICK_S."""
        self._folder = str(folder)
        self._tallies = tallies
        self._on_tick = on_tick
        self._lock = threading.Lock()
        self._made: set[str] = set()
        self._judge = EtagJudge()
        self._doubtful: list[tuple[Photo, OtherContentError]] = []
        self._checked_by_length: list[Photo] = []

    def compare(self, photos: Sequence[Photo], num_threads: int, place: Callable[[str], str]) -> list[Photo]:
        """Compare files of the right size by their MD5; give the photos whose file is another version.

        The others get their version's time of change, except files that are not in their final place yet:
        `place` gives the present path.
        """
        others: list[Photo] = []

        def compare_one(_: int, photo: Photo) -> None:
            path = Path(self._folder, place(photo.path))
            if file_md5(path) != photo.etag:
                others.append(photo)
                return
            if place(photo.path) == photo.path:
                _set_version(path, photo.etag, photo.modified_s)
            with self._lock:
                self._tallies[photo.source].skipped += 1

        work_through(photos, compare_one, num_threads, self._on_tick)
        return others

    def download(self, photos: Sequence[Photo], partial: Path, num_threads: int) -> None:
        """Download photos, the small ones first; partial: a temporary folder of this process.

        Photos that do not match their ETags are decided at the end, when it is known whether the bucket's
        ETags are MD5s. Raises StorageError: the disk is full.
        """
        small = [photo for photo in photos if photo.size <= MAX_MEMORY_BYTES]
        large = [photo for photo in photos if photo.size > MAX_MEMORY_BYTES]
        partials = [partial / str(number) for number in range(num_threads)]

        def download_one(number: int, photo: Photo) -> None:
            self._download_one(photo, partials[number])

        work_through(small, download_one, num_threads, self._on_tick)
        # Each of these runs several requests at the same time.
        work_through(large, download_one, max(1, num_threads // PARTS_AT_ONCE), self._on_tick)
        work_through(self._photos_to_read_again(), download_one, num_threads, self._on_tick)
        for photo, error in self._doubtful:
            self._note_failure(self._tallies[photo.source], photo, error)

    def _photos_to_read_again(self) -> list[Photo]:
        """Give the photos whose first decision is wrong, now that the bucket's ETags are known."""
        doubtful, self._doubtful = self._doubtful, []
        again = []
        for photo, error in doubtful:
            if self.has_other_etags(photo.uri):
                again.append(photo)
            else:
                self._note_failure(self._tallies[photo.source], photo, error)
        for photo in self._checked_by_length:
            if not self.has_other_etags(photo.uri):  # others matched later: its bytes are wrong
                Path(self._folder, photo.path).unlink(missing_ok=True)
                self._tallies[photo.source].downloaded -= 1
                self._tallies[photo.source].bytes -= photo.size
                again.append(photo)
        return again

    def has_other_etags(self, uri: str) -> bool:
        """Tell whether the ETags of a photo's bucket look like MD5s but are not."""
        return self._judge.has_other_etags(split_uri(uri)[0])

    def _download_one(self, photo: Photo, partial: Path) -> None:
        tally = self._tallies[photo.source]
        if tally.started_s is None:
            tally.started_s = time.monotonic()
        try:
            if tally.num_unreachable >= OUTAGE_RUN:
                raise UnreachableError(
                    f"download {photo.uri}: not tried: the {OUTAGE_RUN} before it got no answer; "
                    "run the same command again when the store answers"
                )
            version = download(photo.uri, partial, photo.size, self._judge)
            _set_version(partial, version.etag, version.modified_s)
            target = f"{self._folder}/{photo.path}"
            self._make_folder(target.rpartition("/")[0])
            partial.replace(target)
        except OtherContentError as error:
            with self._lock:
                self._doubtful.append((photo, error))
            return
        except StorageError as error:
            self._note_failure(tally, photo, error)
            return
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise StorageError(
                    f"write {self._folder}/{photo.path}: {error.strerror}; make room and run the same "
                    "command again: it keeps the complete photos"
                ) from error
            # The path is too long, or somebody created a folder of this name meanwhile.
            self._note_failure(
                tally, photo, StorageError(f"write {self._folder}/{photo.path}: {error.strerror}")
            )
            return
        with self._lock:
            if self.has_other_etags(photo.uri):
                self._checked_by_length.append(photo)
            tally.downloaded += 1
            tally.bytes += version.size
            tally.num_unreachable = 0
            tally.finished_s = time.monotonic()

    def _note_failure(self, tally: Tally, photo: Photo, error: StorageError) -> None:
        with self._lock:
            tally.finished_s = time.monotonic()
            if _is_gone(error):
                tally.gone.append(photo.uri)
            else:
                tally.failures.append((photo.uri, str(error)))
            tally.num_unreachable = tally.num_unreachable + 1 if isinstance(error, UnreachableError) else 0

    def _make_folder(self, path: str) -> None:
        if path not in self._made:
            Path(path).mkdir(parents=True, exist_ok=True)
            self._made.add(path)


def work_through(
    items: Sequence[Item], do: Callable[[int, Item], None], num_threads: int, on_tick: Callable[[], None]
) -> None:
    """Call `do` for each item in num_threads threads, with the number of the thread and the item.

    Raises the first error of a call, or KeyboardInterrupt; no further item is started then.
    """
    todo = iter(items)  # the threads share it: next() on a list's iterator is atomic
    stop = threading.Event()
    errors: list[BaseException] = []

    def run(number: int) -> None:
        for item in todo:
            try:
                do(number, item)
            except BaseException as error:
                errors.append(error)
                stop.set()
            if stop.is_set():
                return

    # Daemon threads: an interrupted process must not wait for a request without an answer.
    threads = [
        threading.Thread(target=run, args=(number,), name=THREAD_NAME, daemon=True)
        for number in range(min(num_threads, len(items)))
    ]
    wait_s = WIND_UP_S
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and not stop.is_set():
                thread.join(TICK_S)
                on_tick()
        wait_s = LAST_REQUESTS_S
    finally:
        stop.set()
        deadline = time.monotonic() + wait_s
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]


def _set_version(path: Path, etag: str, modified_s: int) -> None:
    time_ns = version_ns(etag, modified_s)
    os.utime(path, ns=(time_ns, time_ns))


def _is_gone(error: StorageError) -> bool:
    """Tell whether the photo was deleted since the listing; a missing bucket is a NotFoundError too."""
    cause = error.__cause__
    return (
        isinstance(error, NotFoundError)
        and isinstance(cause, ClientError)
        and read_error(cause)[0] != "NoSuchBucket"
    )
