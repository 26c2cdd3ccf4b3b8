"""Where photos lie: S3 buckets and folders, listed, read and written the same way.

A photo's address is its `uri`: `s3://bucket/key`, the key as S3 has it and nothing escaped, or an
absolute path. Sources are listed side by side; one that cannot be listed keeps its error and the others
go on. A listing is whole or it is an error, never a part. boto3 lists about 15 000 keys a second and
source; its errors are translated here and nowhere else.
"""

import contextlib
import functools
import hashlib
import os
import random
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from physiq_ray.errors import DeniedError, NotFoundError, SettingError, StorageError, UnreachableError

PHOTO_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".heic", ".heif"),  # not decodable here, yet a photo: a report must name it, not overlook it
)

LISTING_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("bucket", pa.string()),
        ("key", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("modified", pa.timestamp("ms", tz="UTC")),
    ]
)

# Waits of 0.5, 1, 2, 4, 8 s between tries: an endpoint that restarts within ten seconds costs no photo.
READ_ATTEMPTS = 6
FIRST_WAIT_S = 0.5

Result = TypeVar("Result")


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket, or the part of it under a prefix that ends in "/" (or is empty)."""

    name: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.name}/{self.prefix}".rstrip("/")


@dataclass(frozen=True)
class Folder:
    """A folder of the local file system, or one that all nodes share; path is absolute."""

    path: Path

    @property
    def name(self) -> str:
        """What stands in the manifest's `bucket` column."""
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


Source = Bucket | Folder


@dataclass(frozen=True)
class Listing:
    """One source's photos as a table of LISTING_SCHEMA, or why there is none.

    num_others counts the objects without a photo's extension; they are left alone everywhere.
    """

    source: Source
    table: pa.Table | None = None
    num_others: int = 0
    error: StorageError | None = None


def parse_source(text: str) -> Source:
    """Read `s3://bucket[/prefix]` or a folder's path. A prefix means the folder of that name.

    Raises SettingError: no address at all, another scheme, or a name no bucket can have.
    """
    if not text.strip():
        raise SettingError("sources: an empty address; give s3://bucket[/prefix] or a folder")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Folder(Path(text).expanduser().absolute())
    if scheme != "s3":
        raise SettingError(f"sources: {text!r}: {scheme}:// is not supported; give s3:// or a folder")
    name, _, prefix = rest.partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name):
        raise SettingError(f"sources: {text!r}: {name!r} cannot be the name of a bucket")
    prefix = prefix.rstrip("/")
    return Bucket(name, prefix + "/" if prefix else "")


def parse_sources(texts: Sequence[str]) -> tuple[Source, ...]:
    """Read several addresses.

    Raises SettingError: none given, a bad one, or one inside another, whose photos would count twice.
    """
    if not texts:
        raise SettingError("sources: none given; name them with --sources s3://bucket … or PHYSIQ_SOURCES")
    sources = tuple(parse_source(text) for text in texts)
    for inner in sources:
        for outer in sources:
            if inner is not outer and _contains(outer, inner):
                raise SettingError(f"sources: {inner} lies within {outer}; give one of the two")
    return sources


def list_sources(sources: Sequence[Source]) -> tuple[Listing, ...]:
    """List all sources side by side, each to a table or an error of its own."""
    with ThreadPoolExecutor(max_workers=min(16, len(sources))) as threads:
        return _with_content_hashes(tuple(threads.map(_list_source, sources)))


def read_bytes(uri: str) -> bytes:
    """Read one object whole, trying again where the fault may pass.

    Raises NotFoundError, DeniedError at once; UnreachableError after READ_ATTEMPTS tries.
    """
    if not uri.startswith("s3://"):
        try:
            return Path(uri).read_bytes()
        except OSError as error:
            raise _translate_os(error, f"read {uri}") from error
    bucket, key = split_uri(uri)
    with _translated(f"read {uri}"):
        client = s3_client()  # what is wrong here stays wrong: not tried again

    def get() -> bytes:
        with _translated(f"read {uri}"):
            # The body is read here: botocore retries a request, never a body that breaks off; it does
            # compare its length with the announced one.
            body: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return body

    return _retry(get)


