"""Read and write one object of a bucket whole, with retries: the S3 half of `objects`.

It is a module of its own because boto3 takes 0.2 s to import, which a program that only reads files need not
wait for.
"""

from collections.abc import Callable
from typing import IO

from botocore.exceptions import ClientError

from physiq_ray.errors import NotFoundError
from physiq_ray.storage.address import split_uri
from physiq_ray.storage.fetch import fetch_object
from physiq_ray.storage.refusal import read_error
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated

# S3's answers to If-None-Match: an object was there before, or another writer was faster at the same moment.
ALREADY_THERE = ("PreconditionFailed", "ConditionalRequestConflict")


def read_object(uri: str, *, max_bytes: int | None = None, etag: str = "") -> bytes:
    """Read one object; the options and errors are those of `objects.read_bytes`."""
    bucket, key = split_uri(uri)
    with translated(f"read {uri}"):
        s3_client()  # outside the retries: a wrong setting does not become right

    def get() -> bytes:
        with translated(f"read {uri}"):
            return bytes(fetch_object(bucket, key, max_bytes=max_bytes, etag=etag).data)

    return retry(get)


def write_object(uri: str, open_content: Callable[[], IO[bytes]]) -> None:
    """Write one object; open_content is called for each attempt.

    Raises StorageError: denied, missing bucket; UnreachableError after the attempts of `retry`.
    """
    bucket, key = split_uri(uri)
    with translated(f"write {uri}"):
        client = s3_client()

    def upload() -> None:
        with translated(f"write {uri}"), open_content() as content:
            client.upload_fileobj(content, bucket, key)

    retry(upload)


def create_object(data: bytes, uri: str) -> bool:
    """Write an object if there is none of that name yet; see `objects.create_bytes`."""
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
        return read_object(uri) == data
    except NotFoundError:  # another writer is not finished yet, or has deleted its object
        return False
