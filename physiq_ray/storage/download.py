"""One object into a file, whole and compared with its ETag.

Up to 16 MiB it comes by one request through memory; a larger one by ranges side by side, straight to the
disk. An object that is overwritten meanwhile comes whole as it was or as it is, never as a mixture.
"""

import contextlib
import hashlib
import os
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from boto3.exceptions import RetriesExceededError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from obstore.exceptions import BaseError as ObstoreError
from s3transfer.exceptions import S3DownloadFailedError

from physiq_ray.errors import StorageError, UnreachableError
from physiq_ray.storage.address import is_bucket_name, split_uri
from physiq_ray.storage.etag import file_md5, is_md5
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import is_plain, open_store, s3_client, translated

MAX_MEMORY_BYTES: Final = 16 * 2**20  # of one object; a phone photo has 2 to 8 MB
RANGES_AT_ONCE: Final = 8  # of one object
CONTENT_TRIES: Final = 3  # of an object whose bytes do not fit its ETag
NUM_DIFFERING: Final = 3  # objects of a bucket whose ETags are no MD5s, before that is said of all

_RANGES: Final = TransferConfig(
    multipart_threshold=8 * 2**20,
    multipart_chunksize=8 * 2**20,
    max_concurrency=RANGES_AT_ONCE,
    max_io_queue=100,  # of 256 KiB each: a slow disk must not fill the memory
)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
# Keys of AWS KMS or of the customer: the ETag of such an object looks like an MD5 and is none.
_KMS = ("aws:kms", "aws:kms:dsse")


class EtagJudge:
    """Finds out of which buckets the ETags look like the MD5 of the content and are none.

    S3's directory buckets have such ETags. A bucket is one of these if NUM_DIFFERING objects came with the
    announced length and twice with the same bytes, none of which fits, and no object's ETag ever did.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fitting: set[str] = set()
        self._differing: dict[str, set[str]] = {}

    def note_fit(self, bucket: str) -> None:
        """Note an object whose ETag is its MD5."""
        if bucket not in self._fitting:
            with self._lock:
                self._fitting.add(bucket)

    def note_difference(self, bucket: str, key: str) -> None:
        """Note an object that came twice with the same bytes, and with another ETag."""
        with self._lock:
            self._differing.setdefault(bucket, set()).add(key)

    def has_other_etags(self, bucket: str) -> bool:
        """Tell whether size and length are all there is to compare in a bucket."""
        with self._lock:
            return bucket not in self._fitting and len(self._differing.get(bucket, ())) >= NUM_DIFFERING


class OtherContentError(StorageError):
    """An object's bytes do not fit its ETag, as often as it was read."""


@dataclass(frozen=True)
class Version:
    """What an object was when it was read: size in bytes, ETag without quotes, last modified in seconds."""

    size: int
    etag: str
    modified_s: int


def download(uri: str, path: Path, size: int, judge: EtagJudge | None = None) -> Version:
    """Write a whole object to a file, which is not whole until this returns; say which version it is.

    size: as listed, in bytes; it decides the way only. judge: what is known of the buckets' ETags.
    Raises NotFoundError, DeniedError at once; UnreachableError after as many tries as `retry` makes;
    OtherContentError: its bytes do not fit its ETag, CONTENT_TRIES times; OSError: the disk's own.
    """
    bucket, key = split_uri(uri)
    with _translated(uri):
        s3_client()  # what is wrong here stays wrong: not tried again
    is_large, judge = size > MAX_MEMORY_BYTES, judge or EtagJudge()
    md5 = ""
    for _ in range(CONTENT_TRIES):
        if not is_large:
            answer = _read_again(uri, bucket, key)
            if answer is None:  # it has grown
                is_large = True
            else:
                version, data = answer
                _write(path, data)
        if is_large:
            version = _fetch_again(uri, bucket, key, path)
        if not is_md5(version.etag):
            return version
        last, md5 = md5, file_md5(path) if is_large else hashlib.md5(data, usedforsecurity=False).hexdigest()
        if md5 == version.etag:
            judge.note_fit(bucket)
            return version
        if md5 == last:  # what changes bytes on their way hardly does it twice alike
            judge.note_difference(bucket, key)
        if judge.has_other_etags(bucket) or _has_other_etag(uri, bucket, key):
            return version
    raise OtherContentError(
        f"download {uri}: what came has the MD5 {md5}, its ETag says {version.etag}, {CONTENT_TRIES} times; "
        "upload the photo again, or look for what changes bytes between here and the store"
    )


