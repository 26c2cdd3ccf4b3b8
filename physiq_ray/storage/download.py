"""Download one object into a file, complete and compared with its ETag.

An object of up to 16 MiB is read by one request into memory. A larger one is read in parts, several at a
time, directly to the disk. If an object is overwritten meanwhile, the file has its old or its new content,
never a mixture.
"""

import hashlib
import os
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boto3.exceptions import RetriesExceededError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from s3transfer.exceptions import S3DownloadFailedError

from physiq_ray.errors import StorageError, TooLargeError, UnreachableError
from physiq_ray.storage.address import split_uri
from physiq_ray.storage.etag import file_md5, is_md5
from physiq_ray.storage.fetch import Fetched, fetch_object
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated

MAX_MEMORY_BYTES: Final = 16 * 2**20  # for one object; a phone photo has 2 to 8 MB
PARTS_AT_ONCE: Final = 8  # of one object
CONTENT_TRIES: Final = 3  # for an object whose bytes do not match its ETag
NUM_DIFFERING: Final = 3  # objects with a wrong MD5 as their ETag, before the whole bucket counts as such

_IN_PARTS: Final = TransferConfig(
    multipart_threshold=8 * 2**20,
    multipart_chunksize=8 * 2**20,
    max_concurrency=PARTS_AT_ONCE,
    max_io_queue=100,  # blocks of 256 KiB: a slow disk must not fill the memory
)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
# Encrypted with keys of AWS KMS or the customer, the ETag looks like an MD5 but is not that of the content.
_KMS = ("aws:kms", "aws:kms:dsse")


class EtagJudge:
    """Finds the buckets whose ETags look like the MD5 of the content but are not.

    S3's directory buckets have such ETags. A bucket is one of these if NUM_DIFFERING objects arrived with the
    announced length and twice with the same bytes, none of them matches its ETag, and no object ever did.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._matching: set[str] = set()
        self._differing: dict[str, set[str]] = {}

    def note_match(self, bucket: str) -> None:
        """Note an object whose ETag is its MD5."""
        if bucket not in self._matching:
            with self._lock:
                self._matching.add(bucket)

    def note_difference(self, bucket: str, key: str) -> None:
        """Note an object that arrived twice with the same bytes, and whose ETag is not their MD5."""
        with self._lock:
            self._differing.setdefault(bucket, set()).add(key)

    def has_other_etags(self, bucket: str) -> bool:
        """Tell whether only the length can be compared in a bucket."""
        with self._lock:
            return bucket not in self._matching and len(self._differing.get(bucket, ())) >= NUM_DIFFERING


class OtherContentError(StorageError):
    """An object's bytes did not match its ETag in any attempt."""


@dataclass(frozen=True)
class Downloaded:
    """The version that was downloaded: size in bytes, ETag without quotes, last change in whole seconds."""

    size: int
    etag: str
    modified_s: int


def download(uri: str, path: Path, size: int, judge: EtagJudge | None = None) -> Downloaded:
    """Write a whole object to a file and say which version it is; the file is complete when this returns.

    size: as listed, in bytes; it only decides how the object is read. judge: what is known of the buckets'
    ETags.
    Raises NotFoundError, DeniedError at once; UnreachableError after the attempts of `retry`;
    OtherContentError: the bytes do not match the ETag, CONTENT_TRIES times; OSError: the disk's own error.
    """
    bucket, key = split_uri(uri)
    with _translated(uri):
        s3_client()  # outside the retries: a wrong setting does not become right
    is_large, judge = size > MAX_MEMORY_BYTES, judge or EtagJudge()
    md5 = ""
    for _ in range(CONTENT_TRIES):
        if not is_large:
            fetched = _fetch_small(uri, bucket, key)
            if fetched is None:  # the object is larger now than when it was listed
                is_large = True
            else:
                data = fetched.data
                version = _version_of(uri, fetched)
                _write(path, data)
        if is_large:
            version = _download_large(uri, bucket, key, path)
        if not is_md5(version.etag):
            return version
        last, md5 = md5, file_md5(path) if is_large else hashlib.md5(data, usedforsecurity=False).hexdigest()
        if md5 == version.etag:
            judge.note_match(bucket)
            return version
        if md5 == last:  # a fault on the way would hardly change the bytes twice in the same way
            judge.note_difference(bucket, key)
        if judge.has_other_etags(bucket) or _is_encrypted(uri, bucket, key):
            return version
    raise OtherContentError(
        f"download {uri}: the MD5 of the content is {md5}, but the ETag is {version.etag}, {CONTENT_TRIES} "
        "times; upload the photo again, or find out what changes bytes between here and the store"
    )


