"""The command labels: bring decisions of reviews and of the service into the label file."""

import argparse
import sys
from pathlib import Path

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, printable
from physiq_ray.config import SplitSettings
from physiq_ray.errors import SettingError


def run_labels(args: argparse.Namespace) -> int:
    """Merge journals and feedback records into the first label file."""
    if not args.journals and args.feedback is None:
        raise SettingError("labels merge: nothing to merge; name journals of review, or give --feedback URI")
    settings = load(args)
    from physiq_ray.review.catalogue import load_catalogue
    from physiq_ray.review.merge import describe_merge, merge, read_decisions

    decisions = read_decisions([Path(name) for name in args.journals], args.feedback)
    catalogue = load_catalogue(settings, args.feedback)
    result = merge(catalogue, decisions, allow_conflicts=args.allow_conflicts)
    if args.json:
        print(as_json(result.to_dict() | {"failed_sources": list(catalogue.failed_sources)}))
    else:
        print("\n".join(map(printable, describe_merge(result))))
    for sentence in catalogue.failed_sources:
        print(f"NOT COMPLETE: merged without {printable(sentence)}", file=sys.stderr)
    is_incomplete = result.conflicts or result.not_found or result.problems or catalogue.failed_sources
    return 1 if is_incomplete else 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["merge"], help="merge: bring decisions into the label file")
    parser.add_argument("journals", nargs="*", metavar="JOURNAL", help="journals of physiq-ray review")
    parser.add_argument(
        "--feedback", metavar="URI", help="feedback prefix of the service, whose labels are merged, too"
    )
    parser.add_argument(
        "--allow-conflicts",
        action="store_true",
        help="merge the other decisions although some are in conflict",
    )


LABELS = Command(
    "labels",
    "bring decisions of reviews and of the service into the label file",
    (
        "physiq-ray labels merge review-1.jsonl --sources s3://checkin-poses",
        "physiq-ray labels merge --feedback s3://to-label --sources ./photos",
    ),
    run_labels,
    settings=SplitSettings.model_fields,
    arguments="merge [JOURNAL ...]",
    add_flags=_add_flags,
)
