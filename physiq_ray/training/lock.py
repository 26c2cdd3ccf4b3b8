"""One trainer a run: whoever holds the lock in the run's folder, on whatever machine.

A lock is an object lock-0001.json, made only where none is there; the next holder makes the next number,
so of several that try at once one succeeds. The holder renews its sign of life while it works, and stops
where it finds a successor: it was taken for gone, asleep or cut off. Nothing is ever deleted: a lock whose
holder is gone, or has said that it is done, is passed over.
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
from physiq_ray.storage import absolute_uri, create_bytes, join_uri, read_bytes, write_bytes

RENEWAL_S = 15.0
# After which a holder on another machine is taken for gone; longer than a store may be away for a write
# that is tried again and again.
SILENCE_S = 120.0


@dataclass(frozen=True)
class Holder:
    """Who trains a run; seen_s: its last sign of life, in seconds since 1970."""

    host: str
    pid: int
    seen_s: float
    is_done: bool = False

    def is_alive(self, now_s: float) -> bool:
        """Tell whether it is still at work, as far as can be seen from here."""
        if self.is_done or now_s - self.seen_s > SILENCE_S:
            return False
        return self.host != socket.gethostname() or _is_running(self.pid)


@contextmanager
def locked(storage: str, run_name: str, note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Be the only one to train a run while inside; note says why it takes a while.

    Raises TrainingError: somebody else does, or has taken over (which interrupts what runs inside).
    StorageError: the lock cannot be read or written.
    """
    folder = join_uri(absolute_uri(storage), run_name)
    own = Holder(socket.gethostname(), os.getpid(), time.time())
    number = _take(folder, run_name, own, note)
    done, lost = threading.Event(), threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL_S):
            if _has_successor(folder, number):
                lost.set()
                os.kill(os.getpid(), signal.SIGINT)  # which Ray Train ends a run upon
                return
            _write(replace(own, seen_s=time.time()), _uri(folder, number))

    thread = threading.Thread(target=renew, name="run lock", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        if lost.is_set():
            raise TrainingError(
                f"run {run_name!r} was taken over by the holder of {_uri(folder, number + 1)} while this "
                "process showed no sign of life; it goes on there"
            ) from error
        raise
    finally:
        done.set()
        thread.join()
        _write(replace(own, is_done=True), _uri(folder, number))


def _take(folder: str, run_name: str, own: Holder, note: Callable[[str], None]) -> int:
    number, last = 1, None
    while (holder := _read(_uri(folder, number))) is not None:
        number, last = number + 1, holder
    if last is not None:
        if not last.is_alive(own.seen_s) and not last.is_done and last.host != own.host:
            # By two machines' clocks, which may differ: only a lock that stays as it is, is let go.
            note(f"run {run_name!r}: waiting {2 * RENEWAL_S:g} s for a sign of life from {last.host}")
            time.sleep(2 * RENEWAL_S)
            seen = _read(_uri(folder, number - 1))
            last = last if seen is None or seen == last else replace(seen, seen_s=time.time())
        if last.is_alive(time.time()):
            raise _is_held(run_name, last)
    if not create_bytes(json.dumps(asdict(own)).encode(), _uri(folder, number)):
        raise TrainingError(
            f"run {run_name!r} was taken by another process just now: {_uri(folder, number)} is its lock"
        )
    return number


def _is_held(run_name: str, holder: Holder) -> TrainingError:
    silent_s = max(0.0, time.time() - holder.seen_s)
    return TrainingError(
        f"run {run_name!r} is being trained by process {holder.pid} on {holder.host}, seen {silent_s:.0f} s "
        f"ago; wait for its end, give another --run-name, or, if it is gone, try again in "
        f"{SILENCE_S - silent_s:.0f} s"
    )


def _uri(folder: str, number: int) -> str:
    return join_uri(folder, f"lock-{number:04d}.json")


def _has_successor(folder: str, number: int) -> bool:
    try:
        return _read(_uri(folder, number + 1)) is not None
    except StorageError:
        return False  # could not look: asked again at the next sign of life


def _read(uri: str) -> Holder | None:
    try:
        return Holder(**json.loads(read_bytes(uri)))
    except NotFoundError:
        return None
    except (ValueError, TypeError) as error:  # torn by a power cut: its writer is gone
        del error
        return Holder("", 0, 0.0, is_done=True)


def _write(holder: Holder, uri: str) -> None:
    try:
        write_bytes(json.dumps(asdict(holder)).encode(), uri)
    except StorageError:
        return  # a store that is briefly away ends no training; the next sign of life will do


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