def _translated(uri: str) -> AbstractContextManager[None]:
    return translated(f"download {uri}", right=f"s3:GetObject on arn:aws:s3:::{uri.removeprefix('s3://')}")


def _read_again(uri: str, bucket: str, key: str) -> tuple[Version, Any] | None:
    def get() -> tuple[Version, Any] | None:
        with _translated(uri):
            return _read_version(bucket, key)

    return retry(get)


def _read_version(bucket: str, key: str) -> tuple[Version, Any] | None:
    """Read one object into a buffer, in one try of each client; None where it is too large for that."""
    if is_bucket_name(bucket) and is_plain(key):
        # Whatever goes wrong here is asked of boto3 again: it knows redirects, and says what the fault is.
        with contextlib.suppress(ObstoreError, OSError, ValueError):
            result = open_store(bucket).get(key)
            meta = result.meta
            if meta["size"] > MAX_MEMORY_BYTES:
                return None
            data = result.bytes()
            if len(data) == meta["size"] and meta["e_tag"]:
                return _version(meta["size"], meta["e_tag"], meta["last_modified"]), data
    answer = s3_client().get_object(Bucket=bucket, Key=key)
    if answer["ContentLength"] > MAX_MEMORY_BYTES:
        answer["Body"].close()
        return None
    return _version(answer["ContentLength"], answer["ETag"], answer["LastModified"]), answer["Body"].read()


def _version(size: int, etag: str, modified: datetime) -> Version:
    return Version(size, etag.strip('"'), int(modified.timestamp()))


def _write(path: Path, data: Any) -> None:
    # Not by Path.open: its buffer and text layer take a third of the time of a small file.
    file = os.open(path, _NEW_FILE, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


class _DiskError(Exception):
    """Carries the disk's own error past those who would take it for the network's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _fetch_again(uri: str, bucket: str, key: str, path: Path) -> Version:
    def fetch() -> Version:
        with _translated(uri):
            return _fetch_ranges(uri, bucket, key, path)

    try:
        return retry(fetch)
    except _DiskError as error:
        raise error.error from None


def _fetch_ranges(uri: str, bucket: str, key: str, path: Path) -> Version:
    client = s3_client()
    before = _head(bucket, key)
    try:
        client.download_file(bucket, key, str(path), Config=_RANGES)
        size = path.stat().st_size
    except S3DownloadFailedError as error:  # overwritten, the parts' IfMatch says: begin anew
        raise UnreachableError(f"download {uri}: {error}; try again when it rests") from error
    except RetriesExceededError as error:
        raise UnreachableError(
            f"download {uri}: {error.last_exception}; check AWS_ENDPOINT_URL and the network"
        ) from error
    except ConnectionError:
        raise
    except OSError as error:
        raise _DiskError(error) from error
    if before != _head(bucket, key) or size != before.size:
        raise UnreachableError(f"download {uri}: overwritten while it was read; try again when it rests")
    return before


def _head(bucket: str, key: str) -> Version:
    answer = s3_client().head_object(Bucket=bucket, Key=key)
    return _version(answer["ContentLength"], answer["ETag"], answer["LastModified"])


def _has_other_etag(uri: str, bucket: str, key: str) -> bool:
    """Tell whether the object is encrypted in a way that makes its ETag another thing than an MD5."""
    with _translated(uri):
        try:
            answer = s3_client().head_object(Bucket=bucket, Key=key)
        except ClientError:
            return False  # it cannot be told: the bytes are read again
    return answer.get("ServerSideEncryption") in _KMS or "SSECustomerAlgorithm" in answer
