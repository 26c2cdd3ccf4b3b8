"""Progress of long work: live bars on a terminal, or a plain line at intervals in a log."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL_S: Final = 10.0
DISPLAY_INTERVAL_S: Final = 30.0  # so that the table stands out in the log of a long training

_ALL = "all"


class Bars:
    """One bar per label, and a total if there are several labels; they are shown inside a with-block.

    Any thread may update them. Rich is imported only if there is a terminal.
    """

    def __init__(
        self,
        console: "TextIO | Console | None" = None,
        unit: str = "photos",
        *,
        interval_s: float = PLAIN_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep the options; nothing is shown yet.

        console: stderr by default. unit: the things that are counted, in the plural. interval_s: the time
        between two plain lines of a label. clock: seconds.
        """
        self._console = console if console is not None else sys.stderr
        self._unit = unit
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[int, int]] = {}
        self._lines_s: dict[str, float] = {}
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._is_terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            console = self._console if isinstance(self._console, Console) else Console(file=self._console)
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def update(self, label: str, done: int, total: int, note: str = "") -> None:
        """Show the progress of one label; total: 0 if it is not known."""
        with self._lock:
            self._counts[label] = (done, total)
            if self._progress is None:
                self._write_line(label, done, total, note)
                return
            self._draw(self._progress, label, done, total, note)
            if len(self._counts) > 1:
                sums = [sum(parts) for parts in zip(*self._counts.values(), strict=True)]
                self._draw(self._progress, _ALL, sums[0], sums[1], "")

    def restart(self) -> None:
        """Remove all labels, because another step begins."""
        with self._lock:
            if self._progress is not None:
                self._progress.refresh()  # otherwise the last state of a short step would never be shown
                for task in self._tasks.values():
                    self._progress.remove_task(task)
            self._tasks.clear()
            self._counts.clear()
            self._lines_s.clear()

    @property
    def _is_terminal(self) -> bool:
        console: Any = self._console
        return bool(console.is_terminal if hasattr(console, "is_terminal") else console.isatty())

    def _draw(self, progress: "Progress", label: str, done: int, total: int, note: str) -> None:
        if label not in self._tasks:
            self._tasks[label] = progress.add_task(f"{label} {self._unit}", total=None, note="")
        progress.update(self._tasks[label], completed=done, total=total or None, note=note)

    def _write_line(self, label: str, done: int, total: int, note: str) -> None:
        now_s = self._clock()
        # The first line is also delayed, so that quick work prints none.
        if now_s - self._lines_s.setdefault(label, now_s) < self._interval_s:
            return
        self._lines_s[label] = now_s
        of_total = f"/{total}" if total else ""
        line = f"  {label}: {done}{of_total} {self._unit} {note}".rstrip()
        console: Any = self._console
        print(line, file=getattr(console, "file", console), flush=True)


class Display:
    """Lines of text, and the progress of one step at a time, on one console."""

    def __init__(self, console: "Console", *, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds."""
        self._console = console
        self._bars = Bars(console, interval_s=DISPLAY_INTERVAL_S, clock=clock)
        self._step = ""

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bar inside the block, if the console is a terminal."""
        with self._bars:
            yield
        self._bars.restart()

    def count(self, step: str, done: int, total: int, note: str = "") -> None:
        """Show the progress of a step; another step replaces its bar."""
        if step != self._step:
            self._bars.restart()
            self._step = step
        self._bars.update(step, done, total, note)
