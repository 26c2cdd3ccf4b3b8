"""Read and write one object or file. A write is complete or changes nothing."""

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
from physiq_ray.storage.fetch import check_size, fetch_object
from physiq_ray.storage.refusal import read_error
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated

# S3's answers to If-None-Match: an object was there before, or another writer was faster at the same moment.
ALREADY_THERE = ("PreconditionFailed", "ConditionalRequestConflict")


def read_bytes(uri: str, *, max_bytes: int | None = None, etag: str = "") -> bytes:
    """Read one object whole, with retries after errors that may be temporary.

    etag: the listed version; "" accepts any. Comparing costs no additional request.
    Raises NotFoundError, ChangedError, DeniedError at once; UnreachableError after the attempts of `retry`;
    TooLargeError: more than max_bytes; nothing is read then.
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
        s3_client()  # outside the retries: a wrong setting does not become right

    def get() -> bytes:
        with translated(f"read {uri}"):
            return bytes(fetch_object(bucket, key, max_bytes=max_bytes, etag=etag).data)

    return retry(get)


def write_file(path: Path, uri: str) -> None:
    """Copy a local file to `uri`; it appears there complete or not at all.

    Raises StorageError: denied, missing bucket, full disk; UnreachableError after the attempts of `retry`.
    """
    try:
        path.stat()  # an error of the file must not be taken for an error of the network
    except OSError as error:
        raise translate_os(error, f"read {path}") from error
    _write(uri, lambda: path.open("rb"))


def write_bytes(data: bytes, uri: str) -> None:
    """Write bytes to `uri`, in the same way as `write_file`."""
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
            Path(partial).chmod(0o644)  # with mkstemp's 0600, no other user could read it
            Path(partial).replace(target)
        finally:
            Path(partial).unlink(missing_ok=True)
    except OSError as error:
        raise translate_os(error, f"write {uri}") from error


def create_bytes(data: bytes, uri: str) -> bool:
    """Write a small object, complete, if there is none of that name yet; tell whether it was written.

    If several callers try at the same time with different contents, one of them succeeds.
    Raises StorageError.
    """
    if uri.startswith("s3://"):
        return _create_object(data, uri)
    temporary = Path(f"{uri}.{os.getpid()}-{threading.get_ident()}")
    write_bytes(data, str(temporary))
    try:
        Path(uri).hardlink_to(temporary)  # unlike a rename, this never replaces a file
    except FileExistsError:
        return False
    except OSError as error:
        raise translate_os(error, f"write {uri}") from error
    finally:
        temporary.unlink(missing_ok=True)
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
                if read_error(error)[0] not in ALREADY_THERE:
                    raise
                num_tries += error.response["ResponseMetadata"].get("RetryAttempts", 0)  # botocore's own
                return False
        return True

    if retry(put):
        return True
    # If the answer to the first attempt was lost, a later attempt may find the object of the first.
    return num_tries > 1 and _holds(uri, data)


def _holds(uri: str, data: bytes) -> bool:
    try:
        return read_bytes(uri) == data
    except NotFoundError:  # another writer is not finished yet, or has deleted its object
        return False


def translate_os(error: OSError, attempted: str) -> StorageError:
    """Turn an error of the file system into ours; the sentence starts with what was attempted."""
    kind: type[StorageError] = StorageError
    if isinstance(error, FileNotFoundError):
        kind = NotFoundError
    elif isinstance(error, PermissionError):
        kind = DeniedError
    return kind(f"{attempted}: {error.strerror}")
