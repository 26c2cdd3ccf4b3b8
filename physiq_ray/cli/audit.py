"""The command audit."""

import argparse
import sys

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, make_display, silence_ray
from physiq_ray.config import SplitSettings
from physiq_ray.machine import check_writable


def run_audit(args: argparse.Namespace) -> int:
    """Count and check photos and labels."""
    settings = load(args)
    from physiq_ray.api.audit import audit as audit_photos
    from physiq_ray.auditing import describe, to_dict, write_contact_sheet
    from physiq_ray.labels import load_configured_poses
    from physiq_ray.storage import absolute_uri, write_bytes

    for name, file in (("--manifest", args.manifest_output), ("--sheet", args.sheet)):
        if file:
            check_writable(name, file, is_file=True)
    with silence_ray(debug=args.debug):
        audit = audit_photos(
            settings,
            check_photos=args.check_photos,
            near_duplicates=args.near_duplicates,
            progress=make_display(to_stderr=True),
            debug=args.debug,
        )
    manifest = audit.manifest
    problem = manifest.report.problem
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
            write_contact_sheet(manifest, load_configured_poses(settings), uri, seed=settings.seed)
            files.append(uri)
    finally:
        if args.json:
            print(as_json(to_dict(audit) | {"files": files}))
        else:
            print("".join(f"wrote {uri}\n" for uri in files), end="")
    return 1 if audit.not_looked_at or problem is not None else 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check-photos",
        action="store_true",
        help="read each labelled photo, in tasks of Ray; a training finds those that --cache keeps on disk",
    )
    parser.add_argument(
        "--near-duplicates",
        action="store_true",
        help="as --check-photos, and compare all photos by their perceptual hashes",
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
    "count and check photos and labels, without changing them",
    (
        "physiq-ray audit --sources s3://checkin-poses s3://workout-images",
        "physiq-ray audit --sources ./photos --near-duplicates --sheet sheet.png",
        "physiq-ray audit --sources s3://checkin-poses --manifest manifest.parquet",
        "physiq-ray audit --sources s3://checkin-poses --check-photos --cache disk",
    ),
    run_audit,
    settings=(*SplitSettings.model_fields, "image_size", "cache", "cache_dir", "cache_limit_gib"),
    add_flags=_add_flags,
)
