"""Commands → argparse: all commands together, and their settings as flags in groups."""

import argparse
import textwrap
import typing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from physiq_ray.cli.audit import AUDIT
from physiq_ray.cli.cache import CACHE
from physiq_ray.cli.cleanse import CLEANSE
from physiq_ray.cli.command import Command
from physiq_ray.cli.demo import DEMO
from physiq_ray.cli.doctor import DOCTOR
from physiq_ray.cli.erase import ERASE
from physiq_ray.cli.evaluate import EVALUATE
from physiq_ray.cli.export import EXPORT
from physiq_ray.cli.labels import LABELS
from physiq_ray.cli.predict import PREDICT
from physiq_ray.cli.review import REVIEW
from physiq_ray.cli.serve import SERVE
from physiq_ray.cli.suspects import SUSPECTS
from physiq_ray.cli.sync import SYNC
from physiq_ray.cli.train import TRAIN
from physiq_ray.config import describe_form

COMMANDS = (
    *(DEMO, TRAIN, AUDIT, SUSPECTS, REVIEW, LABELS, EVALUATE, PREDICT, EXPORT, SERVE, SYNC, CLEANSE, ERASE),
    CACHE,
    DOCTOR,
)
TEXT_WIDTH = 76  # with the indent, help fits 80 columns


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="physiq-ray",
        description="Recognise fitness poses in photos from S3 buckets, with a ResNet50 on Ray.",
    )
    parser.add_argument("--version", action="version", version=f"physiq-ray {version('physiq-ray')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        _add_command(subparsers, command)
    return parser


def _add_command(subparsers: Any, command: Command) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        command.name,
        help=command.summary,
        usage=" ".join(["physiq-ray", command.name, *filter(None, [command.arguments]), "[options]"]),
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog="\n  ".join(["examples:", *command.examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=command.run)
    if command.add_flags is not None:
        command.add_flags(parser)
    if command.has_json:
        parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    if command.has_config:
        parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument(
        "--debug", action="store_true", help="show tracebacks, and the output of Ray's processes"
    )
    _add_settings(parser, command)


def _add_settings(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.add_argument_group("settings", _introduce_settings(command))
    for group, members in command.kind.names_by_group().items():
        names = [name for name in members if name in command.settings]
        if names:
            section = parser.add_argument_group(f"{group.title} ({group.text})")
            for name in names:
                _add_setting(section, name, command)


def _introduce_settings(command: Command) -> str:
    text = "Each is also an environment variable, PHYSIQ_<NAME>"
    if command.not_in_environment:
        text += f" (except {' and '.join(command.not_in_environment)})"
    if command.has_config:
        text += ", and a key in --config's file"
    # The formatter keeps the line ends of the examples, and so it does not wrap this text either.
    return textwrap.fill(f"{text}. A URI is a path or an s3:// address.", TEXT_WIDTH)


def _add_setting(section: Any, name: str, command: Command) -> None:
    setting = command.kind.model_fields[name]
    default = setting.get_default()
    effect = str(setting.description).replace("%", "%%")
    if command.shows_defaults and default not in ((), {}, None):
        effect += f" (default: {' '.join(default) if isinstance(default, tuple) else default})"
    section.add_argument(
        f"--{name.replace('_', '-')}",
        nargs="+" if typing.get_origin(setting.annotation) in (tuple, dict) else None,
        metavar=describe_form(name, setting),
        help=effect,
    )
