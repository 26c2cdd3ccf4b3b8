"""The result of a cleanse, and its journal."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

NAMES = [f"{number:02d}.jpg" for number in range(20)]
# Each of these keys resembles a label that the tests give, but is not named by it.
RESEMBLING = ("IMG 5002.JPG", "1757471824350-é7.png")


class Outcome(NamedTuple):
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


def read_journal_lines(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("deleted-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def names_and_states(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["uri"].rpartition("/")[2], line["state"]) for line in lines]
