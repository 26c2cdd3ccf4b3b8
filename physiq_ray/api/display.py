"""How the functions show progress."""

from collections.abc import Callable

from rich.console import Console

from physiq_ray.progress import Display

Progress = Display | bool  # True: on stderr


def make_display(progress: Progress) -> Display:
    """Give the caller's display, or a new one."""
    if isinstance(progress, Display):
        return progress
    return Display(Console(stderr=True, quiet=not progress))


def counting(display: Display, step: str) -> Callable[[int, int], None]:
    """Give a function that shows the progress of a step."""
    return lambda done, total: display.count(step, done, total)
