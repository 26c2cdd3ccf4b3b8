"""One trainer a run: whoever holds the lock in the run's folder, on whatever machine.

A lock is an object lock-0001.json, made only where none is there; the next holder makes the next number,
so of several that try at once one succeeds. The holder renews its sign of life while it works. Nothing is
ever deleted: a lock whose holder is gone, or has said that it is done, is passed over.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from physiq_ray.errors import NotFoundError, StorageError, TrainingError
from physiq_ray.storage import absolute_uri, create_bytes, join_uri, read_bytes, write_bytes

RENEWAL_S = 15.0
SILENCE_S = 60.0  # after which a holder on another machine is taken for gone


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
def locked(storage: str, run_name: str) -> Iterator[None]:
    """Be the only one to train a run while inside.

    Raises TrainingError: somebody else does. StorageError: the lock cannot be read or written.
    """
    folder = join_uri(absolute_uri(storage), run_name)
    own = Holder(socket.gethostname(), os.getpid(), time.time())
    uri = _take(folder, run_name, own)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL_S):
            _write(replace(own, seen_s=time.time()), uri)

    thread = threading.Thread(target=renew, name="run lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _write(replace(own, is_done=True), uri)


def _take(folder: str, run_name: str, own: Holder) -> str:
    number, last = 1, None
    while (holder := _read(uri := join_uri(folder, f"lock-{number:04d}.json"))) is not None:
        number, last = number + 1, holder
    if last is not None and last.is_alive(own.seen_s):
        silent_s = max(0.0, own.seen_s - last.seen_s)
        raise TrainingError(
            f"run {run_name!r} is being trained by process {last.pid} on {last.host}, seen {silent_s:.0f} s "
            f"ago; wait for its end, give another --run-name, or, if it is gone, try again in "
            f"{SILENCE_S - silent_s:.0f} s"
        )
    if not create_bytes(json.dumps(asdict(own)).encode(), uri):
        raise TrainingError(f"run {run_name!r} was taken by another process just now: {uri} is its lock")
    return uri


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
