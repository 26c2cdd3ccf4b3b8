"""Is a photo still the version that was listed? ETags are compared; files get a similar identifier.

The listing has ETags without quotes. A file's ETag is the MD5 of its content if that was read. Otherwise it
is `mtime-` and the time of its last change in nanoseconds, which is enough to notice that the file changed.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from physiq_ray.errors import ChangedError, NotFoundError, StorageError, TooLargeError

_MTIME: Final = "mtime-"


def is_md5(etag: str) -> bool:
    """Tell whether an ETag looks like the MD5 of the content; the ETag of a multipart upload does not."""
    return re.fullmatch("[0-9a-f]{32}", etag) is not None


def file_etag(status: os.stat_result) -> str:
    """Make a file's ETag from its time of change."""
    return f"{_MTIME}{status.st_mtime_ns}"


def file_md5(path: Path) -> str:
    """Read a file for the MD5 of its content, in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def if_match(etag: str) -> str | None:
    """Give the value of If-Match; None if there is no ETag to compare with, or only a weak one.

    To a server, a weak ETag must not equal anything (RFC 9110, section 13.1.1).
    """
    return f'"{etag}"' if etag and not etag.startswith("W/") else None


def check_object(uri: str, etag: str, found: str | None) -> None:
    """Compare the listed ETag with that of the answer, because some servers ignore If-Match.

    Either may be missing. A proxy may make an ETag weak, which does not mean that the content changed.
    Raises ChangedError.
    """
    if etag and found and _opaque(etag) != _opaque(found):
        raise ChangedError(_sentence(uri, f"ETag {_opaque(etag)} → {_opaque(found)}"))


def refused(uri: str, etag: str) -> ChangedError:
    """Give the error for a server's answer that the condition is not met."""
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
        raise ChangedError(_sentence(uri, "its content or its time of change is different"))


def check_num_bytes(uri: str, listed: int, found: int) -> None:
    """Compare sizes in bytes, for a listing without ETags.

    Raises ChangedError.
    """
    if listed != found:
        raise ChangedError(_sentence(uri, f"{listed} → {found} bytes"))


def check_size(num_bytes: int, max_bytes: int | None) -> None:
    """Refuse an object that is larger than the limit.

    Raises TooLargeError.
    """
    if max_bytes is not None and num_bytes > max_bytes:
        raise TooLargeError(f"{num_bytes} bytes; at most {max_bytes} are read")


def failed_step(error: StorageError) -> str:
    """Name the reason why a listed photo was not read: "changed", "gone", or "fetch" for all others."""
    if isinstance(error, ChangedError):
        return "changed"
    return "gone" if isinstance(error, NotFoundError) else "fetch"


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _sentence(uri: str, what: str) -> str:
    return (
        f"read {uri}: it changed since it was listed ({what}); list the photos again to use what is there now"
    )
