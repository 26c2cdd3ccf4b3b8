"""Write docs/settings.md from the settings classes.

Run it after each change of a setting: `python docs/settings.py`. A test fails while the page differs from
what this module builds. A setting that no group names, or that two groups name, is refused here, so that a
new setting gets its place on the page.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from physiq_ray.config import (
    CleanseSettings,
    LocalServingSettings,
    Settings,
    SourceSettings,
    SplitSettings,
    SyncSettings,
)

PAGE = Path(__file__).with_suffix(".md")

INTRODUCTION = """# Settings

This page is generated from the settings classes by [`docs/settings.py`](settings.py); do not edit it.

Each setting is a flag (`--batch-size`), an environment variable (`PHYSIQ_BATCH_SIZE`), and a key in the TOML
file of `--config` (`batch_size`); `demo` has no `--config`. A flag overrides the environment variable, and
the environment variable overrides the file. Lists are separated by blanks after a flag, and by commas in an
environment variable. A wrong value is reported with its key, its value and the expected form before any work
starts.

`physiq-ray COMMAND --help` lists the settings of a command.
"""

HEADER = "| setting | default | values | effect | environment variable |\n|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Group:
    """Settings that are shown in one table; text: what they have in common, as Markdown."""

    title: str
    text: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The settings of one class, but for those of base, which stand in another part."""

    title: str
    text: str
    kind: type[BaseModel]
    groups: tuple[Group, ...]
    base: type[BaseModel] | None = None


PARTS = (
    Part(
        "Training and data",
        "`train` has all of these settings. `audit`, `evaluate`, `predict`, `cache` and `demo` have some of "
        "them.",
        Settings,
        (
            Group(
                "Data",
                "These settings say where photos and labels are; see [data.md](data.md).",
                (
                    *("sources", "source_buckets", "labels", "label_fields", "poses", "manifest"),
                    *("anonymous", "requester_pays", "max_unreadable_share"),
                ),
            ),
            Group(
                "Split",
                "These settings divide photos into training and validation; see [data.md](data.md#split).",
                ("validation_share", "group_pattern", "group_field", "seed"),
            ),
            Group(
                "Model",
                "These settings say what is trained, and how it computes.",
                (
                    *("weights", "image_size", "train_sizes", "precision", "batch_norm", "compile"),
                    "reproducible",
                ),
            ),
            Group(
                "Optimiser",
                "These settings say how the weights change; see [training.md](training.md#how-it-trains).",
                (
                    *("epochs", "patience", "batch_size", "learning_rate", "schedule", "warmup_epochs"),
                    *("head_epochs", "backbone_rate", "gradient_accumulation", "max_gradient_norm"),
                ),
            ),
            Group(
                "Regularisation",
                "These settings reduce overfitting.",
                ("augment", "mixup", "label_smoothing", "class_weights", "ema_decay"),
            ),
            Group(
                "Cache",
                "These settings say where decoded photos are kept; see "
                "[training.md](training.md#where-photos-are-kept).",
                ("cache", "cache_dir", "cache_limit_gib"),
            ),
            Group(
                "Cluster",
                "These settings say where a run computes, and which failures it survives.",
                (
                    *("num_workers", "min_workers", "use_gpu", "placement", "decode_resource"),
                    *("wait_for_nodes_s", "max_failures", "stall_timeout_s"),
                ),
            ),
            Group(
                "Run",
                "These settings say what a run is called, and where it writes.",
                ("run_name", "output", "storage", "mlflow"),
            ),
        ),
    ),
    Part(
        "Serving",
        "`serve` has these settings; see [serving.md](serving.md). All but those of the last table are also "
        "the `args` of `serve_config.yaml`.",
        LocalServingSettings,
        (
            Group(
                "Models",
                "These may also be in the `user_config` of `serve_config.yaml`, where they change a running "
                "service.",
                ("model", "min_confidence", "canary_model", "canary_share"),
            ),
            Group(
                "Answers",
                "These settings say how photos are read and predicted.",
                (
                    *("poses", "precision", "runtime", "max_batch_size", "decode_threads"),
                    *("max_pixels", "extra_formats", "max_photos"),
                ),
            ),
            Group(
                "Limits",
                "These settings say which requests are refused.",
                (
                    *("max_body_bytes", "max_requests", "max_wait_s", "request_timeout_s"),
                    *("max_uploads", "max_slow_uploads", "slow_upload_s", "requests_per_minute"),
                ),
            ),
            Group(
                "Access",
                "These settings say who may send requests, and which photos a request may name.",
                ("tokens", "trusted_proxies", "cors_origins", "allowed_sources"),
            ),
            Group(
                "Feedback",
                "These settings say which photos are kept to be labelled.",
                ("feedback", "feedback_below"),
            ),
            Group(
                "Replicas",
                "These settings say how many processes answer, and what each of them has.",
                (
                    *("min_replicas", "max_replicas", "target_requests", "upscale_delay_s"),
                    *("downscale_delay_s", "cpus_per_replica", "gpus_per_replica"),
                ),
            ),
            Group(
                "This machine",
                "Only `physiq-ray serve` has these settings.",
                ("host", "port", "root_path", "ingress"),
            ),
        ),
    ),
    Part(
        "Cleanse",
        "`cleanse` has these settings, and `sources`, `source_buckets`, `poses`, `labels`, `label_fields`, "
        "`requester_pays` and `anonymous`; see [buckets.md](buckets.md#what-is-never-removed).",
        CleanseSettings,
        (Group("", "", ("max_delete_share", "max_unmatched_share", "min_age_hours")),),
        SourceSettings,
    ),
    Part(
        "Sync",
        "`sync` has this setting, the seven settings that `cleanse` shares with `train`, and those of "
        "[Split](#split); see [buckets.md](buckets.md#download-photos).",
        SyncSettings,
        (Group("", "", ("transfers",)),),
        SplitSettings,
    ),
)


