"""Convert the names of photos, as people and exports write them, to the forms in which they are compared.

Names are compared in plain form: percent-encoding is decoded, URL and query are removed, Unicode is in NFC,
backslashes become slashes, the extension is in lower case, and quotes, spaces and invisible characters around
each part are removed. Names in usual spellings are converted by column, in 2 to 4 µs per name; only the
others are converted one by one, which takes three times as long.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import Column, IntArray, join_texts
from physiq_ray.storage.kinds import PHOTO_EXTENSIONS

_ENDINGS = "|".join(extension.removeprefix(".") for extension in PHOTO_EXTENSIONS)
_ENDS_LIKE_A_PHOTO = re.compile(rf"\.(?:{_ENDINGS})$", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*$")
_ARN: Final = "arn:aws:s3:::"
_S3_SCHEMES = frozenset({"s3", "s3a", "s3n"})
# bucket.s3.amazonaws.com, bucket.s3.eu-west-1.amazonaws.com, bucket.s3-accelerate.dualstack.amazonaws.com,
# and hosts without a bucket; the bucket is then the first part of the path.
_AWS_HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3(?:[.-][a-z0-9.-]+)?\.amazonaws\.com(?:\.cn)?$")
# Characters that surround a name in a spreadsheet or a log: spaces of any kind, quotes, brackets of a link,
# commas, and invisible ones (byte order mark, zero-width and direction marks, control characters).
_SURROUNDING: Final = "".join(
    [
        *map(chr, range(0x21)),
        *"\x7f\x85\xa0\xad\u1680\u180e\u2028\u2029\u202f\u205f\u2060\u3000\ufeff",
        *map(chr, range(0x2000, 0x2010)),
        *map(chr, range(0x202A, 0x202F)),
        *map(chr, range(0x2066, 0x206A)),
        *"\"'`´‘’‚‛“”„‟«»‹›<>,;",
    ]
)
# A name in NFC that does not match this pattern is its own plain form, except for the case of its extension.
_UNUSUAL = (
    r"[^\p{L}\p{N}\p{M}_.()\[\]{}!@$&=^ /-]"  # in RE2, the dash comes last
    r"|^ | $|/ | /|//|^/|/$|(?:^|/)\.{1,2}(?:/|$)"
)
_BASE = r"(?:https?|s3[an]?)://[^/?#]*/"
_QUERY = rf"^([^?#]*\.(?i:{_ENDINGS}))[?#](?s:.*)$"
_MAX_BASES = 200  # with more hosts, URLs are not read by column


class Kind(IntEnum):
    """The part of a photo's key that a written name gives."""

    NAME = 0  # the last part alone
    KEY = 1  # the whole key, or the key below the source's prefix
    PATH = 2  # a URL or absolute path, of which some trailing part is the key


@dataclass(frozen=True)
class Readings:
    """Written names in plain form. A name with a `+` has two readings, as a plus and as a space.

    One row per reading. row: int64, the position of the name. text: the plain form, parts separated by "/".
    kind: int64, a Kind. bucket: the bucket that the name itself contains, null if it contains none.
    """

    row: IntArray
    text: pa.Array
    kind: IntArray
    bucket: pa.Array

    def filter(self, mask: npt.NDArray[np.bool_]) -> "Readings":
        """Keep some rows."""
        kept = pa.array(mask)
        return Readings(self.row[mask], self.text.filter(kept), self.kind[mask], self.bucket.filter(kept))


def read_labels(names: pa.Array, buckets: Collection[str]) -> Readings:
    """Read the names of labels. buckets: the listed buckets, with which the host of a URL may begin."""
    rows = np.arange(len(names))
    first, unusual = _read_by_column(names, rows)
    based = pc.match_substring_regex(names, rf"^{_BASE}")
    base = pc.if_else(based, pc.replace_substring_regex(names, rf"^({_BASE})(?s:.*)$", r"\1"), "")
    more, unusual = _read_urls(names, base, unusual, buckets)
    last = _read_each(names, unusual, lambda name: _read_label(name, buckets))
    return _join([first, *more, last])


def read_keys(keys: pa.Array) -> Readings:
    """Read stored keys, which some uploads store in encoded form."""
    found, unusual = _read_by_column(keys, np.arange(len(keys)))
    return _join([found, _read_each(keys, unusual, _read_key)])


def last_parts(paths: Column) -> Any:
    """Return the part of each path after the last "/"; this takes half the time of a regular expression."""
    if isinstance(paths, pa.ChunkedArray):
        return pa.chunked_array([last_parts(chunk) for chunk in paths.chunks], pa.large_string())
    parts = pc.split_pattern(paths, "/", max_splits=1, reverse=True)
    return parts.values.take(pa.array(parts.offsets.to_numpy()[1:] - 1))


