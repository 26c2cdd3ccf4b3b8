"""From the settings to a plan: list all versions, read labels and journals, decide, and search for traces."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from physiq_ray.cleanse import parse_buckets, read_journal
from physiq_ray.cleanse.journal import Entry, find_journals
from physiq_ray.config import Settings
from physiq_ray.erase.choose import Photos, Request, choose_photos
from physiq_ray.erase.named import Named
from physiq_ray.erase.traces import Places, Trace, Trained, find_traces
from physiq_ray.errors import CleanseError, LabelError, NotFoundError, StorageError
from physiq_ray.labels import LABEL_SCHEMA, Labels, load_configured_labels, load_configured_poses
from physiq_ray.storage import Bucket, follow_settings, split_uri
from physiq_ray.storage.history import HISTORY_SCHEMA, list_history


@dataclass(frozen=True)
class ErasePlan:
    """What would be erased. named: the lines of the journal. problems: what could not be searched."""

    photos: Photos
    named: tuple[Named, ...]
    traces: tuple[Trace, ...]
    trained: tuple[Trained, ...]
    problems: tuple[str, ...]

    @property
    def num_items(self) -> int:
        """Versions, delete markers and files that would be deleted or rewritten."""
        return len(self.photos.stored) + len(self.traces)


def plan_erase(
    settings: Settings,
    request: Request,
    places: Places,
    *,
    on_bucket: Callable[[Bucket], None] = lambda _bucket: None,
) -> ErasePlan:
    """Find a person's photos and their traces; nothing is changed. on_bucket: called before each listing.

    Raises SettingError: no bucket given, or the request cannot mean a photo. LabelError.
    """
    sources = parse_buckets(settings.sources)
    named = {split_uri(item.uri)[0] for item in request.named}
    follow_settings(settings, {*(source.name for source in sources), *named})
    poses = load_configured_poses(settings)
    labels = _read_labels(settings, poses)
    problems: list[str] = []
    entries = _read_journals(places.journals, problems)
    histories: dict[Bucket, pa.Table] = {}
    for source in sources:
        on_bucket(source)
        try:
            histories[source] = list_history(source)
        except StorageError as error:
            problems.append(f"{source}: {error}")

    def look_up(uri: str) -> pa.Table:
        name, key = split_uri(uri)
        try:
            return list_history(Bucket(name), key=key)
        except StorageError as error:
            problems.append(str(error))
            return HISTORY_SCHEMA.empty_table()

    photos = choose_photos(
        histories,
        request,
        labels,
        poses,
        entries,
        source_buckets=settings.source_buckets,
        look_up=look_up,
    )
    found = find_traces(photos, places)
    return ErasePlan(
        photos,
        tuple(photos.named(entries)),
        tuple(found.traces),
        tuple(found.trained),
        (*problems, *found.failures),
    )


def _read_journals(folder: str, problems: list[str]) -> list[Entry]:
    """Read the journals of `cleanse` in a folder; a damaged one is a problem."""
    entries: list[Entry] = []
    for path in find_journals(Path(folder)):
        try:
            entries += read_journal(path)
        except CleanseError as error:
            problems.append(f"{error}; photos that it names are not found")
    return entries


def _read_labels(settings: Settings, poses: Mapping[int, str]) -> Labels:
    """Read the labels; if the default file is missing, there are none."""
    try:
        return load_configured_labels(settings, poses)
    except LabelError as error:
        if "labels" in settings.model_fields_set or not isinstance(error.__cause__, NotFoundError):
            raise
        return Labels(LABEL_SCHEMA.empty_table())
