"""The command train: from parsed arguments to an exit status."""

import argparse
import contextlib
from pathlib import Path

from physiq_ray.cli.output import as_json, given, make_display, no_words_of_ray, print_training
from physiq_ray.config import Settings, load_settings
from physiq_ray.machine import check_writable


def train_command(args: argparse.Namespace) -> int:
    """Train, or go on with a run, and print what came of it."""
    settings = load_settings(given(args), file=args.config)
    if not args.resume:
        _check_inputs(settings)
    from physiq_ray.training.run import train
    from physiq_ray.training.text import result_as_dict

    display = make_display(to_stderr=args.json)
    with no_words_of_ray(debug=args.debug) if args.json else contextlib.nullcontext():
        result = train(settings, display, resume=args.resume, debug=args.debug)
    if args.json:
        print(as_json(result_as_dict(result)))
    else:
        print_training(result)
    return 1 if result.failed_sources else 0


def _check_inputs(settings: Settings) -> None:
    """Refuse wrong sources, poses, labels and folders at once: Ray and torch take seconds to import.

    Raises SettingError, LabelError, StorageError.
    """
    check_writable("output", settings.output)
    check_writable("storage", settings.storage)
    from physiq_ray.labels import load_configured_poses, load_labels
    from physiq_ray.storage import parse_sources

    poses = load_configured_poses(settings)
    if settings.manifest is None:
        parse_sources(settings.sources)
        if "labels" in settings.model_fields_set:  # without a file, folders may be labels enough
            for address in settings.labels:
                # One that is there is read once, when the sources are listed.
                if not address.startswith("s3://") and not Path(address).exists():
                    load_labels([address], poses)