def normalized(texts: pa.Array) -> pa.Array:
    """Convert texts to Unicode NFC."""
    return pc.utf8_normalize(texts, form="NFC")


def is_ascii(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Tell which texts are ASCII. Returns bool (N,)."""
    mask: npt.NDArray[np.bool_] = pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
    return mask


def skeletons(names: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return last parts without case, accents, punctuation and photo extension, in two forms.

    The second form also lacks the prefix of an upload, a time or a hash of 8 digits or more as in
    1757471824350-IMG1813.jpeg; it is null if there is no prefix. Names of punctuation only are kept.
    """
    low = pc.utf8_lower(pc.utf8_normalize(names, form="NFKD"))
    stem = pc.replace_substring_regex(low, rf"(?:\.(?:{_ENDINGS}))+$", "")
    bare = pc.replace_substring_regex(stem, r"[^\p{L}\p{N}]+", "")
    own = pc.replace_substring_regex(stem, r"^(?:[0-9a-f]{8,}[-_ ]+(?:[0-9a-f]{4,}[-_ ]+)*)", "")
    has_front = pc.and_(pc.not_equal(own, stem), pc.not_equal(own, ""))
    own = pc.replace_substring_regex(own, r"[^\p{L}\p{N}]+", "")
    return (
        pc.if_else(pc.equal(bare, ""), low, bare),
        pc.if_else(pc.and_(has_front, pc.not_equal(own, "")), own, None),
    )


def _read_by_column(texts: pa.Array, rows: IntArray) -> tuple[Readings, IntArray]:
    """Read names in usual spellings by column. Also returns the rows of the other names."""
    decoded = pc.replace_substring(pc.replace_substring(texts, "%20", " "), "%2F", "/")
    spaced = pc.replace_substring(decoded, "+", " ")
    is_unusual = pc.match_substring_regex(spaced, _UNUSUAL).to_numpy(zero_copy_only=False)
    usual, unusual = np.flatnonzero(~is_unusual), np.flatnonzero(is_unusual)
    decoded = decoded.take(pa.array(usual))
    has_plus = np.flatnonzero(pc.match_substring(decoded, "+").to_numpy(zero_copy_only=False))
    text = pa.concat_arrays([decoded, spaced.take(pa.array(usual[has_plus]))])
    text = _fold_extensions(normalized(text))
    row = np.concatenate([rows[usual], rows[usual[has_plus]]])
    kind = np.where(pc.match_substring(text, "/").to_numpy(zero_copy_only=False), Kind.KEY, Kind.NAME)
    return Readings(row, text, kind.astype(np.int64), pa.nulls(len(text), pa.large_string())), rows[unusual]


def _read_urls(
    names: pa.Array, base: pa.Array, rows: IntArray, buckets: Collection[str]
) -> tuple[list[Readings], IntArray]:
    """Read URLs by column, separately for each base (scheme and host); usually there are few."""
    encoded = base.take(pa.array(rows)).dictionary_encode()
    codes, bases = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    if len(bases) > _MAX_BASES:
        return [], rows
    found, left = [], [rows[:0]]
    for code, each in enumerate(bases):
        here = rows[codes == code]
        scheme, _, host = each.partition("://")
        bucket, path = _read_url(scheme, host, buckets)
        if not each or bucket == "":  # not a URL, or the bucket is part of the path
            left.append(here)
            continue
        rest = pc.replace_substring_regex(names.take(pa.array(here)), rf"^{_BASE}", path)
        readings, unusual = _read_by_column(pc.replace_substring_regex(rest, _QUERY, r"\1"), here)
        if bucket is not None:
            kind = np.full(len(readings.row), Kind.KEY, np.int64)
        else:
            kind = np.where(readings.kind == Kind.KEY, Kind.PATH, readings.kind)
        named = pa.repeat(pa.scalar(bucket, pa.large_string()), len(kind))
        found.append(Readings(readings.row, readings.text, kind, named))
        left.append(unusual)
    return found, np.concatenate(left)


def _fold_extensions(paths: pa.Array) -> pa.Array:
    has_capitals = pc.match_substring_regex(paths, r"\.[^./]*[A-Z][^./]*$")
    capital = paths.filter(has_capitals)
    if not len(capital):
        return paths
    stem = pc.replace_substring_regex(capital, r"(?s)\.[^./]*$", "")
    extension = pc.ascii_lower(pc.replace_substring_regex(capital, r"(?s)^.*\.", ""))
    return pc.replace_with_mask(paths, has_capitals, join_texts(stem, extension, by="."))


def _read_each(
    names: pa.Array, unusual: IntArray, read: Callable[[str], tuple[Kind, str | None, Sequence[str]]]
) -> Readings:
    rows: list[int] = []
    texts: list[str] = []
    kinds: list[int] = []
    buckets: list[str | None] = []
    for row, name in zip(unusual.tolist(), names.take(pa.array(unusual)).to_pylist(), strict=True):
        found, bucket, paths = read(name)
        for path in paths:
            rows.append(row)
            texts.append(path)
            kinds.append(found)
            buckets.append(bucket)
    return Readings(
        np.array(rows, np.int64),
        pa.array(texts, pa.large_string()),
        np.array(kinds, np.int64),
        pa.array(buckets, pa.large_string()),
    )


def _join(parts: Sequence[Readings]) -> Readings:
    return Readings(
        np.concatenate([part.row for part in parts]),
        pa.concat_arrays([part.text for part in parts]),
        np.concatenate([part.kind for part in parts]),
        pa.concat_arrays([part.bucket for part in parts]),
    )


def _read_label(name: str, buckets: Collection[str]) -> tuple[Kind, str | None, Sequence[str]]:
    text = name.strip(_SURROUNDING)
    if "://" not in text and "%3a%2f%2f" in text.lower():  # a whole URL, encoded
        text = _decode_once(text)
    bucket: str | None = None
    scheme, separator, rest = text.partition("://")
    if separator and _SCHEME.match(scheme):
        bucket, path = _read_url(scheme.lower(), _without_query(rest), buckets)
        kind = Kind.PATH
    elif text.startswith(_ARN):
        bucket, _, path = text.removeprefix(_ARN).partition("/")
        kind = Kind.KEY
    else:
        path = _decode(_without_query(text)) if text.startswith("%") else _without_query(text)
        is_absolute = path.startswith(("/", "\\", "~", "../", "..\\")) or _DRIVE.match(path) is not None
        kind = Kind.PATH if is_absolute else Kind.KEY
    paths = _plain_forms(path)
    if bucket is not None:
        return Kind.KEY, bucket, paths
    return (kind if any("/" in path for path in paths) else Kind.NAME), None, paths


def _read_url(scheme: str, rest: str, buckets: Collection[str]) -> tuple[str | None, str]:
    """Return the bucket that a URL certainly names, or None, and the rest of its path."""
    host, _, path = rest.partition("/")
    if scheme in _S3_SCHEMES:
        return host, path
    host = host.rpartition("@")[2].partition(":")[0].lower()
    if found := _AWS_HOST.match(host):
        if found["bucket"]:
            return found["bucket"], path
        bucket, _, path = path.partition("/")
        return bucket, path
    for bucket in buckets:  # the first part of another server's host may be the bucket, but is not certain
        if host.startswith(f"{bucket}."):
            return None, f"{bucket}/{path}"
    return None, path


def _read_key(key: str) -> tuple[Kind, str | None, Sequence[str]]:
    return Kind.KEY, None, _plain_forms(key)


def _without_query(path: str) -> str:
    """Remove a URL's query and fragment if a photo's name comes before them."""
    cut = re.search(r"[?#]", path)
    if cut is not None and _ENDS_LIKE_A_PHOTO.search(path[: cut.start()].rstrip(_SURROUNDING)):
        return path[: cut.start()]
    return path


def _plain_forms(path: str) -> Sequence[str]:
    """Return the plain form of a path, or two if a plus may be a space."""
    form = _plain(_decode(path))
    if "+" not in path:
        return (form,)
    other = _plain(_decode(path.replace("+", " ")))
    return (form,) if other == form else (form, other)


def _plain(path: str) -> str:
    if not path.isascii():
        path = unicodedata.normalize("NFC", path)
    parts: list[str] = []
    for each in path.replace("\\", "/").split("/"):
        part = each if each[:1].isalnum() and each[-1:].isalnum() else each.strip(_SURROUNDING)
        if part == "..":
            parts = parts[:-1]
        elif part not in {"", "."}:
            parts.append(part)
    if not parts:
        return ""
    stem, dot, extension = parts[-1].rpartition(".")
    if dot:
        parts[-1] = f"{stem}.{extension.encode().lower().decode()}"  # only ASCII, as in _fold_extensions
    return "/".join(parts)


def _decode(text: str) -> str:
    """Decode percent-encoding repeatedly, because several exports may have encoded the name."""
    while "%" in text and (once := _decode_once(text)) != text:
        text = once
    return text


def _decode_once(text: str) -> str:
    """Decode percent-encoding once; a % that two hexadecimal digits do not follow is kept."""
    data = unquote_to_bytes(text)
    try:
        return data.decode()
    except UnicodeDecodeError:  # encoded by a page in Latin-1
        return data.decode("latin-1")
