"""What S3 holds under one key now: the object, and in a versioned bucket its older versions too."""

from dataclasses import dataclass

from botocore.exceptions import ClientError

from physiq_ray.errors import shown
from physiq_ray.storage.refusal import read_error
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated

ABSENT = {"NoSuchKey", "404", "NotFound"}  # S3's codes for a key without an object


@dataclass(frozen=True)
class Target:
    """An object as it was listed or found; size in bytes, etag without quotes."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True)
class Version:
    """One version of an object, or a delete marker."""

    id: str
    is_latest: bool
    is_marker: bool


def shown_uri(bucket: str, key: str) -> str:
    """Write an object's address for a message, as `errors.shown` does."""
    return shown(f"s3://{bucket}/{key}")


def find_object(bucket: str, key: str) -> Target | None:
    """Ask S3 for the object under a key; None if there is none. Raises StorageError: denied, unreachable."""

    def head() -> Target | None:
        right = f"s3:GetObject on arn:aws:s3:::{bucket}/*"
        with translated(f"look at {shown_uri(bucket, key)}", right=right):
            try:
                answer = s3_client().head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if read_error(error)[0] in ABSENT:
                    return None
                raise
            return Target(key, answer["ETag"].strip('"'), answer["ContentLength"])

    return retry(head)


def list_versions(bucket: str, key: str) -> list[Version]:
    """List the versions and delete markers of one object; an unversioned bucket has none.

    Raises StorageError.
    """
    right = f"s3:ListBucketVersions on arn:aws:s3:::{bucket}"

    def ask() -> list[Version]:
        with translated(f"list the versions of {shown_uri(bucket, key)}", right=right):
            pages = s3_client().get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key)
            return [
                Version(item["VersionId"], item["IsLatest"], is_marker)
                for page in pages
                for kind, is_marker in (("Versions", False), ("DeleteMarkers", True))
                for item in page.get(kind, ())
                if item["Key"] == key and item["VersionId"] != "null"
            ]

    return retry(ask)


def delete_version(bucket: str, key: str, version_id: str) -> None:
    """Delete one version permanently. If it is a delete marker, the version before it is visible again.

    Raises StorageError.
    """
    right = f"s3:DeleteObjectVersion on arn:aws:s3:::{bucket}/*"

    def delete() -> None:
        with translated(f"delete version {version_id} of {shown_uri(bucket, key)}", right=right):
            s3_client().delete_object(Bucket=bucket, Key=key, VersionId=version_id)

    retry(delete)
