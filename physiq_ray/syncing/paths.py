"""The path of a photo inside the folder: it depends on the key alone, and is different for every key.

A key is any text of up to 1024 bytes, but not every text can be a path. Characters with a meaning for a file
system are percent-escaped as UTF-8 bytes, so unquoting the path gives the key, and two keys never have the
same path. A new key never changes the path of another, so a file never has to move.

    2026/a.jpg         2026/a.jpg
    ../a.jpg           %2E%2E/a.jpg
    a//b.jpg           a/%2Fb.jpg
    C:/a.jpg           C%3A/a.jpg
    a.jpg/b.jpg        a%2Ejpg/b.jpg        a folder never has the name of a photo: both keys may exist
    50%25.jpg          50%2525.jpg          only what looks like an escape is escaped: 50%.jpg stays

On Windows, what its file systems do not allow is escaped as well: <>:"|?*, dots and spaces at the end, and
names of devices (CON.jpg becomes %43ON.jpg). Only a name that is too long for the file system is shortened; a
hash of the whole name makes it unique.
"""

import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from physiq_ray.storage import is_photo

_HASH_DIGITS = 12

# Control characters, Windows' separator, the colon of a drive, and what looks like an escape or a hash.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|(?<=^[A-Za-z]):|%(?=[0-9A-Fa-f]{2}|~)")
# A device's name means the device with any extension, so its first letter is escaped.
_DEVICE = r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\xb9\xb2\xb3]) *(?:\.|$)"
_UNSAFE_ON_WINDOWS = re.compile(rf"[<>:\"|?*]|[. ](?=[. ]*$)|^(?={_DEVICE}).", re.IGNORECASE)


def local_path(bucket: str, key: str, name_max: int) -> str:
    """Give the path of a photo below the folder, with "/" between its parts.

    name_max: the most bytes that a name can have. The key must not be empty.
    """
    return "/".join((_escaped(bucket), *_parts(key, name_max)))


def flat_name(bucket: str, key: str, name_max: int) -> str:
    """Give one file name for bucket and key, with escaped slashes."""
    return _shortened(_escaped(f"{bucket}/{key}").replace("/", "%2F"), name_max)


def find_clashes(paths: Iterable[str], *, is_case_sensitive: bool) -> dict[str, str]:
    """Give each path that a file system does not distinguish from an earlier one, in sorted order, and that.

    is_case_sensitive: whether it distinguishes names that differ only in case or Unicode form.
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
    """Give a form that is equal for paths that differ only in case or Unicode form."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def is_case_sensitive_by_custom() -> bool:
    """Tell what most file systems of the platform are, for a dry run, which must not write a test file."""
    return sys.platform not in {"darwin", "win32"}


def probe_case(folder: Path) -> bool:
    """Test whether the file system of a folder distinguishes names that differ only in case or Unicode form.

    Creates one file there and removes it.
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
    slashes = ""  # empty parts, which no file system has, are joined to the next part
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
    name = _UNSAFE.sub(_percent, part)
    return _UNSAFE_ON_WINDOWS.sub(_percent, name) if sys.platform == "win32" else name


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode())


def _shortened(name: str, name_max: int) -> str:
    """Shorten a name that is too long, and keep its extension; no other name contains "%~"."""
    data = name.encode()
    if len(data) <= name_max:
        return name
    extension = PurePosixPath(name).suffix if is_photo(name) else ""
    mark = f"%~{hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]}{extension}"
    kept = data[: name_max - len(mark.encode())].decode(
        errors="ignore"
    )  # an incomplete character is left out
    return kept + mark