def build_page() -> str:
    """Build the page as Markdown.

    Raises ValueError: a setting is in no group, or in two.
    """
    return INTRODUCTION + "".join(_build_part(part) for part in PARTS)


def _build_part(part: Part) -> str:
    listed = sorted(name for group in part.groups for name in group.names)
    expected = sorted(set(part.kind.model_fields) - set(part.base.model_fields if part.base else ()))
    if listed != expected:
        raise ValueError(
            f"{part.kind.__name__}: docs/settings.py lists {listed}, the class has {expected}: give each "
            "setting one group in PARTS"
        )
    lines = [f"\n## {part.title}\n\n{part.text}\n"]
    schema = part.kind.model_json_schema()["properties"]
    for group in part.groups:
        if group.title:
            lines.append(f"\n### {group.title}\n\n{group.text}\n")
        lines.append(f"\n{HEADER}")
        lines.extend(_build_row(part.kind, name, schema[name]) for name in group.names)
    return "".join(lines)


def _build_row(kind: type[BaseModel], name: str, schema: Mapping[str, Any]) -> str:
    field = kind.model_fields[name]
    default = field.get_default()
    text = " ".join(default) if isinstance(default, tuple) else default
    cells = (
        f"`{name}`",
        "" if default in ((), {}, None) else f"`{text}`",
        ", ".join(_describe_values(schema)),
        str(field.description).replace("|", "\\|"),
        f"`PHYSIQ_{name.upper()}`",
    )
    return f"| {' | '.join(cells)} |\n"


def _describe_values(schema: Mapping[str, Any]) -> Iterator[str]:
    """Say which values a setting takes, from its JSON schema."""
    optional = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if optional:
        yield from _describe_values(optional[0])
    elif "enum" in schema:
        yield from (f"`{value}`" for value in schema["enum"])
    elif schema["type"] == "array":
        items = schema["items"]
        yield "list of whole numbers" if items["type"] == "integer" else "list"
        yield from (f"`{value}`" for value in items.get("enum", ()))
    elif schema["type"] == "object":
        yield "pairs `name=value`"
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
        yield "text"


if __name__ == "__main__":
    PAGE.write_text(build_page(), encoding="utf-8")
