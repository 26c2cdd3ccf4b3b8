"""Which version of a photo the listing saw: ETags compared, and the like of them for files.

An ETag stands in the listing without quotes. A file's is the MD5 of its content where that was read, else
`mtime-` and the time of its last change in nanoseconds: enough to see that it is not the same file any more.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from physiq_ray.errors import ChangedError, NotFoundError, StorageError

_MTIME: Final = "mtime-"


def is_md5(etag: str) -> bool:
    """Tell whether an ETag looks like the MD5 of the content; that of a multipart upload does not."""
    return re.fullmatch("[0-9a-f]{32}", etag) is not None


def file_etag(status: os.stat_result) -> str:
    """Give a file the ETag that its time of change makes."""
    return f"{_MTIME}{status.st_mtime_ns}"


def file_md5(path: Path) -> str:
    """Read a file for the MD5 of its content, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def if_match(etag: str) -> str | None:
    """Give the value of If-Match; None where there is nothing to compare with, or only a weak ETag.

    A server must not find a weak one equal to anything (RFC 9110, section 13.1.1).
    """
    return f'"{etag}"' if etag and not etag.startswith("W/") else None


def check_object(uri: str, etag: str, found: str | None) -> None:
    """Compare the listed ETag with that of the answer: some servers pass over If-Match.

    Either may be missing. A proxy may make an ETag weak, which says nothing of the content.
    Raises ChangedError.
    """
    if etag and found and _opaque(etag) != _opaque(found):
        raise ChangedError(_sentence(uri, f"ETag {_opaque(etag)} → {_opaque(found)}"))


def refused(uri: str, etag: str) -> ChangedError:
    """Give the error for a server's answer that the condition does not hold."""
    return ChangedError(_sentence(uri, f"its ETag is no longer {etag}"))


def check_file(uri: str, etag: str, data: bytes, status: os.stat_result) -> None:
    """Compare a file's listed ETag with what was read; status: of the open file, after reading.

    Raises ChangedError.
    """
    if etag.startswith(_MTIME):
        has_changed = etag != file_etag(status)
    else:
        has_changed = is_md5(etag) and hashlib.md5(data, usedforsecurity=False).hexdigest() != etag
    if has_changed:
        raise ChangedError(_sentence(uri, "its content or time of change is another"))


def check_num_bytes(uri: str, listed: int, found: int) -> None:
    """Compare sizes in bytes, where the listing knew no ETag.

    Raises ChangedError.
    """
    if listed != found:
        raise ChangedError(_sentence(uri, f"{listed} → {found} bytes"))


def failed_step(error: StorageError) -> str:
    """Name what kept a listed photo from being read: "changed", "gone", or "fetch" for all else."""
    if isinstance(error, ChangedError):
        return "changed"
    return "gone" if isinstance(error, NotFoundError) else "fetch"


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _sentence(uri: str, what: str) -> str:
    return (
        f"read {uri}: it changed since it was listed ({what}); list the photos again to use what is there now"
    )
