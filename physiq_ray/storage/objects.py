"""Objects and files: read whole, written whole or not at all."""

import io
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from botocore.exceptions import ClientError

from physiq_ray.errors import DeniedError, NotFoundError, StorageError
from physiq_ray.storage.address import split_uri
from physiq_ray.storage.etag import check_file
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import check_size, read_object, s3_client, translated

# What S3 answers to If-None-Match: it was there before, or another writer is just now faster.
ALREADY_THERE = ("PreconditionFailed", "ConditionalRequestConflict")


def read_bytes(uri: str, *, max_bytes: int | None = None, etag: str = "") -> bytes:
    """Read one object whole, trying again where the fault may pass.

    etag: of the version wanted, as listed; "" takes any. It costs no request more.
    Raises NotFoundError, ChangedError, DeniedError at once; UnreachableError after as many tries as `retry`
    makes; TooLargeError: more than max_bytes, of which none is read.
    """
    if not uri.startswith("s3://"):
        try:
            with Path(uri).open("rb") as file:
                if max_bytes is not None:
                    check_size(os.fstat(file.fileno()).st_size, max_bytes)
                data = file.read()
                check_file(uri, etag, data, os.fstat(file.fileno()))
            return data
        except OSError as error:
            raise translate_os(error, f"read {uri}") from error
    bucket, key = split_uri(uri)
    with translated(f"read {uri}"):
        s3_client()  # what is wrong here stays wrong: not tried again

    def get() -> bytes:
        with translated(f"read {uri}"):
            return read_object(bucket, key, max_bytes, etag=etag)

    return retry(get)


def write_file(path: Path, uri: str) -> None:
    """Copy a local file to `uri` so that it appears there whole or not at all.

    Raises StorageError: denied, missing bucket, full disk; UnreachableError after as many tries as `retry`
    makes.
    """
    try:
        path.stat()  # what is wrong with the file must not pass for a fault of the network
    except OSError as error:
        raise translate_os(error, f"read {path}") from error
    _write(uri, lambda: path.open("rb"))


def write_bytes(data: bytes, uri: str) -> None:
    """Write what is in memory to `uri`; all else as `write_file`."""
    _write(uri, lambda: io.BytesIO(data))


def _write(uri: str, open_content: Callable[[], IO[bytes]]) -> None:
    if uri.startswith("s3://"):
        bucket, key = split_uri(uri)
        with translated(f"write {uri}"):
            client = s3_client()

        def upload() -> None:
            with translated(f"write {uri}"), open_content() as content:
                client.upload_fileobj(content, bucket, key)

        retry(upload)
        return
    target = Path(uri)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as out, open_content() as content:
                shutil.copyfileobj(content, out, 1 << 20)
            Path(partial).chmod(0o644)  # mkstemp's 0600 would lock out everybody else
            Path(partial).replace(target)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise translate_os(error, f"write {uri}") from error


def create_bytes(data: bytes, uri: str) -> bool:
    """Write a small object, whole, where there is none yet; tell whether it was written.

    Of several that try at once with different contents, one succeeds. Raises StorageError.
    """
    if uri.startswith("s3://"):
        return _create_object(data, uri)
    beside = Path(f"{uri}.{os.getpid()}-{threading.get_ident()}")
    write_bytes(data, str(beside))
    try:
        Path(uri).hardlink_to(beside)  # which, unlike a rename, takes nobody's place
    except FileExistsError:
        return False
    except OSError as error:
        raise translate_os(error, f"write {uri}") from error
    finally:
        beside.unlink(missing_ok=True)
    return True


def _create_object(data: bytes, uri: str) -> bool:
    bucket, key = split_uri(uri)
    with translated(f"write {uri}"):
        client = s3_client()
    num_tries = 0

    def put() -> bool:
        nonlocal num_tries
        num_tries += 1
        with translated(f"write {uri}"):
            try:
                client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in ALREADY_THERE:
                    raise
                num_tries += error.response["ResponseMetadata"].get("RetryAttempts", 0)  # botocore's own
                return False
        return True

    if retry(put):
        return True
    # A first try whose answer was lost may be what a later one finds there.
    return num_tries > 1 and _holds(uri, data)


def _holds(uri: str, data: bytes) -> bool:
    try:
        return read_bytes(uri) == data
    except NotFoundError:  # another writer's, who is not done or has deleted it
        return False


def translate_os(error: OSError, attempted: str) -> StorageError:
    """Turn the file system's error into ours, with what was attempted in front."""
    kind: type[StorageError] = StorageError
    if isinstance(error, FileNotFoundError):
        kind = NotFoundError
    elif isinstance(error, PermissionError):
        kind = DeniedError
    return kind(f"{attempted}: {error.strerror}")
