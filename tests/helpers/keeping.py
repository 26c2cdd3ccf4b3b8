"""What the tests of cleanse share."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from botocore.awsrequest import AWSResponse

NAMES = [f"{number:02d}.jpg" for number in range(20)]
RESEMBLING = ("IMG 5002.JPG", "1757471824350-é7.png")


class Ran(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str


class Body:
    """The body of an answer that never was on the wire."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def stream(self, *_: Any, **__: Any) -> Any:
        yield self.data


def answer(status: int, xml: str) -> AWSResponse:
    return AWSResponse("http://127.0.0.1", status, {"Content-Type": "application/xml"}, Body(xml.encode()))


def denied() -> AWSResponse:
    return answer(403, "<Error><Code>AccessDenied</Code><Message>scripted</Message></Error>")


def journal(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("deleted-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def states(lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["uri"].rpartition("/")[2], line["state"]) for line in lines]
