"""Objects and files: read whole, written whole or not at all."""

import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from botocore.exceptions import ClientError

from physiq_ray.errors import DeniedError, NotFoundError, StorageError, UnreachableError
from physiq_ray.storage.address import split_uri
from physiq_ray.storage.s3 import read_object, s3_client, translated

# Waits of 0.5, 1, 2, 4, 8, 16 s between tries, or of half of that: an endpoint that is back within fifteen
# seconds costs no photo.
READ_ATTEMPTS = 7
FIRST_WAIT_S = 0.5
# What S3 answers to If-None-Match: it was there before, or another writer is just now faster.
ALREADY_THERE = ("PreconditionFailed", "ConditionalRequestConflict")

Result = TypeVar("Result")


def read_bytes(uri: str) -> bytes:
    """Read one object whole, trying again where the fault may pass.

    Raises NotFoundError, DeniedError at once; UnreachableError after READ_ATTEMPTS tries.
    """
    if not uri.startswith("s3://"):
        try:
            return Path(uri).read_bytes()
        except OSError as error:
            raise translate_os(error, f"read {uri}") from error
    bucket, key = split_uri(uri)
    with translated(f"read {uri}"):
        s3_client()  # what is wrong here stays wrong: not tried again

    def get() -> bytes:
        with translated(f"read {uri}"):
            return read_object(bucket, key)

    return _retry(get)


def write_file(path: Path, uri: str) -> None:
    """Copy a local file to `uri` so that it appears there whole or not at all.

    Raises StorageError: denied, missing bucket, full disk.
    """
    if uri.startswith("s3://"):
        bucket, key = split_uri(uri)
        with translated(f"write {uri}"):
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
        raise translate_os(error, f"write {uri}") from error


def write_bytes(data: bytes, uri: str) -> None:
    """Write a small object so that it appears whole or not at all."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        write_file(Path(file.name), uri)


def create_bytes(data: bytes, uri: str) -> bool:
    """Write a small object, whole, where there is none yet; tell whether it was written.

    Of several that try at once, one succeeds. Raises StorageError.
    """
    if uri.startswith("s3://"):
        bucket, key = split_uri(uri)
        with translated(f"write {uri}"):
            try:
                s3_client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ALREADY_THERE:
                    return False
                raise
        return True
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


def translate_os(error: OSError, attempted: str) -> StorageError:
    """Turn the file system's error into ours, with what was attempted in front."""
    kind: type[StorageError] = StorageError
    if isinstance(error, FileNotFoundError):
        kind = NotFoundError
    elif isinstance(error, PermissionError):
        kind = DeniedError
    return kind(f"{attempted}: {error.strerror}")


def _retry(call: Callable[[], Result]) -> Result:
    for attempt in range(READ_ATTEMPTS - 1):
        try:
            return call()
        except UnreachableError:
            # Full jitter on the upper half: workers that failed together must not come back together.
            time.sleep(FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1))
    return call()
