"""Copy an object only if it is unchanged, and never over another object: `cleanse` moves photos with it."""

from botocore.exceptions import ClientError

from physiq_ray.errors import DeniedError, StorageError
from physiq_ray.storage.deletion import UNMET, ObjectOutcome, State, compare_with_listing, failed
from physiq_ray.storage.refusal import read_error
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated
from physiq_ray.storage.versions import Target, find_object, shown_uri


def copy_object(bucket: str, target: Target, to_bucket: str, to_key: str) -> ObjectOutcome | None:
    """Copy an unchanged object with its metadata; None if the complete copy is there.

    A copy of an earlier run counts if its ETag is the same. Any other object at that key stays, and its
    presence is a failure.
    """
    to_uri = shown_uri(to_bucket, to_key)
    right = f"s3:GetObject on arn:aws:s3:::{bucket}/* and s3:PutObject on arn:aws:s3:::{to_bucket}/*"

    def attempt() -> ObjectOutcome | None:
        copied = _find_before_copy(to_bucket, to_key)
        is_made = copied is None
        if is_made:
            with translated(f"copy {shown_uri(bucket, target.key)} to {to_uri}", right=right):
                try:
                    s3_client().copy_object(
                        Bucket=to_bucket,
                        Key=to_key,
                        CopySource={"Bucket": bucket, "Key": target.key},
                        CopySourceIfMatch=f'"{target.etag}"',
                        IfNoneMatch="*",
                    )
                except ClientError as error:
                    if read_error(error)[0] not in UNMET:
                        raise
                    is_made = False
            copied = find_object(to_bucket, to_key)
        if copied is None:
            return compare_with_listing(bucket, target, may_be_deleted=False) or ObjectOutcome(
                target.key, State.FAILED, error=f"copied to {to_uri}, but no copy is there"
            )
        # An object uploaded in parts gets another ETag when it is copied. A copy with another ETag than the
        # original counts only if this call made it.
        if copied.size != target.size or not (is_made or copied.etag == target.etag):
            return ObjectOutcome(target.key, State.FAILED, error=f"another object is at {to_uri}; both stay")
        return None

    try:
        return retry(attempt)
    except StorageError as error:
        return failed(target.key, error)


def _find_before_copy(bucket: str, key: str) -> Target | None:
    """Look for an object where the copy goes: some servers ignore If-None-Match and would overwrite it."""
    try:
        return find_object(bucket, key)
    except DeniedError:  # S3 answers so for an absent key if the role lacks s3:ListBucket
        return None
