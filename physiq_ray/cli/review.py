"""The command review: label photos on a page of this machine."""

import argparse
import sys
from pathlib import Path

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, printable
from physiq_ray.config import SplitSettings
from physiq_ray.machine import check_writable


def run_review(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM."""
    settings = load(args)
    check_writable("--journals", args.journals)
    from physiq_ray.review.merge import describe_merge
    from physiq_ray.review.run import ReviewOptions, review

    options = ReviewOptions(
        host=args.host,
        port=args.port,
        tokens=args.tokens,
        folder=Path(args.journals),
        journal=Path(args.journal) if args.journal else None,
        drafts=args.drafts,
        suspects=args.suspects,
        feedback=args.feedback,
        order=args.order,
        merge=args.merge,
    )

    def say(sentence: str) -> None:
        print(printable(sentence), file=sys.stderr, flush=True)

    def say_where(address: str) -> None:
        print(f"{address}  the page; Ctrl-C stops", file=sys.stderr if args.json else sys.stdout, flush=True)

    result = review(settings, options, say, say_where)
    merged = result.merged
    if args.json:
        answer = {"journal": str(result.journal), "decided": result.num_decided}
        print(as_json(answer | {"merged": merged.to_dict() if merged else None}))
    else:
        print(f"{result.num_decided} photos decided in {result.journal}")
        if merged is not None:
            print("\n".join(map(printable, describe_merge(merged))))
        elif result.num_decided:
            print(f"physiq-ray labels merge {result.journal} brings them into the label file")
    for sentence in result.problems:
        say(f"NOT COMPLETE: {sentence}")
    return 1 if result.problems or (merged is not None and (merged.conflicts or merged.not_found)) else 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--drafts", metavar="FILE", help="drafts of predict --draft-labels, as suggestions")
    parser.add_argument("--suspects", metavar="FILE", help="suspects.jsonl of physiq-ray suspects")
    parser.add_argument(
        "--feedback",
        metavar="URI",
        help="feedback prefix of the service, whose doubtful photos are shown too",
    )
    parser.add_argument(
        "--order",
        choices=("useful", "spread"),
        default="useful",
        help="useful: the most uncertain photos first; spread: one photo of each group in turn, by "
        "group_pattern or by folder (default: useful)",
    )
    parser.add_argument(
        "--journal",
        metavar="FILE",
        help="journal to continue or create; if not given, a new one in --journals",
    )
    parser.add_argument(
        "--journals",
        default=".",
        metavar="PATH",
        help="folder of journals; photos that one of them decided are not shown again (default: .)",
    )
    parser.add_argument(
        "--merge", action="store_true", help="merge the decisions into the label file while you work"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address of the page (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8010,
        metavar="NUMBER",
        help="port of the page; 0: a free one (default: 8010)",
    )
    parser.add_argument(
        "--tokens",
        metavar="FILE",
        help="file with one bearer token per line, or environment: PHYSIQ_TOKENS; needed off loopback",
    )


REVIEW = Command(
    "review",
    "label photos on a page, one by one",
    (
        "physiq-ray review --sources s3://checkin-poses s3://workout-images",
        "physiq-ray review --sources s3://checkin-poses --merge",
        "physiq-ray review --sources ./photos --suspects suspects/suspects.jsonl",
    ),
    run_review,
    settings=SplitSettings.model_fields,
    add_flags=_add_flags,
)
