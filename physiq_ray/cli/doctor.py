"""The command doctor: check whether a run would work, or print the settings in force."""

import argparse
import dataclasses
import shutil
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from physiq_ray.cli.command import Command, given_settings, load
from physiq_ray.cli.output import as_json, printable
from physiq_ray.config import Settings, find_origins, write_toml

if TYPE_CHECKING:
    from physiq_ray.doctor import Finding

LONGEST_SUBJECT = 30  # a longer one has a line of its own
WIDTH = 110  # where stdout is no terminal
LEAST_WIDTH = 72


def run_doctor(args: argparse.Namespace) -> int:
    """Print what was found, or the settings in force."""
    started_s = time.monotonic()
    settings = load(args)
    if args.effective:
        origins = find_origins(given_settings(args), file=args.config)
        if args.json:
            print(as_json(settings.model_dump(mode="json")))
        else:
            print(write_toml(settings, origins), end="")
        return 0
    from physiq_ray.doctor import Finding, State
    from physiq_ray.doctor.versions import check_versions

    try:
        from physiq_ray.doctor.checks import examine
    except ImportError as error:
        broken = f"a package cannot be imported: {error}"
        remedy = "pip install --force-reinstall physiq-ray"
        findings = [*check_versions(), Finding("version", "imports", State.WRONG, broken, remedy)]
    else:
        findings = examine(settings, model=args.model, started_s=started_s)
    if args.json:
        print(as_json([dataclasses.asdict(finding) for finding in findings]))
    else:
        width = max(LEAST_WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
        print(*_lay_out(findings, width), sep="\n")
        counts = [(sum(finding.state == state for finding in findings), state) for state in reversed(State)]
        print(", ".join(f"{count} {state}" for count, state in counts))
    return 1 if any(finding.state == State.WRONG for finding in findings) else 0


def _lay_out(findings: "Sequence[Finding]", width: int) -> Iterator[str]:
    """Give the lines of a table: state, check, subject and finding, and the remedy below the finding."""
    check_width = max(len(finding.check) for finding in findings)
    subjects = [len(finding.subject) for finding in findings]
    subject_width = max(length for length in subjects if length <= LONGEST_SUBJECT)
    indent = " " * (7 + 2 + check_width + 2 + subject_width + 2)
    for finding in findings:
        subject = printable(finding.subject)
        start = f"{finding.state:<7}  {finding.check:<{check_width}}  {subject:<{subject_width}}  "
        if len(subject) > subject_width:
            yield start.rstrip()
            start = indent
        yield from _wrap(printable(finding.finding), width, start, indent)
        if finding.remedy:
            yield from _wrap(printable(finding.remedy), width, f"{indent}→ ", f"{indent}  ")


def _wrap(text: str, width: int, first: str, indent: str) -> list[str]:
    # A long address stays whole, so that it can be copied.
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="URI", help="model file, or the folder that holds it, to check")
    parser.add_argument(
        "--effective",
        action="store_true",
        help="print the settings of a training as TOML, each with its origin, and check nothing",
    )


DOCTOR = Command(
    "doctor",
    "check whether a run would work: machine, access, data and places",
    (
        "physiq-ray doctor",
        "physiq-ray doctor --sources s3://checkin-poses --output s3://models/poses",
        "physiq-ray doctor --config run.toml --effective > effective.toml",
    ),
    run_doctor,
    settings=Settings.model_fields,
    add_flags=_add_flags,
)
