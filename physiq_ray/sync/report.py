"""What came of a sync, by bucket."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BucketReport:
    """What came of one source; found = left_out + to_download + skipped + refused, all photos.

    left_out: photos without a label, or not in the manifest, where only the others were asked for.
    to_download: what was missing here, with its bytes; of these were downloaded, gone (deleted since the
    listing) or failed as many as it says, and none of them in a dry run. failures: uri and sentence, the
    refused ones among them.
    """

    source: str
    found: int = 0
    left_out: int = 0
    to_download: int = 0
    to_download_bytes: int = 0
    downloaded: int = 0
    skipped: int = 0
    bytes: int = 0
    seconds: float = 0.0
    gone: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class SyncReport:
    """What came of all sources; moved, removed and stale are of sorted folders, by path below the folder.

    stale: files there of photos that are in the manifest no more. checked_by_length: buckets whose ETags look
    like MD5s and are none, so that only the photos' lengths were compared.
    """

    sources: tuple[BucketReport, ...]
    dry_run: bool
    seconds: float
    moved: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    checked_by_length: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every source was listed and no photo failed."""
        return not any(source.error or source.failures for source in self.sources)
