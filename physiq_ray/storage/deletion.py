"""Delete objects only if they are still what was listed.

Every deletion sends the listed ETag as its condition, so an object that was replaced in the meantime stays.
Servers differ in which conditions they honour: `find_condition` tests that on an object of its own, before
anything else is deleted. A request can be carried out although its answer is lost; whatever is unclear is
checked afterwards, object by object.
"""

import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from botocore.exceptions import ClientError

from physiq_ray.errors import DeniedError, StorageError, UnreachableError
from physiq_ray.storage.address import Bucket
from physiq_ray.storage.refusal import read_error
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated
from physiq_ray.storage.versions import ABSENT, Target, delete_version, find_object, list_versions, shown_uri

MAX_BATCH = 1000  # the most keys that one DeleteObjects request takes
UNMET = {"PreconditionFailed", "412", "NoSuchVersion", *ABSENT}  # S3's codes for a condition that is not met

_TEMPORARY = {
    *("InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "OperationAborted"),
    "ConditionalRequestConflict",
}
_DENIED = {"AccessDenied", "AllAccessDisabled"}


class Condition(StrEnum):
    """How a server is asked to delete only unchanged objects.

    BATCH: DeleteObjects with an ETag for each key. SINGLE: DeleteObject with If-Match, for servers that
    ignore the ETags of a batch. LOOK: the server honours neither; each object is checked immediately before
    its deletion, and a change within the milliseconds between the two is lost.
    """

    BATCH = "batch"
    SINGLE = "single"
    LOOK = "look"


class State(StrEnum):
    """What happened to one object."""

    DELETED = "deleted"
    CHANGED = "changed"  # its ETag is not the listed one: it was not touched
    GONE = "gone"  # somebody else deleted it before
    FAILED = "failed"
    TAGGED = "tagged"
    UNTAGGED = "untagged"  # it had the tag, which was removed
    UNTOUCHED = "untouched"  # nothing was to be done


@dataclass(frozen=True)
class ObjectOutcome:
    """What happened to one object; marker: the version id of the delete marker that a versioned bucket made.

    fault: the error of a failed request; `error` is the same as text.
    """

    key: str
    state: State
    marker: str | None = None
    error: str | None = None
    fault: StorageError | None = None

    @property
    def is_denied(self) -> bool:
        """Whether credentials or a right are missing, which other objects need too."""
        return isinstance(self.fault, DeniedError)


def failed(key: str, error: StorageError) -> ObjectOutcome:
    """Give the outcome of an object whose request failed."""
    return ObjectOutcome(key, State.FAILED, error=str(error), fault=error)


def find_condition(source: Bucket, key: str | None = None) -> Condition:
    """Test which condition the server honours, on an object that is created for the test and removed.

    key: the key of that object; if not given, a random one.
    Raises DeniedError: s3:PutObject or s3:DeleteObject is denied. StorageError: unreachable, missing bucket.
    """
    key = key or f"{source.prefix}.physiq-ray-probe-{uuid.uuid4().hex}"
    wrong = Target(key, "0" * 32, 0)
    with _probe(source.name, key) as put:
        for condition in (Condition.BATCH, Condition.SINGLE):
            put()
            (outcome,) = delete_objects(source.name, [wrong], condition)
            if outcome.state == State.CHANGED:
                return condition
            # A failed request leaves the object too, but does not show that the server compared anything.
            if isinstance(outcome.fault, DeniedError | UnreachableError):
                raise outcome.fault
    return Condition.LOOK


@contextmanager
def _probe(bucket: str, key: str) -> Iterator[Callable[[], None]]:
    """Give a function that writes the test object, any number of times; the object is removed at the end."""
    is_versioned = False

    def put() -> None:
        nonlocal is_versioned
        right = f"s3:PutObject on arn:aws:s3:::{bucket}/*, to test conditional deletion"
        with translated(f"write s3://{bucket}/{key}", right=right):
            answer = s3_client().put_object(Bucket=bucket, Key=key, Body=b"")
        is_versioned = "VersionId" in answer

    try:
        yield lambda: retry(put)
    finally:
        # If it cannot be removed, an empty object without a photo's extension stays: not worth an error.
        with suppress(StorageError), translated(f"delete s3://{bucket}/{key}"):
            s3_client().delete_object(Bucket=bucket, Key=key)
            for version in list_versions(bucket, key) if is_versioned else ():
                delete_version(bucket, key, version.id)


def delete_objects(bucket: str, targets: Sequence[Target], condition: Condition) -> list[ObjectOutcome]:
    """Delete the unchanged ones of at most MAX_BATCH objects; gives one outcome for each, in their order.

    No error of the storage is raised: a target whose deletion failed has the outcome FAILED, with the reason.
    """
    # DeleteObjects is written in XML, which cannot carry all keys unchanged.
    singly = [target for target in targets if condition != Condition.BATCH or _is_odd_in_xml(target.key)]
    outcomes = {target.key: _delete_singly(bucket, target, condition) for target in singly}
    batch = [target for target in targets if target.key not in outcomes]
    if batch:
        outcomes |= _delete_batch(bucket, batch)
    return [outcomes[target.key] for target in targets]


def _delete_batch(bucket: str, targets: Sequence[Target]) -> dict[str, ObjectOutcome]:
    outcomes: dict[str, ObjectOutcome] = {}
    pending = {target.key: target for target in targets}
    was_sent = False  # then it may have been carried out, although no answer came

    def attempt() -> None:
        nonlocal was_sent
        with translated(f"delete {len(pending)} photos of {bucket}", right=_rights(bucket)):
            request = [{"Key": target.key, "ETag": f'"{target.etag}"'} for target in pending.values()]
            was_sent, may_be_deleted = True, was_sent
            answer = s3_client().delete_objects(Bucket=bucket, Delete={"Objects": request})
        may_be_deleted |= bool(answer["ResponseMetadata"].get("RetryAttempts", 0))
        for item in answer.get("Deleted", ()):
            if pending.pop(item["Key"], None) is not None:
                marker = item.get("DeleteMarkerVersionId")
                outcomes[item["Key"]] = ObjectOutcome(item["Key"], State.DELETED, marker=marker)
        temporary = ""
        for item in answer.get("Errors", ()):
            target = pending.get(item.get("Key", ""))
            if target is None:
                continue
            if item.get("Code") in _TEMPORARY:
                temporary = item["Code"]
                continue
            del pending[target.key]
            outcomes[target.key] = _refused(
                bucket, target, item.get("Code", ""), item.get("Message", ""), may_be_deleted=may_be_deleted
            )
        if temporary:
            raise UnreachableError(f"delete {len(pending)} photos of {bucket}: {temporary}; try again later")
        for target in pending.values():  # the answer does not mention them
            outcomes[target.key] = _refused(bucket, target, "PreconditionFailed", "", may_be_deleted=True)

    try:
        retry(attempt)
    except StorageError as error:
        for target in pending.values():
            outcomes[target.key] = failed(target.key, error)
    return outcomes


def _delete_singly(bucket: str, target: Target, condition: Condition) -> ObjectOutcome:
    may_be_deleted = False

    def attempt() -> ObjectOutcome:
        nonlocal may_be_deleted
        # BATCH was tested for DeleteObjects only: in this request the server may ignore the condition.
        if condition != Condition.SINGLE:
            changed = compare_with_listing(bucket, target, may_be_deleted=may_be_deleted)
            if changed is not None:
                return changed
        request = {} if condition == Condition.LOOK else {"IfMatch": f'"{target.etag}"'}
        with translated(f"delete {shown_uri(bucket, target.key)}", right=_rights(bucket)):
            was_sent, may_be_deleted = may_be_deleted, True
            try:
                answer = s3_client().delete_object(Bucket=bucket, Key=target.key, **request)
            except ClientError as error:
                code = read_error(error)[0]
                if code not in UNMET:
                    raise
                return _refused(bucket, target, code, "", may_be_deleted=was_sent)
        marker = answer.get("VersionId") if answer.get("DeleteMarker") else None
        return ObjectOutcome(target.key, State.DELETED, marker=marker)

    try:
        return retry(attempt)
    except StorageError as error:
        return failed(target.key, error)


def _refused(bucket: str, target: Target, code: str, message: str, *, may_be_deleted: bool) -> ObjectOutcome:
    """Say what a server's refusal of one key means; may_be_deleted: an earlier attempt may have worked."""
    if code in UNMET:
        try:
            unmet = compare_with_listing(bucket, target, may_be_deleted=may_be_deleted)
        except StorageError as error:
            return failed(target.key, error)
        return unmet or ObjectOutcome(
            target.key, State.FAILED, error=f"{code}, although its ETag is as listed"
        )
    if code in _DENIED:
        return failed(target.key, _translate_item(bucket, target.key, code, message))
    return ObjectOutcome(target.key, State.FAILED, error=f"{code} {message}".strip())


def _translate_item(bucket: str, key: str, code: str, message: str) -> StorageError:
    """Translate the error of one key in the answer of DeleteObjects like that of a single request."""
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": 403},
    }
    try:
        with translated(f"delete {shown_uri(bucket, key)}", right=_rights(bucket)):
            raise ClientError(answer, "DeleteObjects")
    except StorageError as error:
        return error


def compare_with_listing(bucket: str, target: Target, *, may_be_deleted: bool) -> ObjectOutcome | None:
    """Ask S3 whether an object is still as listed: None if it is, else what happened to it.

    may_be_deleted: an earlier request may have deleted it. Then it counts as DELETED if it is absent, and
    otherwise as GONE. Raises StorageError: denied, unreachable.
    """
    found = find_object(bucket, target.key)
    if found is None:
        return ObjectOutcome(target.key, State.DELETED if may_be_deleted else State.GONE)
    if found.etag != target.etag:
        return ObjectOutcome(
            target.key,
            State.CHANGED,
            error=f"changed since it was listed (ETag {target.etag} → {found.etag})",
        )
    return None


def _rights(bucket: str) -> str:
    """Name the rights for a conditional deletion: S3 compares the ETag only with s3:GetObject."""
    return f"s3:DeleteObject and s3:GetObject on arn:aws:s3:::{bucket}/*"


def _is_odd_in_xml(key: str) -> bool:
    """Tell whether XML cannot carry the key, or a server may strip it to the key of another object."""
    return key != key.strip() or any(
        unicodedata.category(letter) == "Cc" or letter in "\ufffe\uffff" for letter in key
    )
