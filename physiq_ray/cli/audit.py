"""The command audit."""

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, make_display, silence_ray
from physiq_ray.config import SplitSettings
from physiq_ray.machine import check_writable

if TYPE_CHECKING:
    from physiq_ray.manifest import Manifest
    from physiq_ray.progress import Display


def run_audit(args: argparse.Namespace) -> int:
    """Count and check photos and labels."""
    settings = load(args)
    from physiq_ray.auditing import audit_manifest, describe, to_dict, write_contact_sheet
    from physiq_ray.labels import load_configured_poses
    from physiq_ray.manifest import survey_photos
    from physiq_ray.near import load_hash
    from physiq_ray.storage import absolute_uri, write_bytes

    for name, file in (("--manifest", args.manifest_output), ("--sheet", args.sheet)):
        if file:
            check_writable(name, file, is_file=True)
    if args.near_duplicates:
        load_hash()  # a missing package is reported before the listing, which may take long
    poses = load_configured_poses(settings)
    display = make_display(to_stderr=True)
    if settings.group_near_duplicates == "yes":
        manifest = _survey_compared(settings, poses, display, debug=args.debug)
    else:
        manifest = survey_photos(settings, poses)
    problem = manifest.report.problem
    if args.check_photos or args.near_duplicates:
        with display.live():
            audit = audit_manifest(
                manifest,
                poses,
                check_photos=True,
                near_duplicates=args.near_duplicates,
                on_progress=lambda done, total: display.count("reading", done, total),
            )
    else:
        audit = audit_manifest(manifest, poses)
    # The report is printed first: it may have taken hours, and writing a file may still fail.
    if not args.json:
        print("\n".join(describe(audit)), flush=True)
    for sentence in audit.not_looked_at:
        print(f"NOT COMPLETE: {sentence}", file=sys.stderr)
    if problem is not None:
        print(f"physiq-ray audit: {problem}", file=sys.stderr)
    if problem is not None and args.manifest_output:
        print(f"NOT WRITTEN: {args.manifest_output}: no manifest to train on", file=sys.stderr)
    if not manifest.table.num_rows and args.sheet:
        print(f"NOT WRITTEN: {args.sheet}: no labelled photo to show", file=sys.stderr)
    files = []
    try:
        if problem is None and args.manifest_output:
            uri = absolute_uri(args.manifest_output)
            write_bytes(manifest.to_parquet(), uri)
            files.append(uri)
        if manifest.table.num_rows and args.sheet:
            uri = absolute_uri(args.sheet)
            write_contact_sheet(manifest, poses, uri, seed=settings.seed)
            files.append(uri)
    finally:
        if args.json:
            print(as_json(to_dict(audit) | {"files": files}))
        else:
            print("".join(f"wrote {uri}\n" for uri in files), end="")
    return 1 if audit.not_looked_at or problem is not None else 0


def _survey_compared(
    settings: SplitSettings, poses: Mapping[int, str], display: "Display", *, debug: bool
) -> "Manifest":
    """Build the manifest with groups of near-duplicates, which Ray finds; Ray is not started otherwise."""
    from physiq_ray.cluster import check_cluster, connect
    from physiq_ray.ingest import hashing
    from physiq_ray.manifest import survey_photos

    check_cluster()
    hash_photos = hashing(
        settings,
        lambda: connect(debug=debug),
        on_progress=lambda done, total: display.count("comparing", done, total),
    )
    with display.live(), silence_ray(debug=debug):
        return survey_photos(settings, poses, hash_photos=hash_photos)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check-photos", action="store_true", help="read each labelled photo")
    parser.add_argument(
        "--near-duplicates",
        action="store_true",
        help="read each labelled photo, and compare all by their perceptual hashes",
    )
    parser.add_argument("--sheet", metavar="FILE", help="write a PNG with some photos of each pose")
    parser.add_argument(
        "--manifest",
        dest="manifest_output",
        metavar="FILE",
        help="save the manifest, which train --manifest can use",
    )


AUDIT = Command(
    "audit",
    "count and check photos and labels, without changing anything",
    (
        "physiq-ray audit --sources s3://checkin-poses s3://workout-images",
        "physiq-ray audit --sources ./photos --near-duplicates --sheet sheet.png",
        "physiq-ray audit --sources s3://checkin-poses --manifest manifest.parquet",
    ),
    run_audit,
    settings=SplitSettings.model_fields,
    add_flags=_add_flags,
)
