"""Change the content of an object or file that several processes change: no change of another one is lost.

The content is read, changed and written only if it is still what was read; otherwise all of this is repeated.
S3 compares the ETag. For files, the processes that use this module take turns by a lock file next to the
file, and a change by any other program is noticed up to the moment of the write.
"""

from collections.abc import Callable
from pathlib import Path

from botocore.exceptions import ClientError
from filelock import FileLock

from physiq_ray.errors import NotFoundError, StorageError
from physiq_ray.storage.address import split_uri
from physiq_ray.storage.fetch import fetch_object
from physiq_ray.storage.objects import create_bytes, read_bytes, translate_os, write_bytes
from physiq_ray.storage.refusal import read_error
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated

TRIES = 20
# S3's answers to If-Match: the object was replaced or deleted, or another writer was faster just now.
REPLACED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "NoSuchKey", "404")

Change = Callable[[bytes | None], bytes | None]


def update_bytes(uri: str, change: Change) -> None:
    """Write what `change` makes of the content at a path or s3:// address.

    change: gets the content, None if there is none; returns the new content, None to leave it. It is called
    again if somebody else was faster.
    Raises StorageError: it cannot be read or written, or others changed it during every try.
    """
    update_once = _update_object if uri.startswith("s3://") else _update_file
    for _ in range(TRIES):
        if update_once(uri, change):
            return
    raise StorageError(
        f"write {uri}: others changed it during {TRIES} tries in a row; try again when fewer write it"
    )


def _update_object(uri: str, change: Change) -> bool:
    bucket, key = split_uri(uri)

    def get() -> tuple[bytes, str]:
        with translated(f"read {uri}"):
            found = fetch_object(bucket, key)
            return bytes(found.data), found.etag

    try:
        before, etag = retry(get)
    except NotFoundError:
        after = change(None)
        return after is None or create_bytes(after, uri)
    after = change(before)
    if after is None or after == before:
        return True
    content = after

    def put() -> bool:
        with translated(f"write {uri}"):
            try:
                s3_client().put_object(Bucket=bucket, Key=key, Body=content, IfMatch=f'"{etag}"')
            except ClientError as error:
                if read_error(error)[0] not in REPLACED:
                    raise
                return False
        return True

    return retry(put)


def _update_file(uri: str, change: Change) -> bool:
    path = Path(uri).resolve()  # a link stays a link
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        with lock:
            before = _read_file(path)
            after = change(before)
            if after is None or after == before:
                return True
            if _read_file(path) != before:
                return False
            write_bytes(after, str(path))
            return True
    except OSError as error:
        raise translate_os(error, f"write {uri}") from error


def _read_file(path: Path) -> bytes | None:
    try:
        return read_bytes(str(path))
    except NotFoundError:
        return None
