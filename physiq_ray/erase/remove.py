"""Carry out a plan: first the traces, then copies, then the photos, and the journals of `cleanse` last.

After a killed run, the same request finds the rest in most cases, and the journal as `--uris` in all of them.
One failure does not stop the others. While a photo or trace remains, the journals of `cleanse` stay, because
they say where moved photos are.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from physiq_ray.erase.choose import Photos
from physiq_ray.erase.plan import ErasePlan
from physiq_ray.erase.traces import JOURNALS, PREPARED, Places, Trace
from physiq_ray.errors import ChangedError, StorageError
from physiq_ray.prepared import CacheFolder
from physiq_ray.storage import Bucket, split_uri
from physiq_ray.storage.history import (
    Stored,
    delete_stored,
    list_history,
    read_stored,
    replace_stored,
    to_stored,
)

THREADS = 16
PHOTOS = "photos"
STAYS = "stays until the other files are erased, because it says whose they are"

OnProgress = Callable[[str, int, int], None]  # a place, items done, items in all


@dataclass(frozen=True)
class Erased:
    """What happened in one place: items that were erased, and a sentence for each that was not."""

    place: str
    num_erased: int
    failures: tuple[str, ...]


def erase_photos(
    plan: ErasePlan, places: Places, *, on_progress: OnProgress = lambda _place, _done, _total: None
) -> tuple[Erased, ...]:
    """Erase the traces and the photos of a plan; gives a result for each place with items."""
    results: list[Erased] = []

    def note(place: str, failures: Sequence[str | None]) -> None:
        sentences = tuple(failure for failure in failures if failure is not None)
        results.append(Erased(place, len(failures) - len(sentences), sentences))

    def erase_trace(trace: Trace) -> str | None:
        return _tried(trace.stored, lambda: _erase_trace(trace, plan.photos, places))

    journals = [trace for trace in plan.traces if trace.place == JOURNALS]
    for place in dict.fromkeys(trace.place for trace in plan.traces if trace.place != JOURNALS):
        traces = [trace for trace in plan.traces if trace.place == place]
        failures: list[str | None] = []
        for trace in traces:
            stays = trace.is_index and any(failures)
            failures.append(f"{trace.stored}: {STAYS}" if stays else erase_trace(trace))
            on_progress(place, len(failures), len(traces))
        note(place, failures)
    if plan.photos.stored:
        note(PHOTOS, list(_delete_photos(plan.photos, on_progress)))
    if journals:
        if plan.problems or any(result.failures for result in results):
            note(JOURNALS, [f"{trace.stored}: {STAYS}" for trace in journals])
        else:
            note(JOURNALS, [erase_trace(trace) for trace in journals])
    return tuple(results)


def _delete_photos(photos: Photos, on_progress: OnProgress) -> Sequence[str | None]:
    """Delete the copies before the photos, and of each key older versions, the newest one, then the markers.

    The content of the newest version finds copies, so it stays until the older ones are gone.
    Then each key is listed again, because a server may answer that it deleted what it keeps: SeaweedFS 4.40
    keeps a delete marker with the version "null". Gives a sentence for each version that is left, else None.
    """
    failures: dict[Stored, str | None] = {}
    newest: dict[str, Stored] = {}
    for item in photos.stored:
        if not item.is_marker:
            newest.setdefault(item.uri, item)

    def rank(item: Stored) -> tuple[bool, bool, bool]:
        return item.uri in photos.wanted, item.is_marker, item == newest.get(item.uri)

    with ThreadPoolExecutor(THREADS) as threads:
        for step in sorted({rank(item) for item in photos.stored}):
            items = [item for item in photos.stored if rank(item) == step]
            tries = threads.map(lambda item: _tried(item, lambda: delete_stored(item)), items)
            for item, failure in zip(items, tries, strict=True):
                failures[item] = failure
                on_progress(PHOTOS, len(failures), len(photos.stored))
        uris = list(dict.fromkeys(item.uri for item in photos.stored))
        left = dict(zip(uris, threads.map(_list_left, uris), strict=True))
    for item, failure in failures.items():
        found = left[item.uri]
        if failure is not None:
            continue
        if isinstance(found, StorageError):
            failures[item] = f"{item}: deleted, but that cannot be checked: {found}"
        elif (item.version, item.etag) in found:
            failures[item] = f"{item}: the S3 server says that it deleted it, but still lists it"
    return list(failures.values())


def _list_left(uri: str) -> set[tuple[str | None, str]] | StorageError:
    """Give version and ETag of all that is under a key."""
    bucket, key = split_uri(uri)
    try:
        return {(item.version, item.etag) for item in to_stored(list_history(Bucket(bucket), key=key))}
    except StorageError as error:
        return error


def _tried(stored: Stored, call: Callable[[], None]) -> str | None:
    try:
        call()
    except StorageError as error:
        return f"{stored}: {error}"
    return None


def _erase_trace(trace: Trace, photos: Photos, places: Places) -> None:
    folder = places.cache if isinstance(places.cache, CacheFolder) else places.cache.copies
    if trace.place == PREPARED and trace.stored.version is None:
        folder.discard(Path(trace.stored.uri))
        return
    if trace.drop is None:
        delete_stored(trace.stored)
        return
    data, num_removed = trace.drop(read_stored(trace.stored), photos)
    if data is None:
        delete_stored(trace.stored)
    elif num_removed:
        replace_stored(trace.stored, data)
    else:
        raise ChangedError("it changed since it was read; run the command again")
