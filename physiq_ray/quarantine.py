"""Quarantined photos: their errors, their file, and the limit on their number. Does not import Ray."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from physiq_ray.errors import DataError
from physiq_ray.storage import join_uri, write_bytes

QUARANTINE_FILE = "quarantine.jsonl"
NAMED_PHOTOS: Final = 5  # in the message about too many


@dataclass(frozen=True)
class Unreadable:
    """A photo that could not be used.

    step: the step that failed, "fetch" or "decode"; or "changed" or "gone" if the listed photo was replaced
    or deleted.
    """

    uri: str
    step: str
    error: str


@dataclass(frozen=True)
class Unreachable(Unreadable):
    """A photo that was not fetched because the storage gave no usable answer, also not to the retries."""


def count_steps(unreadable: Iterable[Unreadable]) -> dict[str, int]:
    """Count photos by step."""
    return dict(Counter(item.step for item in unreadable))


def check_unreadable(unreadable: Sequence[Unreadable], num_photos: int, max_share: float) -> None:
    """Stop if too many photos cannot be used; changed and gone photos count too.

    Raises DataError, which names the first photos, if they are more than max_share of num_photos.
    """
    if len(unreadable) <= max_share * num_photos:
        return
    steps, more = count_steps(unreadable), len(unreadable) - NAMED_PHOTOS
    sentences = [f"{item.uri}: {item.error}" for item in unreadable[:NAMED_PHOTOS]]
    if more > 0:
        sentences.append(f"and {more} more in {QUARANTINE_FILE}")
    if others := steps.get("changed", 0) + steps.get("gone", 0):
        sentences.append(
            f"{others} of them changed or disappeared since they were listed "
            f"({steps.get('changed', 0)} changed, {steps.get('gone', 0)} gone): check their labels, then "
            "start a new run, which lists the photos again"
        )
    raise DataError(
        f"{len(unreadable)} of {num_photos} photos cannot be read, more than "
        f"max_unreadable_share={max_share:g} allows: {'; '.join(sentences)}"
    )


def write_quarantine(unreadable: Iterable[Unreadable], output: str) -> str:
    """Write quarantine.jsonl, one {uri, step, error} a line, to a folder or s3:// prefix; return its uri."""
    lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in unreadable]
    uri = join_uri(output, QUARANTINE_FILE)
    write_bytes("".join(lines).encode(), uri)
    return uri
