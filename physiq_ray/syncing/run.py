"""One sync: list, plan, download, report.

If a source cannot be listed, the others are downloaded all the same. If nothing is missing, the cost is the
listing and one `stat` for each photo. The label file and the manifest are read only if an option needs them.
"""

import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from physiq_ray.config import SyncSettings
from physiq_ray.errors import SettingError, StorageError, quoted
from physiq_ray.machine import check_writable
from physiq_ray.storage import Bucket, Source, follow_settings, parse_sources
from physiq_ray.storage.objects import translate_os
from physiq_ray.storage.walk import PhotoList, list_stored
from physiq_ray.syncing.partial import partial_folder, remove_abandoned
from physiq_ray.syncing.paths import find_clashes, folded, is_case_sensitive_by_custom, local_path, probe_case
from physiq_ray.syncing.plan import LocalFiles, Photo, Plan, needed_bytes, plan_downloads
from physiq_ray.syncing.report import BucketReport, SyncReport
from physiq_ray.syncing.sides import (
    Sorting,
    apply_sorting,
    plan_sorting,
    refuse_half_a_split,
    seconds_of,
    sorted_photos,
)
from physiq_ray.syncing.transfer import Tally, Transfer

if TYPE_CHECKING:
    from physiq_ray.labels import Labels
    from physiq_ray.storage import Listing

OnProgress = Callable[[str, int, int, str], None]  # label, done, total (0: not known yet), note

_NAME_MAX = 255  # bytes, if the system does not say
_NOTHING_SORTED = Sorting((), (), ())


def sync(
    settings: SyncSettings,
    folder: Path,
    *,
    labelled_only: bool = False,
    is_sorted: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = lambda _label, _done, _total, _note: None,
) -> SyncReport:
    """Download the photos that are not in the folder; dry_run: only find out which, and write nothing.

    is_sorted: only the photos of the manifest, by split and pose.
    Raises SettingError: a source is a folder. LabelError, DataError: the labels cannot be read or give no
    manifest. StorageError: the folder cannot be written or is too small for the photos; nothing was
    downloaded. KeyboardInterrupt: complete photos stay, partial ones do not.
    """
    sources = _parse_buckets(settings)
    _check_folder(folder)
    if not dry_run:
        _check_writable(folder)
    words = _read_words(settings) if labelled_only or is_sorted else None
    found = [0] * len(sources)
    lock = threading.Lock()

    def on_keys(source: Source, num_keys: int) -> None:
        with lock:
            found[sources.index(source)] += num_keys
        on_progress(f"list {source}", found[sources.index(source)], 0, "")

    tables: tuple[Listing, ...] = ()
    if words is None:
        listings: Sequence[PhotoList | Listing] = list_stored(sources, on_keys)
    else:
        from physiq_ray.storage import list_sources  # imported here, because it needs Arrow

        listings = tables = list_sources(sources, on_keys=on_keys)
    try:
        return _Run(settings, folder, listings, dry_run, on_progress).run(words, tables, is_sorted=is_sorted)
    except OSError as error:
        raise translate_os(error, f"write {error.filename or folder}") from error


def _parse_buckets(settings: SyncSettings) -> tuple[Bucket, ...]:
    buckets = []
    for source in parse_sources(settings.sources):
        if not isinstance(source, Bucket):
            raise SettingError(f"sources: {source} is a folder; sync downloads s3:// buckets")
        buckets.append(source)
    follow_settings(settings, [bucket.name for bucket in buckets])
    return tuple(buckets)


def _check_writable(folder: Path) -> None:
    try:
        check_writable("FOLDER", str(folder))
    except StorageError as error:
        raise StorageError(f"write {folder}: {error}") from error


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"write {folder}: not a folder; give the path of one, or a new path")


@dataclass(frozen=True)
class _Words:
    """The label file and the poses."""

    labels: "Labels"
    poses: Mapping[int, str]


