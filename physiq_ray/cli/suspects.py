"""The command suspects."""

import argparse
import sys

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, make_display, silence_ray
from physiq_ray.config import Settings
from physiq_ray.errors import SettingError
from physiq_ray.machine import check_writable

DEFAULT_MODEL = "output"
FIXED = ("output", "mlflow", "limit", "max_hours")  # the command decides these itself


def run_suspects(args: argparse.Namespace) -> int:
    """Rank labelled photos by how little a model believes their labels."""
    _check_flags(args)
    settings = load(args)
    check_writable("--report", args.report)
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.evaluation.candidates import split_defaults
    from physiq_ray.storage import absolute_uri
    from physiq_ray.suspects.found import find_suspects
    from physiq_ray.suspects.predicted import predict_by_folds, predict_with_model
    from physiq_ray.suspects.report import refuse_existing, write_suspects
    from physiq_ray.suspects.text import describe_suspects

    report = absolute_uri(args.report)
    refuse_existing(report)
    display = make_display(to_stderr=True)
    with silence_ray(debug=args.debug):
        if args.folds is not None:
            check_writable("storage", settings.storage)
            predicted = predict_by_folds(settings, args.folds, display, resume=args.resume, debug=args.debug)
        else:
            state = load_model_state(args.model or DEFAULT_MODEL)
            settings = load(args, defaults=split_defaults(state))
            predicted = predict_with_model(
                settings,
                state,
                display,
                with_training_photos=args.with_training_photos,
                debug=args.debug,
            )
    suspects = find_suspects(predicted)
    files = write_suspects(suspects, report)
    if args.json:
        print(as_json(suspects.to_dict() | {"files": list(files)}))
    else:
        print(*describe_suspects(suspects), "Files:", *(f"  {uri}" for uri in files), sep="\n")
    for item in suspects.unreadable:
        print(f"physiq-ray suspects: {item.uri}: {item.error}", file=sys.stderr)
    for sentence in suspects.failed_sources:
        print(f"NOT COMPLETE: ranked without {sentence}", file=sys.stderr)
    return 1 if suspects.unreadable or suspects.failed_sources else 0


def _check_flags(args: argparse.Namespace) -> None:
    """Raise SettingError: two flags exclude each other."""
    if args.folds is None and args.resume:
        raise SettingError("--resume: resumes the trainings of --folds; give --folds too")
    if args.folds is not None:
        for flag, is_given in (
            (f"--model {args.model}", args.model),
            ("--with-training-photos", args.with_training_photos),
        ):
            if is_given:
                raise SettingError(
                    f"{flag}: given together with --folds {args.folds}, which trains models of its own; "
                    "give one of the two"
                )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="URI",
        help=f"model file, or the folder that holds it (default: {DEFAULT_MODEL}); it ranks the photos that "
        "it was not trained on",
    )
    parser.add_argument(
        "--with-training-photos",
        action="store_true",
        help="rank the photos too that the model was trained on, whose labels it has learned",
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="NUMBER",
        help="rank all photos: divide them into so many folds, and predict each fold with a model that is "
        "trained on the others",
    )
    parser.add_argument(
        "--resume", action="store_true", help="resume the run of --folds that --run-name names"
    )
    parser.add_argument(
        "--report",
        default="suspects",
        metavar="URI",
        help="folder for suspects.jsonl and the contact sheet (default: suspects)",
    )


SUSPECTS = Command(
    "suspects",
    "find labels that are likely wrong",
    (
        "physiq-ray suspects --folds 5 --sources s3://checkin-poses",
        "physiq-ray suspects --folds 5 --resume --run-name suspects-20261128-020649",
        "physiq-ray suspects --model output",
    ),
    run_suspects,
    settings=[name for name in Settings.model_fields if name not in FIXED],
    add_flags=_add_flags,
)
