"""The command train."""

import argparse
import contextlib
from pathlib import Path

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, make_display, print_training, silence_ray
from physiq_ray.config import Settings
from physiq_ray.machine import check_writable


def run_train(args: argparse.Namespace) -> int:
    """Train a model or resume a run, and print the result."""
    settings = load(args)
    if not args.resume:
        _check_inputs(settings)
    from physiq_ray.training.run import train
    from physiq_ray.training.text import result_as_dict

    display = make_display(to_stderr=args.json)
    with silence_ray(debug=args.debug) if args.json else contextlib.nullcontext():
        result = train(settings, display, resume=args.resume, debug=args.debug)
    if args.json:
        print(as_json(result_as_dict(result)))
    else:
        print_training(result)
    return 1 if result.failed_sources else 0


def _check_inputs(settings: Settings) -> None:
    """Refuse wrong sources, poses, labels and folders before Ray and torch are imported, which takes seconds.

    Raises SettingError, LabelError, StorageError.
    """
    check_writable("output", settings.output)
    check_writable("storage", settings.storage)
    from physiq_ray.labels import load_configured_poses, load_labels
    from physiq_ray.storage import parse_sources

    poses = load_configured_poses(settings)
    if settings.manifest is None:
        parse_sources(settings.sources)
        if "labels" in settings.model_fields_set:  # the default file may be missing: folders can be labels
            for address in settings.labels:
                # A file that exists is read only once, when the sources are listed.
                if not address.startswith("s3://") and not Path(address).exists():
                    load_labels([address], poses)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--resume", action="store_true", help="resume the run that --run-name names")


TRAIN = Command(
    "train",
    "train a pose classifier on photos from buckets or folders",
    (
        "physiq-ray train --sources s3://checkin-poses s3://workout-images",
        "physiq-ray train --sources ./photos --weights random --run-name first",
        "physiq-ray train --resume --run-name first",
    ),
    run_train,
    settings=Settings.model_fields,
    add_flags=_add_flags,
)
