"""Addresses, `s3://bucket[/prefix]` or the path of a folder: parse, join and split them. No request is sent.

A photo's address is its `uri`: an absolute path, or `s3://bucket/key` with the key as S3 stores it, without
any escapes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physiq_ray.errors import SettingError


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket, or the part of it under a prefix that ends in "/" (or is empty)."""

    name: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.name}/{self.prefix}".rstrip("/")


@dataclass(frozen=True)
class Folder:
    """A folder of the local file system, or one that all nodes share; its path is absolute."""

    path: Path

    @property
    def name(self) -> str:
        """The value of the manifest's `bucket` column."""
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


Source = Bucket | Folder


@dataclass(frozen=True)
class CustomSource:
    """A source that the caller wrote (`custom.PhotoSource`), identified by its name."""

    name: str

    def __str__(self) -> str:
        return self.name


def parse_source(text: str) -> Source:
    """Read `s3://bucket[/prefix]` or a folder's path. A prefix means the folder of that name.

    Raises SettingError: an empty address, another scheme, or a name that no bucket can have.
    """
    if not text.strip():
        raise SettingError("sources: an empty address; give s3://bucket[/prefix] or a folder")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Folder(Path(text).expanduser().absolute())
    if scheme != "s3":
        raise SettingError(f"sources: {text!r}: {scheme}:// is not supported; give s3:// or a folder")
    name, _, prefix = rest.partition("/")
    if not is_bucket_name(name):
        raise SettingError(f"sources: {text!r}: {name!r} cannot be the name of a bucket")
    prefix = prefix.rstrip("/")
    return Bucket(name, prefix + "/" if prefix else "")


def parse_sources(texts: Sequence[str]) -> tuple[Source, ...]:
    """Read several addresses.

    Raises SettingError: no address, a wrong one, or one inside another, whose photos would count twice.
    """
    if not texts:
        raise SettingError("sources: none given; name them with --sources s3://bucket … or PHYSIQ_SOURCES")
    sources = tuple(parse_source(text) for text in texts)
    for inner in sources:
        for outer in sources:
            if inner is not outer and _contains(outer, inner):
                raise SettingError(f"sources: {inner} lies within {outer}; give one of the two")
    return sources


def join_uri(base: str, *names: str) -> str:
    """Append names to a folder's path or an s3:// prefix."""
    if base.startswith("s3://"):
        return "/".join((base.rstrip("/"), *names))
    return str(Path(base).joinpath(*names))


def absolute_uri(text: str) -> str:
    """Make a folder's path absolute, for processes with another working folder; s3:// does not change."""
    return text if text.startswith("s3://") else str(Path(text).expanduser().absolute())


def split_uri(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key`. urllib is not used, because a key may contain ?, # and %."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def is_bucket_name(name: str) -> bool:
    """Tell whether a bucket can have this name, by S3's rules."""
    return re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name) is not None


def _contains(outer: Source, inner: Source) -> bool:
    if isinstance(outer, Bucket) and isinstance(inner, Bucket):
        return outer.name == inner.name and inner.prefix.startswith(outer.prefix)
    if isinstance(outer, Folder) and isinstance(inner, Folder):
        return inner.path.resolve().is_relative_to(outer.path.resolve())
    return False
