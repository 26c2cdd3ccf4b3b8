"""The help of commands, as a user sees it."""

import contextlib
import io
import re

from physiq_ray.cli import build_parser


def help_of(command: str) -> str:
    """Give the text that `physiq-ray COMMAND --help` prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        build_parser().parse_args([command, "--help"])
    return text.getvalue()


def flags_of(command: str) -> set[str]:
    """Give all flags in the help of a command, in their long form."""
    return set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", help_of(command), re.MULTILINE))
