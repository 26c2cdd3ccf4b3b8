"""Read and write one object or file. A write is complete or changes nothing.

This module has the files; `remote` has the objects, and is imported when the first s3:// address is used.
"""

import contextlib
import io
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from physiq_ray.errors import ChangedError, DeniedError, NotFoundError, StorageError
from physiq_ray.storage.etag import check_file, check_size


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
    from physiq_ray.storage.remote import read_object

    return read_object(uri, max_bytes=max_bytes, etag=etag)


@contextlib.contextmanager
def open_whole(uri: str) -> Iterator[io.BufferedReader | io.BytesIO]:
    """Give an object or file to read and seek in, for a block that need not hold all of a file in memory.

    Raises as `read_bytes`; ChangedError at the end of the block: the file was written meanwhile, so that what
    was read may be of two versions.
    """
    if uri.startswith("s3://"):
        yield io.BytesIO(read_bytes(uri))
        return
    try:
        with Path(uri).open("rb") as file:
            if not file.seekable():  # a pipe
                yield io.BytesIO(file.read())
                return
            before = os.fstat(file.fileno())
            yield file
            after = os.fstat(file.fileno())
    except OSError as error:
        raise translate_os(error, f"read {uri}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ChangedError(f"read {uri}: it was written while it was read; try again")


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
        from physiq_ray.storage.remote import write_object

        write_object(uri, open_content)
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
        from physiq_ray.storage.remote import create_object

        return create_object(data, uri)
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


def translate_os(error: OSError, attempted: str) -> StorageError:
    """Turn an error of the file system into ours; the sentence starts with what was attempted."""
    kind: type[StorageError] = StorageError
    if isinstance(error, FileNotFoundError):
        kind = NotFoundError
    elif isinstance(error, PermissionError):
        kind = DeniedError
    return kind(f"{attempted}: {error.strerror}")
