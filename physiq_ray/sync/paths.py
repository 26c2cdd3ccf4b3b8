"""Where a key's photo lies inside the folder: computed from the key alone, and different for every key.

A key is any text of up to 1024 bytes; a path is not. What a file system would read as something else is
written as the percent-escape of its UTF-8 bytes, so that a path unquoted is the key again and two keys never
share one. A new key never changes the path of another, so nothing that was synced has to move.

    2026/a.jpg         2026/a.jpg
    ../a.jpg           %2E%2E/a.jpg
    a//b.jpg           a/%2Fb.jpg
    C:/a.jpg           C%3A/a.jpg
    a.jpg/b.jpg        a%2Ejpg/b.jpg        a folder is never named like a photo: keys are both at times
    50%25.jpg          50%2525.jpg          only where it would read as an escape: 50%.jpg stays

Only a name that is too long for the file system is cut; a hash of all of it keeps it apart.
"""

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from physiq_ray.storage import is_photo

_HASH_DIGITS = 12

# Control characters, the other separator, the colon of a drive, and what would read as an escape or a hash.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|(?<=^[A-Za-z]):|%(?=[0-9A-Fa-f]{2}|~)")


def local_path(bucket: str, key: str, name_max: int) -> str:
    """Give the path of a photo below the folder, with "/" between its parts.

    name_max: bytes of a name at most. The key is not empty.
    """
    return "/".join((bucket, *_parts(key, name_max)))


def flat_name(bucket: str, key: str, name_max: int) -> str:
    """Give one file name for bucket and key: the slashes are escaped too."""
    return _shortened(_escaped(f"{bucket}/{key}").replace("/", "%2F"), name_max)


def find_clashes(paths: Iterable[str], *, is_case_sensitive: bool) -> dict[str, str]:
    """Give each path that a file system takes for another one, with that one: the first in their order.

    is_case_sensitive: whether it holds names apart that differ in case or Unicode form only.
    """
    if is_case_sensitive:
        return {}
    first: dict[str, str] = {}
    clashes = {}
    for path in sorted(paths):
        kept = first.setdefault(folded(path), path)
        if kept != path:
            clashes[path] = kept
    return clashes


def folded(path: str) -> str:
    """Give what paths have in common that differ in case or Unicode form only."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def is_case_sensitive_by_custom() -> bool:
    """Tell what the platform's file systems mostly are, for where nothing may be written to find out."""
    return sys.platform not in {"darwin", "win32"}


def probe_case(folder: Path) -> bool:
    """Tell whether the file system of a folder holds names apart that differ in case or Unicode form only.

    Makes one file there and removes it.
    """
    made = folder / "probe-\u00e9"
    made.touch()
    try:
        return not ((folder / "PROBE-\u00e9").exists() or (folder / "probe-e\u0301").exists())
    finally:
        made.unlink(missing_ok=True)


def _parts(key: str, name_max: int) -> list[str]:
    *folders, name = key.split("/")
    parts: list[str] = []
    slashes = ""  # of empty parts, which no file system has; they go with the next part
    for folder in folders:
        if folder:
            parts.append(_shortened(slashes + _folder_name(folder), name_max))
            slashes = ""
        else:
            slashes += "%2F"
    if not slashes and not name:  # a key that ends in a slash
        slashes = parts.pop() + "%2F"
    return [*parts, _shortened(slashes + _escaped(name), name_max)]


def _folder_name(folder: str) -> str:
    name = _escaped(folder)
    if is_photo(name):
        stem, _, extension = name.rpartition(".")
        return f"{stem}%2E{extension}"
    return name


def _escaped(part: str) -> str:
    if part in {".", ".."}:
        return part.replace(".", "%2E")
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), part)


def _shortened(name: str, name_max: int) -> str:
    """Cut a name that is too long, keeping its extension; no uncut name holds "%~"."""
    data = name.encode()
    if len(data) <= name_max:
        return name
    extension = PurePosixPath(name).suffix if is_photo(name) else ""
    mark = f"%~{hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]}{extension}"
    kept = data[: name_max - len(mark.encode())].decode(errors="ignore")  # a cut character is left out
    return kept + mark