def _translated(uri: str) -> AbstractContextManager[None]:
    return translated(f"download {uri}", right=f"s3:GetObject on arn:aws:s3:::{uri.removeprefix('s3://')}")


def _fetch_small(uri: str, bucket: str, key: str) -> Fetched | None:
    """Read one object into memory, with retries; None if it is too large for that."""

    def fetch() -> Fetched | None:
        with _translated(uri):
            try:
                return fetch_object(bucket, key, max_bytes=MAX_MEMORY_BYTES)
            except TooLargeError:
                return None

    return retry(fetch)


def _version_of(uri: str, fetched: Fetched) -> Downloaded:
    """Give the version that was read. Raises StorageError: the answer does not say which one it is."""
    if not fetched.etag or fetched.modified is None:
        raise StorageError(f"download {uri}: the answer has no ETag or no time of last change")
    return Downloaded(len(fetched.data), fetched.etag, int(fetched.modified.timestamp()))


def _write(path: Path, data: Any) -> None:
    # Path.open is not used: its buffer and text layer take a third of the time of a small file.
    file = os.open(path, _NEW_FILE, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


class _DiskError(Exception):
    """Carries the disk's own error past the code that would take it for an error of the network."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _download_large(uri: str, bucket: str, key: str, path: Path) -> Downloaded:
    def attempt() -> Downloaded:
        with _translated(uri):
            return _download_parts(uri, bucket, key, path)

    try:
        return retry(attempt)
    except _DiskError as error:
        raise error.error from None


def _download_parts(uri: str, bucket: str, key: str, path: Path) -> Downloaded:
    client = s3_client()
    before = _head(bucket, key)
    try:
        client.download_file(bucket, key, str(path), Config=_IN_PARTS)
        size = path.stat().st_size
    except S3DownloadFailedError as error:  # the parts' If-Match failed: overwritten, so start again
        raise UnreachableError(f"download {uri}: {error}; try again when nobody writes it") from error
    except RetriesExceededError as error:
        raise UnreachableError(
            f"download {uri}: {error.last_exception}; check AWS_ENDPOINT_URL and the network"
        ) from error
    except ConnectionError:
        raise
    except OSError as error:
        raise _DiskError(error) from error
    if before != _head(bucket, key) or size != before.size:
        raise UnreachableError(
            f"download {uri}: overwritten while it was read; try again when nobody writes it"
        )
    return before


def _head(bucket: str, key: str) -> Downloaded:
    answer = s3_client().head_object(Bucket=bucket, Key=key)
    etag, modified_s = answer["ETag"].strip('"'), int(answer["LastModified"].timestamp())
    return Downloaded(answer["ContentLength"], etag, modified_s)


def _is_encrypted(uri: str, bucket: str, key: str) -> bool:
    """Tell whether the object is encrypted in a way that makes its ETag something other than an MD5."""
    with _translated(uri):
        try:
            answer = s3_client().head_object(Bucket=bucket, Key=key)
        except ClientError:
            return False  # unknown: the bytes are read again
    return answer.get("ServerSideEncryption") in _KMS or "SSECustomerAlgorithm" in answer
