"""Delete objects, copy them aside and bring them back, only as long as they are what was listed.

Every deletion carries the ETag of the listing as its condition, so that an object that was written anew in
the meantime stays. Servers differ in what they honour of that: `find_condition` tries it out on an object of
its own, before anything else is deleted. A request may be lost after it was carried out; whatever is unclear
is then looked at, object by object.
"""

import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

from botocore.exceptions import ClientError

from physiq_ray.errors import DeniedError, StorageError, UnreachableError, shown
from physiq_ray.storage.address import Bucket
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated

MAX_BATCH = 1000  # keys that DeleteObjects takes at once

_ABSENT = {"NoSuchKey", "404", "NotFound"}
_UNMET = {"PreconditionFailed", "412", "NoSuchVersion", *_ABSENT}
_PASSING = {
    *("InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "OperationAborted"),
    "ConditionalRequestConflict",
}
_DENIED = {"AccessDenied", "AllAccessDisabled"}


class Condition(StrEnum):
    """How a server is told to delete only what is unchanged.

    BATCH: an ETag a key in DeleteObjects. SINGLE: If-Match in DeleteObject, for those that overlook the
    former. LOOK: neither is honoured; the object is looked at just before, which leaves milliseconds open.
    """

    BATCH = "batch"
    SINGLE = "single"
    LOOK = "look"


class State(StrEnum):
    """What became of one object."""

    DELETED = "deleted"
    CHANGED = "changed"  # another ETag than listed: left as it is
    GONE = "gone"  # not there any more: somebody else was faster
    FAILED = "failed"


@dataclass(frozen=True)
class Target:
    """An object as it was listed; size in bytes, etag without quotes."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True)
class Outcome:
    """What became of one object; marker: the version id of the delete marker a versioned bucket made.

    fault: what a failed request raised; error says the same in words.
    """

    key: str
    state: State
    marker: str | None = None
    error: str | None = None
    fault: StorageError | None = None

    @property
    def is_denied(self) -> bool:
        """Whether credentials or a right are missing, which other objects will need too."""
        return isinstance(self.fault, DeniedError)


def rights_to_delete(bucket: str) -> str:
    """Say what a role needs to delete on condition (S3 asks for s3:GetObject to compare ETags)."""
    return f"s3:DeleteObject and s3:GetObject on arn:aws:s3:::{bucket}/*"


def find_object(bucket: str, key: str) -> Target | None:
    """Look at one object; None where it is not there. Raises StorageError: denied, unreachable."""

    def head() -> Target | None:
        with translated(f"look at {_shown(bucket, key)}", right=f"s3:GetObject on arn:aws:s3:::{bucket}/*"):
            try:
                answer = s3_client().head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
            return Target(key, answer["ETag"].strip('"'), answer["ContentLength"])

    return retry(head)


def find_condition(source: Bucket) -> Condition:
    """Find out, on an object made for it and removed again, which condition the server honours.

    Raises DeniedError: s3:PutObject or s3:DeleteObject is denied. StorageError: unreachable, missing bucket.
    """
    key = f"{source.prefix}.physiq-ray-probe-{uuid.uuid4().hex}"
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
    """Give a function that puts an object, as often as wished; in the end nothing of it is left."""
    is_versioned = False

    def put() -> None:
        nonlocal is_versioned
        right = f"s3:PutObject on arn:aws:s3:::{bucket}/*, to try out conditional deletion"
        with translated(f"write s3://{bucket}/{key}", right=right):
            answer = s3_client().put_object(Bucket=bucket, Key=key, Body=b"")
        is_versioned = "VersionId" in answer

    try:
        yield lambda: retry(put)
    finally:
        # What cannot be removed is an empty object without a photo's extension: not worth an error.
        with suppress(StorageError), translated(f"delete s3://{bucket}/{key}"):
            s3_client().delete_object(Bucket=bucket, Key=key)
            for version in list_versions(bucket, key) if is_versioned else ():
                delete_version(bucket, key, version.id)


def delete_objects(bucket: str, targets: Sequence[Target], condition: Condition) -> list[Outcome]:
    """Delete what is unchanged, MAX_BATCH objects at most; one outcome a target, in their order.

    Raises nothing but for what is no fault of the storage: every target has its outcome, FAILED with the
    reason where nothing else is known.
    """
    # XML, which DeleteObjects is written in, cannot carry all keys as they are.
    singly = [target for target in targets if condition != Condition.BATCH or _is_odd_in_xml(target.key)]
    outcomes = {target.key: _delete_singly(bucket, target, condition) for target in singly}
    batch = [target for target in targets if target.key not in outcomes]
    if batch:
        outcomes |= _delete_batch(bucket, batch)
    return [outcomes[target.key] for target in targets]


def _delete_batch(bucket: str, targets: Sequence[Target]) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    pending = {target.key: target for target in targets}
    was_sent = False  # and perhaps carried out, though no answer came

    def attempt() -> None:
        nonlocal was_sent
        with translated(f"delete {len(pending)} photos of {bucket}", right=rights_to_delete(bucket)):
            request = [{"Key": target.key, "ETag": f'"{target.etag}"'} for target in pending.values()]
            was_sent, may_be_done = True, was_sent
            answer = s3_client().delete_objects(Bucket=bucket, Delete={"Objects": request})
        may_be_done |= bool(answer["ResponseMetadata"].get("RetryAttempts", 0))
        for item in answer.get("Deleted", ()):
            if pending.pop(item["Key"], None) is not None:
                marker = item.get("DeleteMarkerVersionId")
                outcomes[item["Key"]] = Outcome(item["Key"], State.DELETED, marker=marker)
        passing = ""
        for item in answer.get("Errors", ()):
            target = pending.get(item.get("Key", ""))
            if target is None:
                continue
            if item.get("Code") in _PASSING:
                passing = item["Code"]
                continue
            del pending[target.key]
            outcomes[target.key] = _refused(
                bucket, target, item.get("Code", ""), item.get("Message", ""), may_be_done=may_be_done
            )
        if passing:
            raise UnreachableError(f"delete {len(pending)} photos of {bucket}: {passing}; try again later")
        for target in pending.values():  # of which the answer says nothing
            outcomes[target.key] = _refused(bucket, target, "PreconditionFailed", "", may_be_done=True)

    try:
        retry(attempt)
    except StorageError as error:
        for target in pending.values():
            outcomes[target.key] = _failed(target.key, error)
    return outcomes


def _delete_singly(bucket: str, target: Target, condition: Condition) -> Outcome:
    may_be_done = False

    def attempt() -> Outcome:
        nonlocal may_be_done
        # BATCH was tried out for DeleteObjects only: here the server may overlook the condition.
        if condition != Condition.SINGLE and (changed := _look(bucket, target, may_be_done=may_be_done)):
            return changed
        request = {} if condition == Condition.LOOK else {"IfMatch": f'"{target.etag}"'}
        with translated(f"delete {_shown(bucket, target.key)}", right=rights_to_delete(bucket)):
            was_sent, may_be_done = may_be_done, True
            try:
                answer = s3_client().delete_object(Bucket=bucket, Key=target.key, **request)
            except ClientError as error:
                if _code(error) not in _UNMET:
                    raise
                return _refused(bucket, target, _code(error), "", may_be_done=was_sent)
        return Outcome(
            target.key, State.DELETED, marker=answer.get("VersionId") if answer.get("DeleteMarker") else None
        )

    try:
        return retry(attempt)
    except StorageError as error:
        return _failed(target.key, error)


def _refused(bucket: str, target: Target, code: str, message: str, *, may_be_done: bool) -> Outcome:
    """Tell what a server's refusal of one key means; may_be_done: an earlier try may have deleted it."""
    if code in _UNMET:
        try:
            unmet = _look(bucket, target, may_be_done=may_be_done)
        except StorageError as error:
            return _failed(target.key, error)
        return unmet or Outcome(target.key, State.FAILED, error=f"{code}, though its ETag is as listed")
    if code in _DENIED:
        return _failed(target.key, _translate_item(bucket, target.key, code, message))
    return Outcome(target.key, State.FAILED, error=f"{code} {message}".strip())


def _translate_item(bucket: str, key: str, code: str, message: str) -> StorageError:
    """Translate what DeleteObjects says of one key as if it were the answer to a request of its own."""
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": 403},
    }
    try:
        with translated(f"delete {_shown(bucket, key)}", right=rights_to_delete(bucket)):
            raise ClientError(answer, "DeleteObjects")
    except StorageError as error:
        return error


