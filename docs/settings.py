"""Write docs/settings.md from the settings classes.

Run it after each change of a setting: `python docs/settings.py`. A test fails while the page differs from
what this module builds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physiq_ray.config import (
    BaseSettings,
    CleanseSettings,
    Group,
    LocalServingSettings,
    Settings,
    SourceSettings,
    SplitSettings,
    SyncSettings,
    describe_form,
)

PAGE = Path(__file__).with_suffix(".md")

INTRODUCTION = """# Settings

This page is generated from the settings classes by [`docs/settings.py`](settings.py); do not edit it.

Each setting is a flag (`--batch-size`), an environment variable (`PHYSIQ_BATCH_SIZE`), and a key in the TOML
file of `--config` (`batch_size`); `demo` has no `--config`. A flag overrides the environment variable, and
the environment variable overrides the file. Lists are separated by blanks after a flag, and by commas in an
environment variable. A wrong value is reported with its key, its value and the expected form before any work
starts.

A `URI` is the path of a file or folder, or an `s3://` address.

`physiq-ray COMMAND --help` lists the settings of a command.
"""

HEADER = "| setting | default | values | effect | environment variable |\n|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Part:
    """The settings of one class; those of base are shown in another part."""

    title: str
    text: str
    kind: type[BaseSettings]
    base: type[BaseSettings] | None = None


PARTS = (
    Part(
        "Training and data",
        "`train` and `doctor` have all of these settings. `audit`, `evaluate`, `predict`, `cache` and `demo` "
        "have some of them.",
        Settings,
    ),
    Part(
        "Serving",
        "`serve` has these settings; see [serving.md](serving.md). All but those of [Address](#address) are "
        "also the `args` of `serve_config.yaml`.",
        LocalServingSettings,
    ),
    Part(
        "Cleanse",
        "`cleanse` has these settings, and `sources`, `source_buckets`, `poses`, `labels`, `label_fields`, "
        "`requester_pays` and `anonymous`; see [buckets.md](buckets.md#what-is-never-removed).",
        CleanseSettings,
        SourceSettings,
    ),
    Part(
        "Sync",
        "`sync` has this setting, the seven settings that `cleanse` shares with `train`, and those of "
        "[Split](#split); see [buckets.md](buckets.md#download-photos).",
        SyncSettings,
        SplitSettings,
    ),
)
# What the page says about a group after the group's own text.
NOTES = {
    Group.DATA: "; see [data.md](data.md)",
    Group.SPLIT: "; see [data.md](data.md#split)",
    Group.OPTIMISER: "; see [training.md](training.md#how-it-trains)",
    Group.CACHE: "; see [training.md](training.md#where-photos-are-kept)",
    Group.MODELS: ". They may also be in the `user_config` of `serve_config.yaml`, where they change a "
    "running service",
    Group.ADDRESS: ". Only `physiq-ray serve` has them",
}


def build_page() -> str:
    """Build the page as Markdown."""
    return INTRODUCTION + "".join(_build_part(part) for part in PARTS)


def _build_part(part: Part) -> str:
    shown_elsewhere = set(part.base.model_fields) if part.base else set()
    lines = [f"\n## {part.title}\n\n{part.text}\n"]
    schema = part.kind.model_json_schema()["properties"]
    for group, members in part.kind.names_by_group().items():
        names = [name for name in members if name not in shown_elsewhere]
        if not names:
            continue
        if part.base is None:
            lines.append(f"\n### {group.title.capitalize()}\n")
            lines.append(f"\nThese settings say {group.text}{NOTES.get(group, '')}.\n")
        lines.append(f"\n{HEADER}")
        lines.extend(_build_row(part.kind, name, schema[name]) for name in names)
    return "".join(lines)


def _build_row(kind: type[BaseSettings], name: str, schema: Mapping[str, Any]) -> str:
    field = kind.model_fields[name]
    default = field.get_default()
    text = " ".join(default) if isinstance(default, tuple) else default
    form = describe_form(name, field).replace("|", "\\|")
    cells = (
        f"`{name}`",
        "" if default in ((), {}, None) else f"`{text}`",
        ", ".join(_describe_values(schema, form)),
        str(field.description).replace("|", "\\|"),
        f"`PHYSIQ_{name.upper()}`",
    )
    return f"| {' | '.join(cells)} |\n"


def _describe_values(schema: Mapping[str, Any], form: str) -> Iterator[str]:
    """Say which values a setting takes, from its JSON schema and from what help calls its values."""
    optional = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if optional:
        yield from _describe_values(optional[0], form)
    elif "enum" in schema:
        yield from (f"`{value}`" for value in schema["enum"])
    elif schema["type"] == "array":
        items = schema["items"]
        if "enum" in items:
            yield "list"
            yield from (f"`{value}`" for value in items["enum"])
        else:
            yield "list of whole numbers" if items["type"] == "integer" else f"list of `{form}`"
    elif schema["type"] == "object":
        yield f"pairs `{form}`"
    elif schema["type"] in ("integer", "number"):
        yield "whole number" if schema["type"] == "integer" else "number"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        ):
            if key in schema:
                yield f"{sign} {schema[key]:,}"
    else:
        yield f"`{form}`"


if __name__ == "__main__":
    PAGE.write_text(build_page(), encoding="utf-8")
