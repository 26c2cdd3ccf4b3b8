"""The command sync: download the photos of buckets into a folder."""

import argparse
import os
import sys
import threading
from pathlib import Path

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, printable
from physiq_ray.config import SyncSettings
from physiq_ray.lazy import without_garbage_collection
from physiq_ray.progress import Bars


def run_sync(args: argparse.Namespace) -> int:
    """Download photos; with --dry-run, only show what would be downloaded."""
    settings = load(args, SyncSettings)
    with without_garbage_collection():
        from physiq_ray.syncing import describe_problems, describe_sync, sync, sync_as_dict
        from physiq_ray.syncing.transfer import THREAD_NAME

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
        print(as_json(sync_as_dict(report)))
    else:
        print("\n".join(describe_sync(report)))
    for sentence in describe_problems(report):
        print(printable(sentence), file=sys.stderr)
    return 0 if report.is_complete else 1


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