def _read_words(settings: SyncSettings) -> _Words:
    from physiq_ray.labels import load_configured_labels, load_configured_poses

    poses = load_configured_poses(settings)
    return _Words(load_configured_labels(settings, poses), poses)


class _Run:
    """One sync, after the listings."""

    def __init__(
        self,
        settings: SyncSettings,
        folder: Path,
        listings: "Sequence[PhotoList | Listing]",
        dry_run: bool,
        on_progress: OnProgress,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._listings = listings
        self._dry_run = dry_run
        self._on_progress = on_progress
        self._tallies = [Tally() for _ in listings]
        self._files = LocalFiles(folder)
        self._checked_by_length: tuple[str, ...] = ()

    def run(self, words: _Words | None, tables: "Sequence[Listing]", *, is_sorted: bool) -> SyncReport:
        """Plan the sync, and carry it out unless it is a dry run.

        tables: the listings, if there are words.
        """
        name_max = _name_max(self._folder)
        sorting = _NOTHING_SORTED
        if words is None:
            photos = self._listed(name_max)
        elif is_sorted:
            refuse_half_a_split(tables, self._files)
            photos = self._sorted(words, tables, name_max)
            sorting = plan_sorting(photos, self._files)
        else:
            photos = self._labelled(words, tables, name_max)
        _check_names(self._folder, photos)
        if not self._dry_run:
            remove_abandoned(self._folder)
        # Files that are not moved yet: their new path → their present one.
        places = {new: old for old, new in sorting.moves}
        plan = plan_downloads(
            photos, lambda path: self._files.look(places.get(path, path)), self._clashes(photos)
        )
        for photo in plan.skips:
            self._tallies[photo.source].skipped += 1
        for photo, reason in plan.refused:
            self._tallies[photo.source].failures.append((photo.uri, f"{photo.uri}: {reason}"))
        if not self._dry_run:
            apply_sorting(sorting, self._folder)
            places = {}
        downloads = self._do(plan, places, photos)
        return self._report(photos, downloads, sorting)

    def _listed(self, name_max: int) -> list[Photo]:
        return [
            Photo(
                f"s3://{listing.source.name}/{photo.key}",
                local_path(listing.source.name, photo.key, name_max),
                *(photo.size, photo.etag, photo.modified_s, number),
            )
            for number, listing in enumerate(self._listings)
            if isinstance(listing, PhotoList)
            for photo in listing.photos
        ]

    def _labelled(self, words: _Words, tables: "Sequence[Listing]", name_max: int) -> list[Photo]:
        from physiq_ray.manifest import find_labelled

        named = find_labelled(tables, words.labels, words.poses, self._settings.source_buckets)
        photos = []
        for number, (listing, found) in enumerate(zip(tables, named, strict=True)):
            if listing.table is None or found is None:
                continue
            table = listing.table.filter(found.is_labelled)
            columns = [table[name].to_pylist() for name in ("uri", "bucket", "key", "size", "etag")]
            photos += [
                Photo(uri, local_path(bucket, key, name_max), size, etag, second, number)
                for uri, bucket, key, size, etag, second in zip(
                    *columns, seconds_of(table["modified"]), strict=True
                )
            ]
        return photos

    def _sorted(self, words: _Words, tables: "Sequence[Listing]", name_max: int) -> list[Photo]:
        from physiq_ray.manifest import match_configured, require_trainable

        manifest = match_configured(tables, words.labels, words.poses, self._settings)
        return sorted_photos(require_trainable(manifest), tables, name_max)

    def _clashes(self, photos: Sequence[Photo]) -> dict[str, str]:
        paths = [photo.path for photo in photos]
        if len(set(map(folded, paths))) == len(paths):
            return {}
        if self._dry_run:
            return find_clashes(paths, is_case_sensitive=is_case_sensitive_by_custom())
        self._folder.mkdir(parents=True, exist_ok=True)
        with partial_folder(self._folder) as partial:
            return find_clashes(paths, is_case_sensitive=probe_case(partial))

    def _do(self, plan: Plan, places: Mapping[str, str], photos: Sequence[Photo]) -> list[Photo]:
        """Compare, then download; give the photos that are, or in a dry run would be, downloaded."""
        totals = [0] * len(self._listings)
        for photo in photos:
            totals[photo.source] += 1

        def show() -> None:
            for listing, tally, total in zip(self._listings, self._tallies, totals, strict=True):
                if total:
                    self._on_progress(
                        str(listing.source), tally.done, total, f"{tally.bytes / 1e6:.1f} MB downloaded"
                    )

        transfer = Transfer(self._folder, self._tallies, show)
        downloads = plan.downloads + transfer.compare(
            plan.comparisons, min(8, self._settings.transfers), lambda path: places.get(path, path)
        )
        if downloads and not self._dry_run:
            _check_room(self._folder, downloads)
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial_folder(self._folder) as partial:
                transfer.download(downloads, partial, self._settings.transfers)
            show()
            uris = {f"s3://{listing.source.name}" for listing in self._listings}
            self._checked_by_length = tuple(sorted(filter(transfer.has_other_etags, uris)))
        return downloads

    def _report(self, photos: Sequence[Photo], downloads: Sequence[Photo], sorting: Sorting) -> SyncReport:
        wanted, to_download, num_bytes = ([0] * len(self._listings) for _ in range(3))
        for photo in photos:
            wanted[photo.source] += 1
        for photo in downloads:
            to_download[photo.source] += 1
            num_bytes[photo.source] += photo.size
        reports = []
        for number, (listing, tally) in enumerate(zip(self._listings, self._tallies, strict=True)):
            reports.append(
                BucketReport(
                    source=str(listing.source),
                    found=listing.num_photos,
                    left_out=listing.num_photos - wanted[number],
                    to_download=to_download[number],
                    to_download_bytes=num_bytes[number],
                    downloaded=tally.downloaded,
                    skipped=tally.skipped,
                    bytes=tally.bytes,
                    seconds=tally.seconds,
                    gone=tuple(tally.gone),
                    failures=tuple(tally.failures),
                    error=str(listing.error) if listing.error is not None else None,
                )
            )
        times = [(tally.started_s, tally.finished_s) for tally in self._tallies]
        starts = [start for start, _ in times if start is not None]
        ends = [end for _, end in times if end is not None]
        seconds = max(ends) - min(starts) if ends and starts else 0.0
        return SyncReport(
            tuple(reports),
            self._dry_run,
            seconds,
            sorting.moves,
            sorting.copies,
            sorting.stale,
            self._checked_by_length,
        )


def _name_max(folder: Path) -> int:
    try:
        return int(os.pathconf(_nearest(folder), "PC_NAME_MAX"))
    except (AttributeError, OSError, ValueError):  # Windows has no pathconf
        return _NAME_MAX


def _nearest(folder: Path) -> Path:
    """Give the folder, or the nearest folder above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _check_names(folder: Path, photos: Sequence[Photo]) -> None:
    """Refuse names that this process cannot give to files: in the C locale, Python may allow only ASCII."""
    for photo in photos:
        try:
            os.fsencode(photo.path)
        except UnicodeEncodeError as error:
            raise StorageError(
                f"write {folder}: {error.encoding} file names cannot hold {quoted(photo.path)}; set "
                "PYTHONUTF8=1 or a UTF-8 locale"
            ) from error


def _check_room(folder: Path, photos: Sequence[Photo]) -> None:
    need, free = needed_bytes(photos), shutil.disk_usage(_nearest(folder)).free
    if need > free:
        raise StorageError(
            f"write {folder}: {len(photos)} photos need {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free; "
            "make room, give a folder on another disk, or name fewer --sources"
        )
