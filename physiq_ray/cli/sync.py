"""The command sync: download the photos of buckets into a folder."""

import argparse
import os
import sys
import threading
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, printable
from physiq_ray.config import SyncSettings
from physiq_ray.progress import Bars

if TYPE_CHECKING:
    from physiq_ray.sync import BucketReport, SyncReport

MAX_FAILURES_SHOWN = 10  # of a bucket


def run_sync(args: argparse.Namespace) -> int:
    """Download photos; with --dry-run, only show what would be downloaded."""
    settings = load(args, SyncSettings)
    if not (args.labelled_only or args.sorted):
        _spare_pandas()
    from physiq_ray.sync import sync
    from physiq_ray.sync.transfer import THREAD_NAME

    try:
        with Bars() as bars:
            is_listing = True

            def show(label: str, done: int, total: int, note: str) -> None:
                nonlocal is_listing
                if is_listing and total:
                    is_listing = False
                    bars.restart()
                bars.update(label, done, total, note)

            report = sync(
                settings,
                Path(args.folder),
                labelled_only=args.labelled_only,
                is_sorted=args.sorted,
                dry_run=args.dry_run,
                on_progress=show,
            )
    except KeyboardInterrupt:
        print(
            f"physiq-ray sync: interrupted; {args.folder} keeps all complete photos; run the same command "
            "again to continue",
            file=sys.stderr,
            flush=True,
        )
        if any(thread.name == THREAD_NAME for thread in threading.enumerate()):
            # These threads are inside a request of a library, which Python's normal exit would destroy.
            os._exit(1)
        return 1
    if args.json:
        print(as_json(_summarise(report)))
    else:
        print("\n".join(_describe(report)))
    _print_problems(report)
    return 0 if report.is_complete else 1


def _spare_pandas() -> None:
    """Keep pyarrow from importing pandas. A sync that has nothing to download then takes a third less time.

    If pandas is installed, pyarrow imports it with the first array, to find out whether that is a Series. It
    does so once in a process (pandas-shim.pxi).
    """
    if "pandas" in sys.modules or "pyarrow" in sys.modules:
        return
    import pyarrow as pa

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)


class _NoPandas(MetaPathFinder):
    """Says that pandas is not installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'", name=name)


def _describe(report: "SyncReport") -> list[str]:
    lines = [
        f"{source.source}: {_counts(source, dry_run=report.dry_run)}"
        for source in report.sources
        if source.error is None
    ]
    lines += [
        f"{bucket}: its ETags look like MD5s of the photos but are none (as in S3's directory buckets): the "
        "downloads were checked by their length only"
        for bucket in report.checked_by_length
    ]
    total = _total(report)
    lines.append(f"total: {_counts(total, dry_run=report.dry_run)}")
    if report.moved or report.removed:
        done = "would move" if report.dry_run else "moved"
        lines.append(
            f"{done} {len(report.moved)} photos to the split and pose that they have now"
            + (f", {len(report.removed)} second copies removed" if report.removed else "")
        )
    return lines


def _counts(source: "BucketReport", *, dry_run: bool) -> str:
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
        return f"{', '.join(parts)}, {source.to_download_bytes / 1e6:.1f} MB"
    rate = ""
    if source.downloaded and source.seconds > 0:
        megabytes, files = source.bytes / 1e6 / source.seconds, source.downloaded / source.seconds
        rate = f" in {source.seconds:.1f} s ({megabytes:.1f} MB/s, {files:.0f} files/s)"
    return f"{', '.join(parts)}, {source.bytes / 1e6:.1f} MB{rate}"


def _total(report: "SyncReport") -> "BucketReport":
    from physiq_ray.sync import BucketReport

    sources = report.sources
    return BucketReport(
        source="total",
        found=sum(source.found for source in sources),
        left_out=sum(source.left_out for source in sources),
        to_download=sum(source.to_download for source in sources),
        to_download_bytes=sum(source.to_download_bytes for source in sources),
        downloaded=sum(source.downloaded for source in sources),
        skipped=sum(source.skipped for source in sources),
        bytes=sum(source.bytes for source in sources),
        seconds=report.seconds,
        gone=tuple(uri for source in sources for uri in source.gone),
        failures=tuple(failure for source in sources for failure in source.failures),
    )


def _print_problems(report: "SyncReport") -> None:
    for source in report.sources:
        for _, sentence in source.failures[:MAX_FAILURES_SHOWN]:
            print(f"physiq-ray sync: {printable(sentence)}", file=sys.stderr)
        if (more := len(source.failures) - MAX_FAILURES_SHOWN) > 0:
            print(
                f"physiq-ray sync: {source.source}: and {more} more failed; --json names all", file=sys.stderr
            )
    if report.stale:
        shown = printable("; ".join(report.stale[:3])) + ("; …" if len(report.stale) > 3 else "")
        print(
            f"physiq-ray sync: {len(report.stale)} stale photos in training and validation are no longer in "
            "the manifest (the label was withdrawn, the photo was deleted, or its source was not given). "
            "Programs that read the folders still use them, and a copy may be in the other split: "
            f"{shown}; look at them and delete them",
            file=sys.stderr,
        )
    for source in report.sources:
        if source.error is not None:
            print(f"NOT COMPLETE: without {source.source}: {source.error}", file=sys.stderr)


def _summarise(report: "SyncReport") -> dict[str, Any]:
    return {
        "dry_run": report.dry_run,
        "sources": [_as_dict(source) for source in report.sources],
        "total": _as_dict(_total(report)),
        "moved": [{"from": old, "to": new} for old, new in report.moved],
        "removed": list(report.removed),
        "stale": list(report.stale),
        "checked_by_length": list(report.checked_by_length),
    }


def _as_dict(source: "BucketReport") -> dict[str, Any]:
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
        "megabytes_per_s": source.bytes / 1e6 / seconds if seconds > 0 else None,
        "files_per_s": source.downloaded / seconds if seconds > 0 else None,
        "gone": list(source.gone),
        "failures": [{"uri": uri, "error": sentence} for uri, sentence in source.failures],
        "error": source.error,
    }


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="target folder; each bucket gets a sub-folder")
    parser.add_argument("--labelled-only", action="store_true", help="download only labelled photos")
    parser.add_argument(
        "--sorted",
        action="store_true",
        help="download only photos that can be trained on, into training/ and validation/ by pose id, with "
        "the split of train",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be downloaded, and write nothing"
    )


SYNC = Command(
    "sync",
    "download the photos of buckets into a folder",
    (
        "physiq-ray sync photos --sources s3://checkin-poses s3://workout-images/2026",
        "physiq-ray sync photos --sources s3://checkin-poses --labelled-only --dry-run",
        "physiq-ray sync sorted --sources s3://checkin-poses --sorted",
    ),
    run_sync,
    settings=SyncSettings.model_fields,
    kind=SyncSettings,
    arguments="FOLDER",
    add_flags=_add_flags,
)
