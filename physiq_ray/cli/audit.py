"""The command audit: from parsed arguments to an exit status."""

import argparse
import sys

from physiq_ray.cli.output import as_json, given, make_display
from physiq_ray.config import load_settings
from physiq_ray.machine import check_writable


def audit_command(args: argparse.Namespace) -> int:
    """Count and check photos and labels."""
    settings = load_settings(given(args), file=args.config)
    from physiq_ray.audit import audit_manifest, load_hash, write_contact_sheet
    from physiq_ray.labels import load_configured_poses
    from physiq_ray.manifest import survey_photos
    from physiq_ray.storage import absolute_uri, write_bytes

    for name, file in (("--manifest", args.manifest_output), ("--sheet", args.sheet)):
        if file:
            check_writable(name, file, is_file=True)
    if args.near_duplicates:
        load_hash()  # before a listing that may take long
    poses = load_configured_poses(settings)
    manifest = survey_photos(settings, poses)
    problem = manifest.report.problem
    if args.check_photos or args.near_duplicates:
        display = make_display(to_stderr=True)
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
    # The report first: a file that cannot be written must not cost what took hours to find.
    if not args.json:
        print("\n".join(audit.describe()), flush=True)
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
            print(as_json(audit.to_dict() | {"files": files}))
        else:
            print("".join(f"wrote {uri}\n" for uri in files), end="")
    return 1 if audit.not_looked_at or problem is not None else 0
