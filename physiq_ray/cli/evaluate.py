"""The command evaluate."""

import argparse
import dataclasses
import os
import sys

from physiq_ray.cli.command import Command, add_model, load
from physiq_ray.cli.output import as_json, make_display, silence_ray
from physiq_ray.config import Settings, SplitSettings
from physiq_ray.constants import SCORED_SPLITS, VALIDATION
from physiq_ray.machine import check_writable

# An evaluation uses the photos of the training unless the command itself names others. The environment may be
# that of the training: if its sources were listed and split again, photos that the model was trained on could
# be among those that are scored.
NOT_IN_ENVIRONMENT = ("sources", "manifest")
WORSE_STATUS = 3  # the new model is significantly worse: a script can refuse to deploy it


def run_evaluate(args: argparse.Namespace) -> int:
    """Score a model on labelled photos, and compare it with another one."""
    settings = _load_settings(args)
    check_writable("--report", args.report)
    from physiq_ray.api.evaluate import evaluate
    from physiq_ray.evaluation.report import extras_as_dict
    from physiq_ray.evaluation.sections import describe_behaviour, describe_slices
    from physiq_ray.evaluation.text import describe_comparison, describe_report

    with silence_ray(debug=args.debug):
        result = evaluate(
            args.model,
            settings,
            split=args.split,
            against=args.against,
            behaviour=args.behaviour,
            report=args.report,
            progress=make_display(to_stderr=True),
            debug=args.debug,
        )
    found, comparison = result.found, result.comparison
    if args.json:
        left_out = {
            "unreadable": [dataclasses.asdict(item) for item in found.unreadable],
            "unknown_poses": [{"id": id_, "photos": count} for id_, count in found.num_unknown.items()],
            "failed_sources": list(result.failed_sources),
        }
        against = {"against": args.against, "comparison": comparison.to_dict()} if comparison else {}
        extras = extras_as_dict(result.slices, result.behaviour)
        files = {"files": list(result.files)}
        print(as_json(result.report.to_dict() | extras | against | left_out | files))
    else:
        print(*describe_report(result.report), *describe_slices(result.slices), sep="\n")
        if result.behaviour:
            print(*describe_behaviour(result.behaviour), sep="\n")
        print("Files:", *(f"  {uri}" for uri in result.files), sep="\n")
        if comparison:
            print(*describe_comparison(comparison, new=args.model, old=args.against), sep="\n")
    for pose_id, count in found.num_unknown.items():
        print(f"left out: {count} photos of pose {pose_id}, which the model does not know", file=sys.stderr)
    for item in found.unreadable:
        print(f"physiq-ray evaluate: {item.uri}: {item.error}", file=sys.stderr)
    for sentence in result.failed_sources:
        print(f"NOT COMPLETE: evaluated without {sentence}", file=sys.stderr)
    if comparison and comparison.worse:
        return WORSE_STATUS
    return 1 if found.unreadable or result.failed_sources else 0


def _load_settings(args: argparse.Namespace) -> Settings:
    hidden = {f"PHYSIQ_{name.upper()}" for name in NOT_IN_ENVIRONMENT}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    settings = load(args, environment=environment)
    # A flag replaces both settings of the file.
    if args.sources and not args.manifest:
        return settings.model_copy(update={"manifest": None})
    if args.manifest and not args.sources:
        return settings.model_copy(update={"sources": ()})
    return settings


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--against",
        metavar="URI",
        help="older model to compare with on the same photos; the exit status is 3 if --model is "
        "significantly worse, overall or on a pose",
    )
    parser.add_argument(
        "--behaviour",
        action="store_true",
        help="also predict up to 200 of the photos mirrored, darker, brighter, recompressed, cropped and "
        "reduced, and report how many answers stay the same",
    )
    parser.add_argument(
        "--split",
        choices=SCORED_SPLITS,
        default=VALIDATION,
        help=f"photos to use, as the training divided them (default: {VALIDATION})",
    )
    parser.add_argument(
        "--report", default="evaluation", metavar="URI", help="folder for the report (default: evaluation)"
    )


EVALUATE = Command(
    "evaluate",
    "score a model on labelled photos, or compare two",
    (
        "physiq-ray evaluate",
        "physiq-ray evaluate --sources s3://new-athletes --split all --report new",
        "physiq-ray evaluate --model output --against s3://models/live",
    ),
    run_evaluate,
    settings=(*SplitSettings.model_fields, "manifest", "batch_size", "precision"),
    add_flags=_add_flags,
    not_in_environment=NOT_IN_ENVIRONMENT,
)
