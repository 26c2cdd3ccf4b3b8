"""The tags of an object: read all of them, write all of them, remove one.

S3 replaces all tags of an object at once and compares nothing: tags that somebody else writes between the
reading and the writing are lost. The content, the ETag and the time of the object do not change.
"""

from collections.abc import Mapping

from botocore.exceptions import ClientError

from physiq_ray.storage.deletion import State
from physiq_ray.storage.refusal import read_error
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated
from physiq_ray.storage.versions import ABSENT, shown_uri

MAX_TAGS = 10  # the most that S3 stores for one object


def read_tags(bucket: str, key: str) -> dict[str, str] | None:
    """Read an object's tags; None if there is no object. Raises StorageError: denied, unreachable."""

    def get() -> dict[str, str] | None:
        right = f"s3:GetObjectTagging on arn:aws:s3:::{bucket}/*"
        with translated(f"read the tags of {shown_uri(bucket, key)}", right=right):
            try:
                answer = s3_client().get_object_tagging(Bucket=bucket, Key=key)
            except ClientError as error:
                if read_error(error)[0] in ABSENT:
                    return None
                raise
            return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}

    return retry(get)


def write_tags(bucket: str, key: str, tags: Mapping[str, str]) -> bool:
    """Replace an object's tags; tell whether there is an object. Raises StorageError: denied, unreachable."""

    def put() -> bool:
        right = f"s3:PutObjectTagging on arn:aws:s3:::{bucket}/*"
        with translated(f"write the tags of {shown_uri(bucket, key)}", right=right):
            # No tags at all: S3 removes the set then, without s3:DeleteObjectTagging.
            tag_set = [{"Key": name, "Value": value} for name, value in tags.items()]
            try:
                s3_client().put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": tag_set})
            except ClientError as error:
                if read_error(error)[0] in ABSENT:
                    return False
                raise
            return True

    return retry(put)


def remove_tag(bucket: str, key: str, name: str) -> State:
    """Remove one tag of an object, if it is there, and say what happened: UNTAGGED, UNTOUCHED or GONE.

    Raises StorageError: denied, unreachable.
    """
    tags = read_tags(bucket, key)
    if tags is None:
        return State.GONE
    if name not in tags:
        return State.UNTOUCHED
    del tags[name]
    return State.UNTAGGED if write_tags(bucket, key, tags) else State.GONE
