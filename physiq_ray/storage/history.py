"""Everything that a bucket or folder holds below an address, with all versions: list, read, delete, replace.

A version of an object never changes, so it is deleted by its id. Only the version "null" may be overwritten;
it is compared with the listed ETag immediately before its deletion. Listing costs one request per 1000
versions. A local file counts as the only version of itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.errors import ChangedError, NotFoundError, UnreachableError, shown
from physiq_ray.storage.address import Bucket, split_uri
from physiq_ray.storage.deletion import State, compare_with_listing
from physiq_ray.storage.listing import LISTING_SCHEMA
from physiq_ray.storage.objects import read_bytes, translate_os, write_bytes
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated
from physiq_ray.storage.versions import Target, delete_version

# The versions of a key come newest first; a delete marker has the size 0 and no ETag.
HISTORY_SCHEMA = pa.schema(
    [*LISTING_SCHEMA, ("version", pa.large_string()), ("is_latest", pa.bool_()), ("is_marker", pa.bool_())]
)
NULL_VERSION: Final = "null"  # of an object that was written while its bucket had no versioning


@dataclass(frozen=True)
class Stored:
    """One version of an object, a delete marker, or a local file, which has no version; size in bytes."""

    uri: str
    size: int
    etag: str
    version: str | None = None
    is_latest: bool = True
    is_marker: bool = False

    def __str__(self) -> str:
        return shown(self.uri) if self.is_latest else f"{shown(self.uri)} (version {self.version})"


def list_history(bucket: Bucket, *, key: str | None = None) -> pa.Table:
    """List all versions and delete markers of a bucket or prefix, or of one key, as HISTORY_SCHEMA.

    Raises StorageError: denied, unreachable, or the listing stopped part-way.
    """
    tables = [HISTORY_SCHEMA.empty_table()]
    for page in _request_pages(bucket.name, bucket.prefix if key is None else key):
        rows = [row for row in page if key is None or row["key"] == key]
        tables.append(pa.Table.from_pylist(rows, HISTORY_SCHEMA))
    return pa.concat_tables(tables)


def list_stored(address: str) -> list[Stored]:
    """List the files below an address, or the one at it; of objects also the older versions, but no markers.

    Raises NotFoundError: a local path that does not exist. StorageError.
    """
    if address.startswith("s3://"):
        name, key = split_uri(address.rstrip("/"))
        table = list_history(Bucket(name, key))
        if key:  # not the objects of `answers-old/`, if the key is `answers`
            is_below = pc.or_(pc.equal(table["key"], key), pc.starts_with(table["key"], f"{key}/"))
            table = table.filter(is_below)
        return to_stored(table.filter(pc.invert(table["is_marker"])))
    path = Path(address)
    try:
        if not path.exists():
            raise NotFoundError(f"list {address}: no such file or folder")
        files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
        return [Stored(str(file), file.stat().st_size, "") for file in files]
    except OSError as error:
        raise translate_os(error, f"list {address}") from error


def to_stored(table: pa.Table) -> list[Stored]:
    """Turn rows of HISTORY_SCHEMA into objects."""
    columns = ["uri", "size", "etag", "version", "is_latest", "is_marker"]
    return [Stored(**row) for row in table.select(columns).to_pylist()]


def read_stored(stored: Stored) -> bytes:
    """Read one version. Raises StorageError: it is gone, denied, or unreachable."""
    version = stored.version
    if version is None or stored.is_latest:
        return read_bytes(stored.uri, etag=stored.etag)
    bucket, key = split_uri(stored.uri)
    right = f"s3:GetObjectVersion on arn:aws:s3:::{bucket}/*"

    def get() -> bytes:
        with translated(f"read {stored}", right=right):
            answer = s3_client().get_object(Bucket=bucket, Key=key, VersionId=version)
            return bytes(answer["Body"].read())

    return retry(get)


def delete_stored(stored: Stored) -> None:
    """Delete one version permanently, or a file; it is no error if it is gone already.

    Raises StorageError: denied, locked, or unreachable; ChangedError: it was overwritten since it was listed.
    """
    version = stored.version
    if version is None:
        try:
            Path(stored.uri).unlink(missing_ok=True)
        except OSError as error:
            raise translate_os(error, f"delete {stored.uri}") from error
        return
    bucket, key = split_uri(stored.uri)
    # A server may list an empty object without its ETag; nothing can be lost with it.
    if version == NULL_VERSION and stored.is_latest and stored.etag:
        unmet = compare_with_listing(bucket, Target(key, stored.etag, stored.size), may_be_deleted=False)
        if unmet is not None and unmet.state == State.CHANGED:
            raise ChangedError(f"{unmet.error}; run the command again")
        if unmet is not None:
            return
    delete_version(bucket, key, version)


def replace_stored(stored: Stored, data: bytes) -> None:
    """Replace the latest version, complete or not at all, and delete it permanently.

    Raises StorageError: it cannot be written, or the old version cannot be deleted.
    """
    write_bytes(data, stored.uri)
    if stored.version is None:
        return
    bucket, key = split_uri(stored.uri)
    for old in to_stored(list_history(Bucket(bucket), key=key)):
        if old.version == stored.version and not old.is_latest:
            delete_stored(old)


def _request_pages(bucket: str, prefix: str) -> Iterator[list[dict[str, Any]]]:
    attempted, right = f"list the versions of s3://{bucket}/{prefix}", f"s3:ListBucketVersions on {bucket}"
    marker: dict[str, str] = {}

    def get() -> dict[str, Any]:
        with translated(attempted, right=right):
            answer: dict[str, Any] = s3_client().list_object_versions(Bucket=bucket, Prefix=prefix, **marker)
        is_truncated, following = answer.get("IsTruncated"), answer.get("NextKeyMarker")
        if is_truncated is None or (is_truncated and not following):
            # Also botocore's paginator would take such a page for the last one.
            raise UnreachableError(f"{attempted}: the listing stopped part-way; try again")
        return answer

    while True:
        answer = retry(get)
        yield [
            {
                "uri": f"s3://{bucket}/{item['Key']}",
                "bucket": bucket,
                "key": item["Key"],
                "size": item.get("Size", 0),
                "etag": item.get("ETag", "").strip('"'),
                "modified": item["LastModified"],
                "version": item["VersionId"],
                "is_latest": item["IsLatest"],
                "is_marker": kind == "DeleteMarkers",
            }
            for kind in ("Versions", "DeleteMarkers")
            for item in answer.get(kind, ())
        ]
        if not answer["IsTruncated"]:
            return
        marker = {"KeyMarker": answer["NextKeyMarker"], "VersionIdMarker": answer["NextVersionIdMarker"]}
