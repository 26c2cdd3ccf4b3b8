"""Defaults, a TOML file, the environment and flags → one object with checked settings."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from physiq_ray.config.base import BaseSettings
from physiq_ray.config.buckets import CleanseSettings, SyncSettings
from physiq_ray.config.serving import LocalServingSettings
from physiq_ray.config.settings import Settings
from physiq_ray.errors import SettingError

ENVIRONMENT_PREFIX = "PHYSIQ_"
# Together they have all settings: a test finds a class that is missing here.
KINDS: tuple[type[BaseSettings], ...] = (Settings, LocalServingSettings, CleanseSettings, SyncSettings)

Kind = TypeVar("Kind", bound=BaseSettings)


@overload
def load_settings(
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    defaults: Mapping[str, Any] | None = None,
) -> Settings: ...


@overload
def load_settings(
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    defaults: Mapping[str, Any] | None = None,
    kind: type[Kind],
) -> Kind: ...


def load_settings(
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    defaults: Mapping[str, Any] | None = None,
    kind: type[BaseSettings] = Settings,
) -> BaseSettings:
    """Merge defaults, a TOML file, the environment and flags, and check the result; a later one wins.

    defaults: used instead of the classes' own. kind: the class of the settings. A flag that is None was not
    given.
    Raises SettingError: unknown key, wrong type, out of range, unreadable file. It names all wrong values at
    once, each with its origin.
    """
    given, origins = _merge(flags, file, environment, kind)
    values = {**(defaults or {}), **given}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SettingError(
            # Pydantic reports each wrong item of a list; the setting is reported once.
            "; ".join(dict.fromkeys(_describe(detail, values, origins, kind) for detail in error.errors()))
        ) from error


def find_origins(
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    kind: type[BaseSettings] = Settings,
) -> dict[str, str]:
    """Say for each setting that was given where its value is from: flag, variable, or file and key.

    Raises SettingError: the file cannot be read, or a variable is misspelt.
    """
    return _merge(flags, file, environment, kind)[1]


def _merge(
    flags: Mapping[str, Any], file: Path | None, environment: Mapping[str, str], kind: type[BaseSettings]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Give the values that were given, and their origins."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in (
        ("{file}: {key}", _read_toml(file) if file else {}),
        (ENVIRONMENT_PREFIX + "{upper}", _read_environment(environment, kind)),
        ("--{flag}", {key: value for key, value in flags.items() if value is not None}),
    ):
        for key, value in layer.items():
            values[key] = value
            origins[key] = origin.format(file=file, key=key, upper=key.upper(), flag=key.replace("_", "-"))
    return values, origins


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(
            f"--config {path}: cannot be read ({error.strerror}); give the path of a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"--config {path}: not TOML: {error}") from error


def _read_environment(environment: Mapping[str, str], kind: type[BaseSettings]) -> dict[str, str]:
    # A PHYSIQ_ variable that is no setting may belong to another program and is ignored. If its name is
    # almost that of a setting, it is refused: it is probably misspelt, and the user would not notice.
    all_names = {name for one in KINDS for name in one.model_fields}
    values = {}
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if key in kind.model_fields:
            values[key] = value
        elif key not in all_names and (near := difflib.get_close_matches(key, all_names, n=1, cutoff=0.8)):
            raise SettingError(
                f"{variable}={value}: no such setting; did you mean {ENVIRONMENT_PREFIX}{near[0].upper()}?"
            )
    return values


def _describe(
    detail: Any, values: Mapping[str, Any], origins: Mapping[str, str], kind: type[BaseSettings]
) -> str:
    if not detail["loc"]:  # two settings that exclude each other: the message names both
        return str(detail["msg"])
    key = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, kind.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{origins.get(key, key)}: no such setting{hint}"
    message = detail["msg"]
    if detail["type"] == "value_error":
        problem = message.removeprefix("Value error, ")
    else:
        problem = "expected " + message.removeprefix("Input should be ")
    # The message names the whole value; pydantic would name only the wrong item of a list.
    return f"{origins.get(key, key)}={values.get(key)!r} ({kind.model_fields[key].description}): {problem}"