def write_file(path: Path, uri: str) -> None:
    """Copy a local file to `uri` so that it appears there whole or not at all.

    Raises StorageError: denied, missing bucket, full disk.
    """
    if uri.startswith("s3://"):
        bucket, key = split_uri(uri)
        with _translated(f"write {uri}"):
            s3_client().upload_file(str(path), bucket, key)
        return
    target = Path(uri)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as out, path.open("rb") as source:
                while chunk := source.read(1 << 20):
                    out.write(chunk)
            Path(partial).chmod(0o644)  # mkstemp's 0600 would lock out everybody else
            Path(partial).replace(target)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise _translate_os(error, f"write {uri}") from error


def write_bytes(data: bytes, uri: str) -> None:
    """Write a small object so that it appears whole or not at all."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        write_file(Path(file.name), uri)


def join_uri(base: str, *names: str) -> str:
    """Append names to a folder's path or an s3:// prefix."""
    if base.startswith("s3://"):
        return "/".join((base.rstrip("/"), *names))
    return str(Path(base).joinpath(*names))


def absolute_uri(text: str) -> str:
    """Make a folder's path absolute, for processes that work elsewhere; s3:// stays as it is."""
    return text if text.startswith("s3://") else str(Path(text).expanduser().absolute())


def split_uri(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key`. By hand: a key may hold ?, # and %, which mean nothing here."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


@functools.cache
def s3_client() -> Any:
    """Give this process's S3 client, made on first use from the standard AWS chain.

    Raises DeniedError: AWS_PROFILE names no profile.
    """
    config = Config(
        max_pool_connections=64,  # as many as threads may fetch at once
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "max_attempts": 4},
        user_agent_extra="physiq-ray",
    )
    try:
        # A session of its own: boto3's default session must not be shared between threads.
        return boto3.session.Session().client("s3", config=config)
    except ProfileNotFound as error:
        raise DeniedError(f"S3: {error}; set AWS_PROFILE to one that exists or unset it") from error
    except ValueError as error:
        raise UnreachableError(f"S3: {error}; set AWS_ENDPOINT_URL to an http(s):// address") from error


def _contains(outer: Source, inner: Source) -> bool:
    if isinstance(outer, Bucket) and isinstance(inner, Bucket):
        return outer.name == inner.name and inner.prefix.startswith(outer.prefix)
    if isinstance(outer, Folder) and isinstance(inner, Folder):
        return inner.path.resolve().is_relative_to(outer.path.resolve())
    return False


def _list_source(source: Source) -> Listing:
    pages = _bucket_pages(source) if isinstance(source, Bucket) else _folder_pages(source)
    num_others = 0
    batches = []
    try:
        for page in pages:
            photos = [item for item in page if is_photo(item[0])]
            num_others += len(page) - len(photos)
            batches.append(_to_table(source, photos))
    except StorageError as error:
        return Listing(source, error=error)
    except UnicodeEncodeError as error:  # Linux takes any bytes for a file's name
        return Listing(source, error=StorageError(f"list {source}: {error.object!r} is not UTF-8; rename it"))
    table = pa.concat_tables(batches) if batches else LISTING_SCHEMA.empty_table()
    return Listing(source, table, num_others)


def is_photo(key: str) -> bool:
    """Tell by the extension; case does not matter."""
    return PurePosixPath(key).suffix.lower() in PHOTO_EXTENSIONS


Item = tuple[str, int, str, datetime]  # key, size in bytes, ETag or "", last modified


def _bucket_pages(source: Bucket) -> Iterator[list[Item]]:
    with _translated(f"list {source}"):
        paginator = s3_client().get_paginator("list_objects_v2")
        for page in paginator.paginate(Bucket=source.name, Prefix=source.prefix):
            yield [
                (item["Key"], item["Size"], item["ETag"].strip('"'), item["LastModified"])
                for item in page.get("Contents", ())
                if not item["Key"].endswith("/")  # what a console shows as a folder
            ]


def _folder_pages(source: Folder) -> Iterator[list[Item]]:
    def refuse(error: OSError) -> None:
        # os.walk passes over a folder it may not read: the listing would be short in silence.
        raise _translate_os(error, f"list {error.filename}") from error

    if source.path.is_file():
        raise StorageError(f"list {source}: not a folder")
    for parent, folders, files in os.walk(source.path, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        page = []
        for name in files:
            if name.startswith("."):
                continue
            path = Path(parent, name)
            try:
                status = path.stat()
            except FileNotFoundError:  # a link to nothing, or deleted since its folder was read
                continue
            except OSError as error:
                raise _translate_os(error, f"list {path}") from error
            if stat.S_ISREG(status.st_mode):
                modified = datetime.fromtimestamp(status.st_mtime, UTC)
                page.append((path.relative_to(source.path).as_posix(), status.st_size, "", modified))
        yield page


def _to_table(source: Source, items: list[Item]) -> pa.Table:
    keys = pa.array([item[0] for item in items], pa.string())
    base = f"s3://{source.name}/" if isinstance(source, Bucket) else f"{source.path.as_posix()}/"
    return pa.table(
        [
            pc.binary_join_element_wise(base, keys, ""),
            pa.repeat(pa.scalar(source.name), len(items)),
            keys,
            pa.array([item[1] for item in items], pa.int64()),
            pa.array([item[2] for item in items], pa.string()),
            pa.array([item[3] for item in items], pa.timestamp("ms", tz="UTC")),
        ],
        schema=LISTING_SCHEMA,
    )


def _with_content_hashes(listings: tuple[Listing, ...]) -> tuple[Listing, ...]:
    """Give files in folders the ETag S3 would: the MD5 of their content.

    Only files that share their size with another photo are read; no other can be a copy.
    """
    tables = [listing.table for listing in listings if listing.table is not None]
    if not tables or all(isinstance(listing.source, Bucket) for listing in listings):
        return listings
    sizes, counts = np.unique(
        np.concatenate([table["size"].to_numpy() for table in tables]), return_counts=True
    )
    shared_sizes = pa.array(sizes[counts > 1])

    def fill(listing: Listing) -> Listing:
        if listing.table is None or isinstance(listing.source, Bucket):
            return listing
        uris, shared = listing.table["uri"], pc.is_in(listing.table["size"], shared_sizes)
        try:
            with ThreadPoolExecutor(max_workers=8) as threads:
                read = iter(list(threads.map(_file_md5, uris.filter(shared).to_pylist())))
        except StorageError as error:
            return Listing(listing.source, error=error)
        etags = [next(read) if is_shared else "" for is_shared in shared.to_pylist()]
        position = listing.table.schema.get_field_index("etag")
        table = listing.table.set_column(position, "etag", pa.array(etags, pa.string()))
        return Listing(listing.source, table, listing.num_others)

    return tuple(fill(listing) for listing in listings)


def _file_md5(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise _translate_os(error, f"read {path}") from error


def _retry(call: Callable[[], Result]) -> Result:
    for attempt in range(READ_ATTEMPTS - 1):
        try:
            return call()
        except UnreachableError:
            # Full jitter on the upper half: workers that failed together must not come back together.
            time.sleep(FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1))
    return call()


@contextlib.contextmanager
def _translated(attempted: str) -> Iterator[None]:
    """Turn boto3's errors into ours, with what was attempted in front."""
    try:
        yield
    except ClientError as error:
        raise _translate_client(error, attempted) from error
    except S3UploadFailedError as error:
        cause = error.__context__  # the error that says why
        raise (
            _translate_client(cause, attempted)
            if isinstance(cause, ClientError)
            else StorageError(f"{attempted}: {error}")
        ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise DeniedError(
            f"{attempted}: {error}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "run where a role gives access"
        ) from error
    except (HTTPClientError, BotoConnectionError, IncompleteReadError, OSError) as error:
        raise UnreachableError(f"{attempted}: {error}; check AWS_ENDPOINT_URL and the network") from error
    except BotoCoreError as error:
        raise StorageError(f"{attempted}: {error}") from error


_MISSING = {"NoSuchBucket", "NoSuchKey", "404", "NotFound"}
_BAD_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure"}


def _translate_client(error: ClientError, attempted: str) -> StorageError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _MISSING:
        return NotFoundError(f"{attempted}: {code}; check the name, the region and AWS_ENDPOINT_URL")
    if code in _BAD_KEYS:
        return DeniedError(f"{attempted}: the credentials were refused ({code}); check AWS_PROFILE and keys")
    if status == 403:
        return DeniedError(
            f"{attempted}: {code}; the role or key needs s3:ListBucket on the bucket and s3:GetObject "
            "(for output s3:PutObject too) on its objects"
        )
    if status >= 500 or status == 429 or code in {"SlowDown", "RequestTimeout"}:
        return UnreachableError(f"{attempted}: {code or status} after several tries; try again later")
    return StorageError(f"{attempted}: {error}")


def _translate_os(error: OSError, attempted: str) -> StorageError:
    kind: type[StorageError] = StorageError
    if isinstance(error, FileNotFoundError):
        kind = NotFoundError
    elif isinstance(error, PermissionError):
        kind = DeniedError
    return kind(f"{attempted}: {error.strerror}")
