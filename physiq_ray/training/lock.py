"""Locks: one process trains a run, and one training writes to an output, on any machine.

A lock is an object lock-0001.json that is created only if it does not exist. The next holder creates the next
number, so one of several that try at once succeeds. The holder renews its sign of life while it works. It
stops if it finds a successor, which took it for dead while it was asleep or cut off. Locks are never deleted:
a lock whose holder is dead or done is ignored.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from physiq_ray.errors import NotFoundError, StorageError, TrainingError
from physiq_ray.machine import check_writable
from physiq_ray.storage import absolute_uri, create_bytes, join_uri, read_bytes, write_bytes

OUTPUT_LOCKS = ".locks"  # the folder of an output's locks, out of the way of what is read there
RENEWAL_S = 15.0
# After this time without a sign of life, a holder on another machine counts as dead. It is longer than the
# retries of a write while the store is away.
SILENCE_S = 120.0


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock; seen_s: its last sign of life, in seconds since 1970."""

    host: str
    pid: int
    seen_s: float
    is_done: bool = False

    def is_alive(self, now_s: float) -> bool:
        """Tell whether it still works, as far as this machine can see."""
        if self.is_done or now_s - self.seen_s > SILENCE_S:
            return False
        return self.host != socket.gethostname() or _is_running(self.pid)


@dataclass(frozen=True)
class _Subject:
    """What is locked: the folder of its locks, and the parts of its error message."""

    folder: str
    name: str
    deed: str
    way_out: str


@contextmanager
def locked_run(folder: str, run_name: str, note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Be the only process that trains a run while inside; note says why it takes a while.

    Raises TrainingError: another process does, or has taken over (which interrupts what runs inside).
    StorageError: the lock cannot be read or written.
    """
    with _held(_Subject(folder, f"run {run_name!r}", "trained by", "give another --run-name"), note):
        yield


@contextmanager
def locked_output(output: str, note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Be the only training that writes to an output while inside; everything else as `locked_run`."""
    check_writable("output", output)
    folder = join_uri(absolute_uri(output), OUTPUT_LOCKS)
    with _held(
        _Subject(folder, f"output={output}", "written to by a training,", "give another --output"), note
    ):
        yield


@contextmanager
def _held(subject: _Subject, note: Callable[[str], None]) -> Iterator[None]:
    own = Holder(socket.gethostname(), os.getpid(), time.time())
    folder, number = subject.folder, _take(subject, own, note)
    done, lost = threading.Event(), threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL_S):
            if _has_successor(folder, number):
                lost.set()
                os.kill(os.getpid(), signal.SIGINT)  # ends Ray Train's run
                return
            _write(replace(own, seen_s=time.time()), _uri(folder, number))

    thread = threading.Thread(target=renew, name="run lock", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        if lost.is_set():
            raise TrainingError(
                f"{subject.name} was taken over by the holder of {_uri(folder, number + 1)} while this "
                "process showed no sign of life; the training continues there"
            ) from error
        raise
    finally:
        done.set()
        thread.join()
        _write(replace(own, is_done=True), _uri(folder, number))


def _take(subject: _Subject, own: Holder, note: Callable[[str], None]) -> int:
    folder, number, last = subject.folder, 1, None
    while (holder := _read(_uri(folder, number))) is not None:
        number, last = number + 1, holder
    if last is not None:
        if not last.is_alive(own.seen_s) and not last.is_done and last.host != own.host:
            # The clocks of two machines may differ: wait whether the lock changes before it is ignored.
            note(f"{subject.name}: waiting {2 * RENEWAL_S:g} s for a sign of life from {last.host}")
            time.sleep(2 * RENEWAL_S)
            seen = _read(_uri(folder, number - 1))
            last = last if seen is None or seen == last else replace(seen, seen_s=time.time())
        if last.is_alive(time.time()):
            raise _is_held(subject, last)
    if not create_bytes(json.dumps(asdict(own)).encode(), _uri(folder, number)):
        raise TrainingError(
            f"{subject.name} was taken by another process just now: {_uri(folder, number)} is its lock"
        )
    return number


def _is_held(subject: _Subject, holder: Holder) -> TrainingError:
    silent_s = max(0.0, time.time() - holder.seen_s)
    return TrainingError(
        f"{subject.name} is being {subject.deed} process {holder.pid} on {holder.host}, seen {silent_s:.0f} "
        f"s ago; wait for its end, {subject.way_out}, or, if it is gone, try again in "
        f"{SILENCE_S - silent_s:.0f} s"
    )


def _uri(folder: str, number: int) -> str:
    return join_uri(folder, f"lock-{number:04d}.json")


def _has_successor(folder: str, number: int) -> bool:
    try:
        return _read(_uri(folder, number + 1)) is not None
    except StorageError:
        return False  # could not look: it looks again at the next sign of life


def _read(uri: str) -> Holder | None:
    try:
        return Holder(**json.loads(read_bytes(uri)))
    except NotFoundError:
        return None
    except (ValueError, TypeError) as error:  # torn by a power cut: its writer is dead
        del error
        return Holder("", 0, 0.0, is_done=True)


def _write(holder: Holder, uri: str) -> None:
    try:
        write_bytes(json.dumps(asdict(holder)).encode(), uri)
    except StorageError:
        return  # a store that is briefly away must not end a training


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # it cannot be seen there: on Windows, os.kill would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
