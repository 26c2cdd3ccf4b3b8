"""The list of addresses for `--uris`: a text file, or a journal of `cleanse` or of a killed `erase`.

    s3://checkin-poses/athlete-17/a.jpg                                   an address a line, or JSON:
    {"uri": …, "size": …, "etag": …, "moved_to": …, "is_older": …}        all but the uri may be missing

`erase` writes such a journal before it removes anything, so that a second run finds the traces of photos that
are gone already. It names the photos of a person, so it is deleted when everything else is.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from physiq_ray.cleanse import Journal, name_journal
from physiq_ray.errors import SettingError
from physiq_ray.storage.objects import translate_os

KIND = "erased"
JOURNALS = f"{KIND}-*.jsonl"


@dataclass(frozen=True)
class Named:
    """A photo that a list names; size in bytes and etag if they are known.

    moved_to: where `cleanse` moved it. is_older: this is an older version, whose content is not searched
    under other addresses.
    """

    uri: str
    size: int | None = None
    etag: str = ""
    moved_to: str | None = None
    is_older: bool = False


def read_named(address: str) -> tuple[Named, ...]:
    """Read a list from a file, or from stdin if the address is "-".

    The last line may be incomplete, because the command that wrote it was killed.
    Raises SettingError: a line is neither an s3:// address nor JSON with one. StorageError: no such file.
    """
    try:
        text = sys.stdin.read() if address == "-" else Path(address).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError):
            raise translate_os(error, f"read {address}") from error
        raise SettingError(f"--uris {address}: not a text in UTF-8") from error
    lines = text.split("\n")
    named = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            named.append(_read_line(line.removesuffix("\r")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines) and line.startswith("{"):
                break
            raise SettingError(
                f"--uris {address}: line {number} is neither s3://bucket/key nor JSON with it: {line[:200]}"
            ) from error
    return tuple(named)


def write_named(named: Iterable[Named], folder: Path, now: datetime) -> Path:
    """Write the journal of a run; it is on the disk when this returns. Raises CleanseError."""
    path = name_journal(folder, now, KIND)
    with Journal(path) as journal:
        journal.write(map(asdict, named))
    return path


def _read_line(line: str) -> Named:
    record: dict[str, Any] = json.loads(line) if line.startswith("{") else {"uri": line}
    photo = Named(
        record["uri"],
        record.get("size"),
        record.get("etag") or "",
        record.get("moved_to"),
        record.get("is_older") is True,
    )
    for uri in (photo.uri, photo.moved_to or photo.uri):
        if not uri.startswith("s3://") or not uri.removeprefix("s3://").partition("/")[2]:
            raise ValueError(uri)
    return photo
