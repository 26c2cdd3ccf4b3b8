"""The results of `sync` as text and as JSON, for each bucket and for all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MB = 1e6
EXAMPLES = 3  # of stale photos
MAX_FAILURES_SHOWN = 10  # for each bucket


@dataclass(frozen=True)
class BucketReport:
    """What happened to one source's photos; found = left_out + to_download + skipped + refused.

    left_out: unlabelled photos, or photos that are not in the manifest, if only the others were requested.
    to_download: the missing photos, and their bytes. Of these, some were downloaded, some are gone (deleted
    since the listing) and some failed; in a dry run none is downloaded. failures: uri and sentence, including
    the refused photos.
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
    """What happened in all sources; moved, removed and stale are paths below the folder, if it is sorted.

    stale: files of photos that are no longer in the manifest. checked_by_length: buckets whose ETags look
    like MD5s but are not, so that only the length of the photos was compared.
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

    @property
    def total(self) -> BucketReport:
        """The sums over all sources."""
        sources = self.sources
        return BucketReport(
            source="total",
            found=sum(source.found for source in sources),
            left_out=sum(source.left_out for source in sources),
            to_download=sum(source.to_download for source in sources),
            to_download_bytes=sum(source.to_download_bytes for source in sources),
            downloaded=sum(source.downloaded for source in sources),
            skipped=sum(source.skipped for source in sources),
            bytes=sum(source.bytes for source in sources),
            seconds=self.seconds,
            gone=tuple(uri for source in sources for uri in source.gone),
            failures=tuple(failure for source in sources for failure in source.failures),
        )


def describe_sync(report: SyncReport) -> Iterator[str]:
    """Give the lines that say what happened: each bucket that was listed, then all of them."""
    for source in report.sources:
        if source.error is None:
            yield f"{source.source}: {_counts(source, dry_run=report.dry_run)}"
    for bucket in report.checked_by_length:
        yield (
            f"{bucket}: its ETags look like MD5s of the photos but are none (as in S3's directory buckets): "
            "the downloads were checked by their length only"
        )
    yield f"total: {_counts(report.total, dry_run=report.dry_run)}"
    if report.moved or report.removed:
        verb = "would move" if report.dry_run else "moved"
        removed = f", {len(report.removed)} second copies removed" if report.removed else ""
        yield f"{verb} {len(report.moved)} photos to the split and pose that they have now{removed}"


def describe_problems(report: SyncReport) -> Iterator[str]:
    """Give the lines for stderr: photos that failed, stale photos, and sources that were not listed."""
    for source in report.sources:
        for _, sentence in source.failures[:MAX_FAILURES_SHOWN]:
            yield f"physiq-ray sync: {sentence}"
        if (more := len(source.failures) - MAX_FAILURES_SHOWN) > 0:
            yield f"physiq-ray sync: {source.source}: and {more} more failed; --json names all"
    if report.stale:
        names = "; ".join(report.stale[:EXAMPLES]) + ("; …" if len(report.stale) > EXAMPLES else "")
        yield (
            f"physiq-ray sync: {len(report.stale)} stale photos in training and validation are no longer in "
            "the manifest (the label was withdrawn, the photo was deleted, or its source was not given). "
            "Programs that read the folders still use them, and a copy may be in the other split: "
            f"{names}; check and delete them"
        )
    for source in report.sources:
        if source.error is not None:
            yield f"NOT COMPLETE: without {source.source}: {source.error}"


def sync_as_dict(report: SyncReport) -> dict[str, Any]:
    """Give what happened as plain values, for JSON."""
    return {
        "dry_run": report.dry_run,
        "sources": [_bucket_as_dict(source) for source in report.sources],
        "total": _bucket_as_dict(report.total),
        "moved": [{"from": old, "to": new} for old, new in report.moved],
        "removed": list(report.removed),
        "stale": list(report.stale),
        "checked_by_length": list(report.checked_by_length),
    }


def _counts(source: BucketReport, *, dry_run: bool) -> str:
    parts = [f"{source.found} found"]
    if source.left_out:
        parts.append(f"{source.left_out} left out")
    if dry_run:
        parts.append(f"{source.to_download} to download, {source.skipped} to skip")
    else:
        parts.append(f"{source.downloaded} downloaded, {source.skipped} skipped")
    parts.append(f"{len(source.failures)} failed")
    if source.gone:
        parts.append(f"{len(source.gone)} deleted since they were listed")
    if dry_run:
        return f"{', '.join(parts)}, {source.to_download_bytes / MB:.1f} MB"
    rate = ""
    if source.downloaded and source.seconds > 0:
        megabytes, files = source.bytes / MB / source.seconds, source.downloaded / source.seconds
        rate = f" in {source.seconds:.1f} s ({megabytes:.1f} MB/s, {files:.0f} files/s)"
    return f"{', '.join(parts)}, {source.bytes / MB:.1f} MB{rate}"


def _bucket_as_dict(source: BucketReport) -> dict[str, Any]:
    seconds = source.seconds
    return {
        "source": source.source,
        "found": source.found,
        "left_out": source.left_out,
        "to_download": source.to_download,
        "to_download_bytes": source.to_download_bytes,
        "downloaded": source.downloaded,
        "skipped": source.skipped,
        "failed": len(source.failures),
        "bytes": source.bytes,
        "seconds": seconds,
        "megabytes_per_s": source.bytes / MB / seconds if seconds > 0 else None,
        "files_per_s": source.downloaded / seconds if seconds > 0 else None,
        "gone": list(source.gone),
        "failures": [{"uri": uri, "error": sentence} for uri, sentence in source.failures],
        "error": source.error,
    }
