"""Read one object whole with obstore, or with boto3 if obstore cannot: the only place that knows both.

obstore spends a fifth to a half of boto3's processor time on an object. boto3 follows redirects, takes every
key, and says what is wrong; so whatever fails with obstore is requested once more with boto3.
"""

import contextlib
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError
from obstore.exceptions import BaseError as ObstoreError

from physiq_ray.storage.address import is_bucket_name
from physiq_ray.storage.etag import check_object, check_size, if_match, refused
from physiq_ray.storage.s3 import open_store, s3_client


@dataclass(frozen=True)
class Fetched:
    """One object as it was read: its content as a buffer, and its ETag, "" if the answer has none."""

    data: Any  # bytes, or obstore's buffer, which is not copied
    etag: str
    modified: datetime | None


def fetch_object(bucket: str, key: str, *, max_bytes: int | None = None, etag: str = "") -> Fetched:
    """Read one object whole, with one request of each client; call within `translated`.

    etag: the listed version; "" accepts any.
    Raises TooLargeError: more than max_bytes; nothing is read then. ChangedError: another version.
    """
    client, uri, condition = s3_client(), f"s3://{bucket}/{key}", if_match(etag)
    if is_bucket_name(bucket) and _is_plain(key):
        with contextlib.suppress(ObstoreError, OSError, ValueError):
            result = open_store(bucket).get(key, options={"if_match": condition} if condition else None)
            meta = result.meta
            check_object(uri, etag, meta["e_tag"])
            check_size(meta["size"], max_bytes)
            data = result.bytes()
            if len(data) == meta["size"]:
                return Fetched(data, (meta["e_tag"] or "").strip('"'), meta["last_modified"])
    # botocore retries a request, but not a body that stops part-way; it does compare the body's length with
    # the announced one.
    try:
        answer = client.get_object(Bucket=bucket, Key=key, **({"IfMatch": condition} if condition else {}))
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if condition is None or status != 412:
            raise
        raise refused(uri, etag) from error
    with contextlib.closing(answer["Body"]) as body:
        check_object(uri, etag, answer.get("ETag"))
        check_size(answer["ContentLength"], max_bytes)
        return Fetched(body.read(), answer.get("ETag", "").strip('"'), answer.get("LastModified"))


def _is_plain(key: str) -> bool:
    """Tell whether obstore's path type keeps a key unchanged: it refuses or rewrites the others."""
    return not any(part in {"", ".", ".."} for part in key.split("/")) and not any(
        unicodedata.category(character) == "Cc" for character in key
    )
