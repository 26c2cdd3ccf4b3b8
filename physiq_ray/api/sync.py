"""Download the photos of several buckets."""

from pathlib import Path

from physiq_ray import syncing
from physiq_ray.config import SyncSettings
from physiq_ray.progress import Bars
from physiq_ray.syncing import SyncReport


def sync(
    settings: SyncSettings,
    folder: str | Path,
    *,
    labelled_only: bool = False,
    is_sorted: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> SyncReport:
    """Download the photos of the sources into a folder; photos that are there already are skipped.

    labelled_only: leave out unlabelled photos. is_sorted: only photos that can be trained on, into training/
    and validation/ by pose. dry_run: write nothing. A photo that cannot be downloaded is in the report.
    Raises SettingError, LabelError, StorageError: the folder cannot be written.
    """
    with Bars() as bars:
        return syncing.sync(
            settings,
            Path(folder),
            labelled_only=labelled_only,
            is_sorted=is_sorted,
            dry_run=dry_run,
            on_progress=bars.update if progress else lambda *_: None,
        )
