"""What a command consists of. Each command's file makes one `Command`, and the parser reads it."""

import argparse
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from physiq_ray.config import BaseSettings, Settings, load_settings

Kind = TypeVar("Kind", bound=BaseSettings)


@dataclass(frozen=True)
class Command:
    """A command of physiq-ray.

    run: parsed arguments → exit status. summary: one phrase, without a capital and a full stop. examples:
    command lines to copy. arguments: what follows the name in the usage line, before the options. add_flags:
    adds arguments and flags that are not settings. kind: the class of the settings. settings: the names of
    those that the command has. not_in_environment: settings that the command does not take from variables.
    has_config: whether a file can hold the settings. shows_defaults: whether help shows the defaults of the
    class; not if the command has its own.
    """

    name: str
    summary: str
    examples: tuple[str, ...]
    run: Callable[[argparse.Namespace], int]
    settings: Collection[str]
    kind: type[BaseSettings] = Settings
    arguments: str = ""
    add_flags: Callable[[argparse.ArgumentParser], None] | None = None
    not_in_environment: tuple[str, ...] = ()
    has_json: bool = True
    has_config: bool = True
    shows_defaults: bool = True


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the model."""
    parser.add_argument(
        "--model",
        default="output",
        metavar="URI",
        help="model file, or the folder that holds it (default: output)",
    )


@overload
def load(args: argparse.Namespace, **options: Any) -> Settings: ...


@overload
def load(args: argparse.Namespace, kind: type[Kind], **options: Any) -> Kind: ...


def load(args: argparse.Namespace, kind: type[BaseSettings] = Settings, **options: Any) -> BaseSettings:
    """Load the settings of a command from its flags, --config, and the environment.

    options: as in load_settings. Raises SettingError.
    """
    file: Path | None = args.config
    return load_settings(given_settings(args, kind), file=file, kind=kind, **options)


def given_settings(args: argparse.Namespace, kind: type[BaseSettings] = Settings) -> dict[str, Any]:
    """Give the settings among the arguments; a flag that was left out is None."""
    return {name: value for name, value in vars(args).items() if name in kind.model_fields}
