"""The command demo."""

import argparse
from pathlib import Path

from physiq_ray.cli.command import Command, given_settings
from physiq_ray.cli.output import make_display, print_prediction, print_training
from physiq_ray.config import Settings
from physiq_ray.errors import SettingError
from physiq_ray.machine import check_writable

# The demo decides these itself.
FIXED = (
    *("sources", "source_buckets", "manifest", "labels", "output", "storage", "run_name"),
    *("requester_pays", "anonymous"),
)


def run_demo_command(args: argparse.Namespace) -> int:
    """Train and predict on one machine, with generated photos or the user's own."""
    if (args.photos is None) != (args.labels is None):
        raise SettingError(
            "--photos and --labels go together: a folder of photos and the labels of its photos"
        )
    check_writable("--folder", args.folder)
    from physiq_ray.sample.demo import run_demo

    display = make_display(to_stderr=False)
    demo = run_demo(
        Path(args.folder),
        display,
        flags=given_settings(args),
        photos=Path(args.photos) if args.photos else None,
        labels=args.labels or (),
        debug=args.debug,
    )
    print_training(demo.training)
    print(f"\nA photo it was not trained on{f' ({demo.truth})' if demo.truth else ''}:")
    print_prediction(demo.prediction, demo.figure)
    print(f"\n{demo.next_steps}")
    return 1 if demo.training.failed_sources else 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", default="demo", metavar="PATH", help="folder for all files of the demo (default: demo)"
    )
    parser.add_argument(
        "--photos", metavar="PATH", help="folder with your own photos; each sub-folder becomes a bucket"
    )
    parser.add_argument("--labels", nargs="+", metavar="URI", help="label files of --photos")


DEMO = Command(
    "demo",
    "train and predict on generated photos, with a local S3 server",
    (
        "physiq-ray demo",
        "physiq-ray demo --photos my-photos --labels my-photos/db_labels.json",
    ),
    run_demo_command,
    settings=[name for name in Settings.model_fields if name not in FIXED],
    add_flags=_add_flags,
    has_json=False,
    has_config=False,
    shows_defaults=False,
)
