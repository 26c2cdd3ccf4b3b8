"""A file with a list of addresses, `@list.txt`: one address per line, for example a column of a spreadsheet.

Blank lines, lines that begin with #, and spaces around an address are ignored. The text is UTF-8, with or
without a byte order mark, or UTF-16 with one, which Windows calls "Unicode".
"""

import codecs
import os
import re
from collections.abc import Sequence
from pathlib import Path

from physiq_ray.errors import NotFoundError, SettingError
from physiq_ray.storage import join_uri, read_bytes

LIST_MARK = "@"


def read_addresses(words: Sequence[str]) -> list[str]:
    """Replace each `@list` among the words by the addresses in that file, in their order.

    The list is a path or an s3:// address. A relative entry means the file next to the list; if there is
    none, it means the file in the working folder. A photo whose own name begins with @ is written `./@name`.
    Raises NotFoundError: the list does not exist; StorageError: it cannot be read; SettingError: it is no
    text, or has no address.
    """
    addresses = []
    for word in words:
        if word.startswith(LIST_MARK):
            addresses.extend(_read_list(word.removeprefix(LIST_MARK)))
        else:
            addresses.append(word)
    return addresses


def _read_list(uri: str) -> list[str]:
    if not uri:
        raise SettingError("@: expected a file's name after it, as in @list.txt")
    try:
        data = read_bytes(uri)
    except NotFoundError as error:
        raise NotFoundError(
            f"{error}; @{uri} means a file with one address a line; a photo of this name is ./@{uri}"
        ) from error
    # splitlines would also split at characters that names may contain.
    lines = re.split(r"\r\n|\r|\n", _decode(data, uri))
    entries = [line.strip() for line in lines]
    addresses = [_resolve(entry, uri) for entry in entries if entry and not entry.startswith("#")]
    if not addresses:
        raise SettingError(f"@{uri}: no address in its {len(lines)} lines; expected one address a line")
    return addresses


def _decode(data: bytes, uri: str) -> str:
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
        where = text.find("\0")  # no name can contain it
    except UnicodeDecodeError as error:
        text, where = data[: error.start].decode("latin-1"), error.start
    if where >= 0:
        line = text[:where].count("\n") + 1
        raise SettingError(f"@{uri}, line {line}: no UTF-8 text; save the list as UTF-8")
    return text


def _resolve(entry: str, list_uri: str) -> str:
    if "://" in entry or Path(entry).expanduser().is_absolute():
        return entry
    if list_uri.startswith("s3://"):
        return join_uri(list_uri.rpartition("/")[0], entry)
    near = str(Path(list_uri).parent / entry)
    # Path.exists raises if the name is too long or the folder cannot be read; reading the photo reports that.
    return entry if os.path.lexists(entry) and not os.path.lexists(near) else near
