"""The command cleanse: find unlabelled photos, plan, delete, move or tag them, and restore them."""

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json, confirm_number, printable
from physiq_ray.cli.sheet import draw_sheet, prepare_sheet
from physiq_ray.config import CleanseSettings
from physiq_ray.errors import SettingError
from physiq_ray.machine import check_writable
from physiq_ray.progress import Bars

if TYPE_CHECKING:
    from physiq_ray.cleanse import CleansePlan
    from physiq_ray.cleanse.batches import OnProgress
    from physiq_ray.cleanse.report import RemovalReport, TagReport
    from physiq_ray.storage import Bucket, Source

SHOWN_FAILURES = 10


def run_cleanse(args: argparse.Namespace) -> int:
    """Scan the buckets; delete, move or tag photos only if a flag says so and the user confirms it."""
    _check_flags(args)
    settings = load(args, CleanseSettings)
    if args.restore:
        return _restore(args, settings)
    if args.untag:
        return _untag(args, settings)
    from physiq_ray import cleanse
    from physiq_ray.storage.refusal import find_missing_right

    buckets = cleanse.parse_buckets(settings.sources)
    move_to = _parse_move_to(args.move_to, buckets) if args.move_to else None
    removes = not args.tag and bool(args.delete or args.apply or move_to)
    if removes:
        check_writable("--journals", args.journals)
    if args.plan:
        check_writable("--plan", args.plan, is_file=True)
    predict = prepare_sheet(args, settings) if args.sheet else None
    reviewed = cleanse.read_plan(Path(args.apply)) if args.apply else None
    now = datetime.now(UTC)
    with Bars(unit="objects") as bars:
        plan = cleanse.scan_buckets(settings, now=now, reviewed=reviewed, on_keys=_counter(bars))
    answer = cleanse.plan_as_dict(plan)
    if not args.json:
        print("\n".join(map(printable, cleanse.describe_plan(plan))), flush=True)
    for sentence in plan.problems:
        print(f"NOT COMPLETE: {printable(sentence)}", file=sys.stderr)
    # First of all, because it only makes photos safer: whatever fails later or is not confirmed.
    ended = [_untag_staying(plan, args, answer)] if args.tag else []
    if args.plan:
        _write_plan(plan, args)
    if args.sheet:
        draw_sheet(plan, args, predict, answer)
    rights = [find_missing_right(bucket.error) for bucket in plan.buckets]
    missing_rights = {right for right in rights if right is not None}
    failed = any(bucket.error is not None for bucket in plan.buckets)
    if removes or args.tag:
        failed = failed or bool(plan.problems)
        if plan.num_photos:
            num_reviewed = reviewed.num_rows if reviewed is not None else plan.num_photos
            _confirm(plan, args, num_reviewed)
            ended.append(_tag(plan, args, answer) if args.tag else _remove(plan, args, now, move_to, answer))
        elif not args.json:
            print(f"Nothing to {'tag' if args.tag else 'delete'}.")
        failed = failed or any(one.failed for one in ended)
        missing_rights = missing_rights.union(*(one.missing_rights for one in ended))
    elif plan.num_photos and not args.json:
        print(cleanse.ONLY_SCANNED)
    _print_policy(cleanse.find_needed_policy(missing_rights, buckets, move_to=move_to, tags=args.tag))
    if args.json:
        print(as_json(answer))
    return 1 if failed else 0


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that exclude each other. Raises SettingError."""
    acts = args.delete or args.apply or args.move_to or args.tag
    if args.tag and (args.delete or args.move_to):
        raise SettingError("--tag marks photos and removes none; leave out --delete and --move-to")
    if args.untag and (acts or args.plan or args.restore):
        raise SettingError("--untag excludes the other flags that delete, move, tag, plan or restore")
    if args.model and not args.sheet:
        raise SettingError(f"--model {args.model}: needs --sheet, which shows the model's answers")
    if args.sheet and (args.restore or args.untag):
        raise SettingError("--sheet shows the photos of a plan; leave out --restore and --untag")
    if args.restore and (acts or args.plan):
        raise SettingError(
            "--restore excludes the other flags that delete, move, tag or plan: it restores what a journal "
            "names"
        )
    if args.apply and args.plan:
        raise SettingError("--plan writes a plan and --apply uses one; give one of the two")
    if args.yes and args.expect is None:
        raise SettingError("--yes needs --expect N: the number of photos that the plan must contain")
    if (args.yes or args.expect is not None) and not acts:
        raise SettingError("--yes and --expect go with --delete, --move-to, --tag or --apply")


def _parse_move_to(text: str, buckets: "tuple[Bucket, ...]") -> "Bucket":
    from physiq_ray.cleanse import check_target
    from physiq_ray.storage import Bucket, parse_source

    move_to = parse_source(text)
    if not isinstance(move_to, Bucket):
        raise SettingError(f"--move-to {text}: give s3://bucket/prefix")
    check_target(move_to, buckets)
    return move_to


def _write_plan(plan: "CleansePlan", args: argparse.Namespace) -> None:
    from physiq_ray.cleanse import format_plan
    from physiq_ray.storage import absolute_uri, write_bytes

    write_bytes(format_plan(plan), absolute_uri(args.plan))
    if not args.json:
        print(f"wrote {args.plan}: {plan.num_photos} photos; review it, then give --apply {args.plan}")


def _counter(bars: Bars) -> "Callable[[Source, int], None]":
    """Give a function that shows how many keys of each source are listed."""
    keys: Counter[str] = Counter()

    def count(source: "Source", num_keys: int) -> None:
        keys[str(source)] += num_keys
        bars.update(str(source), keys[str(source)], 0)

    return count


def _confirm(plan: "CleansePlan", args: argparse.Namespace, num_reviewed: int) -> None:
    """Check the number of photos that --expect gives or the user types. Raises SettingError."""
    done = "tagged" if args.tag else "deleted"
    if args.expect is not None and args.expect != num_reviewed:
        raise SettingError(
            f"--expect {args.expect}: the plan holds {num_reviewed} photos; nothing was {done}"
        )
    if args.yes:
        return
    look = f"; look at {args.sheet} first" if args.sheet else ""
    what = f"{plan.num_photos} photos ({plan.freed_bytes / 1e6:.1f} MB{look})"
    deed = f"move {what} to {args.move_to}" if args.move_to else f"{'tag' if args.tag else 'delete'} {what}"
    confirm_number(plan.num_photos, deed, done)


class _Ended(NamedTuple):
    failed: bool
    missing_rights: frozenset[str]


def _remove(
    plan: "CleansePlan",
    args: argparse.Namespace,
    now: datetime,
    move_to: "Bucket | None",
    answer: dict[str, Any],
) -> _Ended:
    from physiq_ray import cleanse

    verb = "moved" if move_to else "deleted"
    with cleanse.Journal(cleanse.name_journal(Path(args.journals), now)) as journal, Bars() as bars:
        try:
            removals = cleanse.remove_photos(
                plan,
                journal,
                move_to=move_to,
                allow_unconditional=args.allow_unconditional,
                on_progress=_show_on(bars, verb),
            )
        except KeyboardInterrupt:
            print(
                f"interrupted: {journal.path} names what was {verb}; run the same command again to continue",
                file=sys.stderr,
            )
            raise
    answer |= {
        "removals": [cleanse.removal_as_dict(removal) for removal in removals],
        "journal": str(journal.path),
    }
    if not args.json:
        lines = cleanse.describe_removals(removals, is_move=move_to is not None)
        print("\n".join(map(printable, lines)))
        print(f"{journal.path} names every photo")
    return _end(removals)


def _untag_staying(plan: "CleansePlan", args: argparse.Namespace, answer: dict[str, Any]) -> _Ended:
    from physiq_ray import cleanse

    with _tag_bars() as bars:
        reports = cleanse.untag_staying(plan, on_progress=_show_on(bars, "looked at"))
    answer["untagged"] = [cleanse.tags_as_dict(report) for report in reports]
    if not args.json:
        lines = cleanse.describe_untagging(reports, "photos that stay")
        print("\n".join(map(printable, lines)), flush=True)
    return _end(reports)


def _tag(plan: "CleansePlan", args: argparse.Namespace, answer: dict[str, Any]) -> _Ended:
    from physiq_ray import cleanse

    with _tag_bars() as bars:
        today = datetime.now(UTC).date()  # the prompt may have waited past midnight
        reports = cleanse.tag_photos(plan, today, on_progress=_show_on(bars, "tagged"))
    lifecycle = cleanse.make_lifecycle(frozenset().union(*(report.values for report in reports)))
    answer |= {"tags": [cleanse.tags_as_dict(report) for report in reports], "lifecycle": lifecycle}
    if not args.json:
        print("\n".join(map(printable, cleanse.describe_tags(reports))))
        if lifecycle["Rules"]:
            print("\n".join(map(printable, cleanse.describe_lifecycle(lifecycle, reports))))
    return _end(reports)


def _untag(args: argparse.Namespace, settings: CleanseSettings) -> int:
    from physiq_ray import cleanse

    with _tag_bars() as bars:
        reports = cleanse.untag_buckets(
            settings, on_keys=_counter(bars), on_progress=_show_on(bars, "looked at")
        )
    if args.json:
        print(as_json({"untagged": [cleanse.tags_as_dict(report) for report in reports]}))
    else:
        print("\n".join(map(printable, cleanse.describe_untagging(reports, "photos"))))
    ended = _end(reports)
    buckets = cleanse.parse_buckets(settings.sources)
    _print_policy(cleanse.find_needed_policy(ended.missing_rights, buckets, tags=True))
    return 1 if ended.failed else 0


@contextlib.contextmanager
def _tag_bars() -> Iterator[Bars]:
    try:
        with Bars() as bars:
            yield bars
    except KeyboardInterrupt:
        print("interrupted: run the same command again to complete the tags", file=sys.stderr)
        raise


def _show_on(bars: Bars, note: str) -> "OnProgress":
    return lambda source, done, total: bars.update(str(source), done, total, note)


def _end(reports: "Sequence[RemovalReport | TagReport]") -> _Ended:
    """Print what failed."""
    for report in reports:
        _print_failures(report.failures)
        if report.stopped is not None:
            print(f"NOT COMPLETE: {report.source}: {printable(report.stopped)}", file=sys.stderr)
    return _Ended(
        failed=not all(report.is_complete for report in reports),
        missing_rights=frozenset().union(*(report.missing_rights for report in reports)),
    )


def _restore(args: argparse.Namespace, settings: CleanseSettings) -> int:
    from physiq_ray import cleanse
    from physiq_ray.storage import Bucket, follow_settings, split_uri

    entries = cleanse.read_journal(Path(args.restore))
    follow_settings(settings, {split_uri(entry.uri)[0] for entry in entries})
    with Bars() as bars:
        restoral = cleanse.restore_photos(
            entries, on_progress=lambda done, total: bars.update(args.restore, done, total, "checked")
        )
    if args.json:
        print(as_json(cleanse.restoral_as_dict(restoral)))
    else:
        print(cleanse.describe_restoral(restoral))
    _print_failures(restoral.failures)
    if restoral.missing_rights:
        buckets = [Bucket(name) for name in {split_uri(entry.uri)[0]: None for entry in entries}]
        moved = {split_uri(entry.moved_to)[0] for entry in entries if entry.moved_to}
        move_to = Bucket(*moved) if moved else None
        _print_policy(
            cleanse.find_needed_policy(restoral.missing_rights, buckets, move_to=move_to, restores=True)
        )
    return 1 if restoral.failures else 0


def _print_policy(policy: str | None) -> None:
    if policy is not None:
        print(f"The role or key needs this policy:\n{policy}", file=sys.stderr)


def _print_failures(failures: tuple[str, ...]) -> None:
    for sentence in failures[:SHOWN_FAILURES]:
        print(f"physiq-ray cleanse: {printable(sentence)}", file=sys.stderr)
    if len(failures) > SHOWN_FAILURES:
        print(f"physiq-ray cleanse: … and {len(failures) - SHOWN_FAILURES} more", file=sys.stderr)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", metavar="FILE", help="write the plan as JSON lines, to review it")
    parser.add_argument(
        "--sheet",
        metavar="FOLDER",
        help="draw the photos that would be removed on pages of thumbnails, in a new or empty folder",
    )
    parser.add_argument("--model", metavar="URI", help="model file whose answers --sheet shows")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--delete", action="store_true", help="delete the unlabelled photos")
    action.add_argument(
        "--apply",
        metavar="FILE",
        help="remove only photos that this plan names, if they still may be removed",
    )
    action.add_argument("--restore", metavar="FILE", help="restore the photos that this journal names")
    parser.add_argument(
        "--move-to", metavar="URI", help="move photos to this s3://bucket/prefix instead of deleting them"
    )
    parser.add_argument(
        "--tag",
        action="store_true",
        help="tag the photos for a lifecycle rule instead of deleting them, and remove the tag from all "
        "photos that stay",
    )
    action.add_argument(
        "--untag", action="store_true", help="only remove the tag from all photos of the sources"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation; needs --expect")
    parser.add_argument(
        "--expect", type=int, metavar="NUMBER", help="remove photos only if the plan contains this number"
    )
    parser.add_argument(
        "--journals", default=".", metavar="PATH", help="folder for deleted-<time>.jsonl (default: .)"
    )
    parser.add_argument(
        "--allow-unconditional",
        action="store_true",
        help="also delete on S3 servers that cannot spare a photo that has just changed",
    )


CLEANSE = Command(
    "cleanse",
    "find unlabelled photos, and remove them after confirmation",
    (
        "physiq-ray cleanse --sources s3://checkin-poses s3://workout-images",
        "physiq-ray cleanse --sources s3://checkin-poses --plan plan.jsonl",
        "physiq-ray cleanse --sources s3://checkin-poses --apply plan.jsonl",
        "physiq-ray cleanse --sources s3://checkin-poses --sheet pages --delete",
        "physiq-ray cleanse --sources s3://checkin-poses --tag",
        "physiq-ray cleanse --restore deleted-20261125T031500Z.jsonl",
    ),
    run_cleanse,
    settings=CleanseSettings.model_fields,
    kind=CleanseSettings,
    add_flags=_add_flags,
)
