"""The command demo: from parsed arguments to an exit status."""

import argparse
from pathlib import Path

from physiq_ray.cli.output import given, make_display, print_prediction, print_training
from physiq_ray.errors import SettingError
from physiq_ray.machine import check_writable


def demo_command(args: argparse.Namespace) -> int:
    """Run the whole main path on photos of its own or the user's."""
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
        flags=given(args),
        photos=Path(args.photos) if args.photos else None,
        labels=args.labels or (),
        debug=args.debug,
    )
    print_training(demo.training)
    print(f"\nA photo it was not trained on{f' ({demo.truth})' if demo.truth else ''}:")
    print_prediction(demo.prediction, demo.figure)
    print(f"\n{demo.next_steps}")
    return 1 if demo.training.failed_sources else 0
