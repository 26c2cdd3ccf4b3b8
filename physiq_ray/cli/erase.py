"""The command erase: find a person's photos and their traces, and erase them after confirmation."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, confirm_number, printable
from physiq_ray.errors import SettingError
from physiq_ray.machine import check_writable
from physiq_ray.progress import Bars

if TYPE_CHECKING:
    from physiq_ray.erase import ErasePlan, Places

SHOWN_FAILURES = 10


def run_erase(args: argparse.Namespace) -> int:
    """Show a person's photos and their traces; erase them only if a flag says so and the user confirms it."""
    _check_flags(args)
    settings = load(args)
    from physiq_ray import erase
    from physiq_ray.prepared import open_cache

    if args.delete:
        check_writable("--journals", args.journals)
    named = erase.read_named(args.uris) if args.uris else ()
    request = erase.Request(args.group, args.match, named, settings.group_pattern)
    places = erase.Places(
        open_cache(settings.cache_dir, settings.cache_limit_gib),
        settings.storage,
        args.journals,
        tuple(args.answers),
        args.feedback,
    )
    plan = erase.plan_erase(settings, request, places)
    answer = erase.plan_as_dict(plan)
    if not args.json:
        print("\n".join(map(printable, erase.describe_plan(plan))), flush=True)
    _print_failures("NOT SEARCHED", plan.problems)
    failed = bool(plan.problems)
    if not plan.num_items:
        if not args.json:
            print(erase.NOTHING_FOUND)
    elif args.delete:
        _confirm(plan, args)
        failed = not _erase(plan, places, args, answer)
    elif not args.json:
        print(erase.ONLY_LOOKED)
    _note_journals(args)
    if args.json:
        print(as_json(answer))
    return 1 if failed else 0


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that exclude each other, and empty values. Raises SettingError."""
    for name in ("group", "match", "uris"):
        if getattr(args, name) == "":
            raise SettingError(f"--{name}: an empty text would mean no person, or all of them")
    if args.yes and args.expect is None:
        raise SettingError("--yes needs --expect N: the number of items that the plan must contain")
    if (args.yes or args.expect is not None) and not args.delete:
        raise SettingError("--yes and --expect go with --delete")
    if args.uris == "-" and args.delete and not args.yes:
        raise SettingError(
            "--uris -: stdin holds the list, so nobody can confirm there; give --yes --expect N"
        )


def _confirm(plan: "ErasePlan", args: argparse.Namespace) -> None:
    """Check the number of items that --expect gives or the user types. Raises SettingError."""
    number = plan.num_items
    if args.expect is not None and args.expect != number:
        raise SettingError(f"--expect {args.expect}: the plan holds {number} items; nothing was erased")
    if args.yes:
        return
    what = f"{len(plan.photos.stored)} versions and {len(plan.traces)} files with traces"
    confirm_number(number, f"erase {what} for ever", "erased")


def _erase(plan: "ErasePlan", places: "Places", args: argparse.Namespace, answer: dict[str, Any]) -> bool:
    """Erase what the plan names, and tell whether everything is gone."""
    from physiq_ray import erase

    journal = erase.write_named(plan.named, Path(args.journals), datetime.now(UTC))
    with Bars(unit="items") as bars:
        results = erase.erase_photos(
            plan, places, on_progress=lambda place, done, total: bars.update(place, done, total, "erased")
        )
    answer["results"] = erase.results_as_dict(results)
    failures = [f"{result.place}: {failure}" for result in results for failure in result.failures]
    if not args.json:
        print("\n".join(map(printable, erase.describe_results(results))))
    _print_failures("NOT ERASED", failures)
    if failures or plan.problems:
        answer["journal"] = str(journal)
        return False
    journal.unlink()
    if args.uris not in (None, "-") and Path(args.uris).match(erase.JOURNALS):
        Path(args.uris).unlink(missing_ok=True)
    return True


def _note_journals(args: argparse.Namespace) -> None:
    """Name the journals of runs that did not erase everything."""
    from physiq_ray.erase import JOURNALS

    for path in sorted(Path(args.journals).glob(JOURNALS)):
        print(
            f"{path} names photos of which something may be left: remove the cause, then give --uris {path}",
            file=sys.stderr,
        )


def _print_failures(what: str, failures: "tuple[str, ...] | list[str]") -> None:
    for sentence in failures[:SHOWN_FAILURES]:
        print(f"{what}: {printable(sentence)}", file=sys.stderr)
    if len(failures) > SHOWN_FAILURES:
        print(f"{what}: … and {len(failures) - SHOWN_FAILURES} more; --json names all", file=sys.stderr)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--group", metavar="NAME", help="the photos of this group: by labels, or by group_pattern on the key"
    )
    who.add_argument("--match", metavar="REGEX", help="the photos whose key matches this regular expression")
    who.add_argument(
        "--uris",
        metavar="FILE",
        help="the photos that this file names, one address a line, or a journal; -: stdin",
    )
    parser.add_argument(
        "--answers",
        metavar="URI",
        nargs="+",
        default=[],
        help="also search these outputs of predict, or other Parquet files with a column uri",
    )
    parser.add_argument("--feedback", metavar="URI", help="also search the photos that the service kept here")
    parser.add_argument("--delete", action="store_true", help="erase what was found, for ever")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation; needs --expect")
    parser.add_argument(
        "--expect", type=int, metavar="NUMBER", help="erase only if the plan contains this number of items"
    )
    parser.add_argument(
        "--journals",
        default=".",
        metavar="PATH",
        help="folder with the journals of cleanse; also for erased-<time>.jsonl (default: .)",
    )


ERASE = Command(
    "erase",
    "find all photos and traces of a person, and erase them after confirmation",
    (
        "physiq-ray erase --group athlete-17 --sources s3://checkin-poses s3://attic",
        "physiq-ray erase --match 'athlete-17/' --sources s3://checkin-poses --delete",
        "physiq-ray erase --uris list.txt --sources s3://checkin-poses",
    ),
    run_erase,
    settings=(
        *("sources", "labels", "poses", "source_buckets", "label_fields", "requester_pays"),
        *("group_pattern", "group_field", "cache_dir", "storage"),
    ),
    add_flags=_add_flags,
)