def _look(bucket: str, target: Target, *, may_be_done: bool) -> Outcome | None:
    """Say what is wrong with an object; None where it is as it was listed."""
    found = find_object(bucket, target.key)
    if found is None:
        return Outcome(target.key, State.DELETED if may_be_done else State.GONE)
    if found.etag != target.etag:
        return Outcome(
            target.key,
            State.CHANGED,
            error=f"changed since it was listed (ETag {target.etag} → {found.etag})",
        )
    return None


def copy_object(bucket: str, target: Target, to_bucket: str, to_key: str) -> Outcome | None:
    """Copy an unchanged object, with its metadata; None where the copy is there, whole.

    A copy made before counts where its ETag says so; another object in its place stays, and is an error.
    """
    to_uri = _shown(to_bucket, to_key)
    right = f"s3:GetObject on arn:aws:s3:::{bucket}/* and s3:PutObject on arn:aws:s3:::{to_bucket}/*"

    def attempt() -> Outcome | None:
        copied = _find_before_copy(to_bucket, to_key)
        is_made = copied is None
        if is_made:
            with translated(f"copy {_shown(bucket, target.key)} to {to_uri}", right=right):
                try:
                    s3_client().copy_object(
                        Bucket=to_bucket,
                        Key=to_key,
                        CopySource={"Bucket": bucket, "Key": target.key},
                        CopySourceIfMatch=f'"{target.etag}"',
                        IfNoneMatch="*",
                    )
                except ClientError as error:
                    if _code(error) not in _UNMET:
                        raise
                    is_made = False
            copied = find_object(to_bucket, to_key)
        if copied is None:
            return _look(bucket, target, may_be_done=False) or Outcome(
                target.key, State.FAILED, error=f"copied to {to_uri}, but no copy is there"
            )
        # The copy of an object that was uploaded in parts has another ETag: only that of a moment ago counts.
        if copied.size != target.size or not (is_made or copied.etag == target.etag):
            return Outcome(target.key, State.FAILED, error=f"another object is at {to_uri}; both stay")
        return None

    try:
        return retry(attempt)
    except StorageError as error:
        return _failed(target.key, error)


