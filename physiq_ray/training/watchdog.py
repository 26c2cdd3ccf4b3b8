"""The watchdog: a step that never ends is found by a thread of its own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """Notices that the training thread has done nothing for a while.

    Ray watches the actor and not the thread in it. A thread that hangs (on a file system, a driver, or
    photos that never arrive) would hang without end if no other rank waits for it.
    """

    def __init__(self, timeout_s: float, give_up: Callable[[], None]) -> None:
        """give_up: called once, from a thread of its own, when nothing was done for timeout_s."""
        self._timeout_s = timeout_s
        self._give_up = give_up
        self._last_s = time.monotonic()

    def beat(self, *, allow_s: float = 0.0) -> None:
        """Say that something was done; allow_s: what comes next may take so much longer than the timeout."""
        self._last_s = time.monotonic() + allow_s

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while inside."""
        self.beat()
        done = threading.Event()

        def watch() -> None:
            while not done.wait(min(1.0, self._timeout_s / 4)):
                if time.monotonic() - self._last_s > self._timeout_s:
                    self._give_up()
                    return

        thread = threading.Thread(target=watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
