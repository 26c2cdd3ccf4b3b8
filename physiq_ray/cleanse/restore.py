"""Restore the photos that a journal names as deleted or moved, as far as that is possible.

A moved photo is copied back to its old key, unless another object is there, and only then its copy is
removed. In a versioned bucket, the delete marker is removed. If the journal has only the first line of a
photo, the content of the bucket decides. A second run finds all photos in their place.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from physiq_ray.cleanse.journal import DELETING, MOVED, MOVING, Entry
from physiq_ray.cleanse.report import RestoreReport
from physiq_ray.errors import StorageError, shown
from physiq_ray.storage import split_uri
from physiq_ray.storage.copies import copy_object
from physiq_ray.storage.deletion import Condition, ObjectOutcome, State, delete_objects
from physiq_ray.storage.refusal import find_missing_right
from physiq_ray.storage.versions import Target, delete_version, find_object, list_versions

THREADS = 16
BEGUN_OR_DONE = (DELETING, MOVING, MOVED, State.DELETED)  # "gone" photos were deleted by somebody else


def restore_photos(
    entries: Sequence[Entry], *, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> RestoreReport:
    """Restore the photos of a journal that are not in their place, THREADS at a time."""
    removed = [entry for entry in entries if entry.state in BEGUN_OR_DONE]
    restored = in_place = 0
    failures, missing_rights = [], set[str]()
    with ThreadPoolExecutor(THREADS) as threads:
        for done, (entry, result) in enumerate(
            zip(removed, threads.map(_try_to_restore, removed), strict=True), 1
        ):
            if isinstance(result, StorageError):
                failures.append(f"{shown(entry.uri)}: {result}")
                if (right := find_missing_right(result)) is not None:
                    missing_rights.add(right)
            else:
                restored, in_place = restored + result, in_place + (not result)
            on_progress(done, len(removed))
    return RestoreReport(len(removed), restored, in_place, tuple(failures), frozenset(missing_rights))


def _try_to_restore(entry: Entry) -> bool | StorageError:
    try:
        return _restore(entry)
    except StorageError as error:
        return error


def _restore(entry: Entry) -> bool:
    """Restore one photo; tell whether it was not in its place. Raises StorageError: that is impossible."""
    bucket, key = split_uri(entry.uri)
    found = find_object(bucket, key)
    if entry.moved_to is not None:
        return _move_back(entry, bucket, key, found)
    if found is not None:
        return False
    versions = list_versions(bucket, key)
    latest = next((version for version in versions if version.is_latest), None)
    if latest is None or not latest.is_marker:
        raise StorageError(
            "deleted permanently: the bucket has no version of it; restore it from a backup, and turn on "
            "versioning or use --move-to the next time"
        )
    if entry.delete_marker not in (None, latest.id):
        raise StorageError(
            f"deleted once more since, by somebody else (delete marker {latest.id}); it stays deleted"
        )
    delete_version(bucket, key, latest.id)
    return True


def _move_back(entry: Entry, bucket: str, key: str, found: Target | None) -> bool:
    to_bucket, to_key = split_uri(entry.moved_to or "")
    moved_to = shown(entry.moved_to or "")
    moved = find_object(to_bucket, to_key)
    if found is not None and (moved is None or moved.etag != found.etag):
        return False  # restored already, replaced, or never removed; the object at moved_to may be another
    if moved is None:
        raise StorageError(f"it is neither in its place nor at {moved_to}")
    # The ETag of an object uploaded in parts is made of its parts; that of its copy is not.
    if moved.size != entry.size or (moved.etag != entry.etag and "-" not in entry.etag):
        raise StorageError(f"at {moved_to} is another object; it stays there")
    if found is None and (problem := copy_object(to_bucket, moved, bucket, key)) is not None:
        reason = problem.error or problem.state
        raise _error_of(problem, f"cannot be copied back from {moved_to}: {reason}")
    (outcome,) = delete_objects(to_bucket, [moved], Condition.BATCH)
    if outcome.state == State.FAILED:
        raise _error_of(outcome, f"restored, but its copy stays at {moved_to}: {outcome.error}")
    return found is None


def _error_of(outcome: ObjectOutcome, sentence: str) -> StorageError:
    """Give an error with the class and the cause of an object's fault."""
    if outcome.fault is None:
        return StorageError(sentence)
    error = type(outcome.fault)(sentence)
    error.__cause__ = outcome.fault.__cause__
    return error