def _find_before_copy(bucket: str, key: str) -> Target | None:
    """Look at the place of a copy: some servers overlook If-None-Match and would overwrite what is there."""
    try:
        return find_object(bucket, key)
    except DeniedError:  # S3's own answer for what is not there, where s3:ListBucket is missing
        return None


@dataclass(frozen=True)
class Version:
    """One version of an object, or a delete marker."""

    id: str
    is_latest: bool
    is_marker: bool


def list_versions(bucket: str, key: str) -> list[Version]:
    """List the versions and delete markers of one object; none where the bucket keeps no versions.

    Raises StorageError.
    """
    right = f"s3:ListBucketVersions on arn:aws:s3:::{bucket}"

    def ask() -> list[Version]:
        with translated(f"list the versions of {_shown(bucket, key)}", right=right):
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
    """Delete one version for good, or a delete marker, under which the object before it appears again.

    Raises StorageError.
    """
    right = f"s3:DeleteObjectVersion on arn:aws:s3:::{bucket}/*"

    def delete() -> None:
        with translated(f"delete version {version_id} of {_shown(bucket, key)}", right=right):
            s3_client().delete_object(Bucket=bucket, Key=key, VersionId=version_id)

    retry(delete)


def _failed(key: str, error: StorageError) -> Outcome:
    return Outcome(key, State.FAILED, error=str(error), fault=error)


def _shown(bucket: str, key: str) -> str:
    return shown(f"s3://{bucket}/{key}")


def _is_odd_in_xml(key: str) -> bool:
    """Tell whether XML loses letters of the key, or a server may trim it to the key of another object."""
    return key != key.strip() or any(
        unicodedata.category(letter) == "Cc" or letter in "\ufffe\uffff" for letter in key
    )


def _code(error: ClientError) -> str:
    code: str = error.response.get("Error", {}).get("Code", "")
    return code
