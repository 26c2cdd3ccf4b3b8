"""Commands and flags; those of settings are generated from the settings' fields."""

import argparse
import types
import typing
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from physiq_ray.cli.answers import FORMATS
from physiq_ray.cli.audit import audit_command
from physiq_ray.cli.cache import cache_command
from physiq_ray.cli.cleanse import cleanse_command
from physiq_ray.cli.demo import demo_command
from physiq_ray.cli.evaluate import evaluate_command
from physiq_ray.cli.predict import FIGURES_FOLDER, predict_command
from physiq_ray.cli.serve import serve_command
from physiq_ray.cli.sync import sync_command
from physiq_ray.cli.train import train_command
from physiq_ray.config import CleanseSettings, LocalServingSettings, Settings, SyncSettings

EPILOG = {
    "train": """examples:
  physiq-ray train --sources s3://checkin-poses s3://workout-images --source-buckets checkins=checkin-poses
  physiq-ray train --sources ./photos --weights random --image-size 128 --run-name first
  physiq-ray train --resume --run-name first""",
    "audit": """examples:
  physiq-ray audit --sources s3://checkin-poses s3://workout-images --sheet sheet.png
  physiq-ray audit --sources s3://checkin-poses --near-duplicates --json --manifest manifest.parquet""",
    "evaluate": """examples:
  physiq-ray evaluate
  physiq-ray evaluate --model s3://models/poses --sources s3://new-athletes --split all --report s3://models/new""",
    "predict": """examples:
  physiq-ray predict photo.jpg
  physiq-ray predict photos/ s3://checkin-poses/new/ --model s3://models/poses --json
  physiq-ray predict @list.txt --format csv --top 3 --no-figures > answers.csv
  physiq-ray predict s3://checkin-poses --output s3://models/answers --part-rows 50000""",
    "serve": """examples:
  physiq-ray serve
  physiq-ray serve --model s3://models/poses --port 8080 --tokens tokens.txt
  physiq-ray serve --allowed-sources s3://checkin-poses --feedback s3://checkin-poses/to-label""",
    "sync": """examples:
  physiq-ray sync photos --sources s3://checkin-poses s3://workout-images/2026
  physiq-ray sync photos --sources s3://checkin-poses --labelled-only --dry-run
  physiq-ray sync sorted --sources s3://checkin-poses s3://workout-images --sorted""",
    "cleanse": """examples:
  physiq-ray cleanse --sources s3://checkin-poses s3://workout-images --source-buckets checkins=checkin-poses
  physiq-ray cleanse --sources s3://checkin-poses --plan plan.jsonl
  physiq-ray cleanse --sources s3://checkin-poses --apply plan.jsonl --move-to s3://attic/poses
  physiq-ray cleanse --restore deleted-20261125T031500Z.jsonl""",
    "cache": """examples:
  physiq-ray cache
  physiq-ray cache --cache-dir /mnt/nvme/photos --clear""",
    "demo": """examples:
  physiq-ray demo
  physiq-ray demo --photos my-photos --labels my-photos/db_labels.json --image-size 160""",
}
AUDIT_SETTINGS = (
    *("sources", "source_buckets", "poses", "labels", "label_fields", "requester_pays", "anonymous"),
    *("validation_share", "group_pattern", "group_field", "seed"),
)
EVALUATE_SETTINGS = (
    *("sources", "source_buckets", "manifest", "poses", "labels", "label_fields"),
    *("requester_pays", "anonymous"),
    *("validation_share", "group_pattern", "group_field", "seed", "batch_size", "precision"),
)
CACHE_SETTINGS = ("cache_dir", "cache_limit_gib")
PREDICT_SETTINGS = ("poses", "requester_pays", "anonymous", "precision")
# What a demo decides itself.
NOT_IN_DEMO = (
    *("sources", "source_buckets", "manifest", "labels", "output", "storage", "run_name"),
    *("requester_pays", "anonymous"),
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; settings become flags, generated from their fields."""
    parser = argparse.ArgumentParser(
        prog="physiq-ray",
        description="Tell fitness poses apart in athletes' photos, from S3 buckets, on Ray.",
    )
    parser.add_argument("--version", action="version", version=f"physiq-ray {version('physiq-ray')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = _command(subparsers, "demo", demo_command, "try it all on generated photos and a local S3 server")
    demo.add_argument("--folder", default="demo", help="where everything goes (default: demo)")
    demo.add_argument("--photos", help="folder of your own photos; each sub-folder becomes a bucket")
    demo.add_argument("--labels", nargs="+", help="files of their labels (with --photos)")
    _add_settings(
        demo,
        [name for name in Settings.model_fields if name not in NOT_IN_DEMO],
        show_default=False,
        with_config=False,
    )

    train = _command(subparsers, "train", train_command, "train a pose classifier from buckets or folders")
    train.add_argument("--resume", action="store_true", help="go on with the run of --run-name")
    _add_json(train)
    _add_settings(train, list(Settings.model_fields))

    audit = _command(
        subparsers, "audit", audit_command, "count and check the photos and labels, changing nothing"
    )
    audit.add_argument("--check-photos", action="store_true", help="read every labelled photo")
    audit.add_argument(
        "--near-duplicates", action="store_true", help="compare photos by perceptual hash, reading them all"
    )
    audit.add_argument("--sheet", metavar="FILE", help="write some photos of each pose into one PNG")
    audit.add_argument(
        "--manifest", dest="manifest_output", metavar="FILE", help="save the manifest, for train --manifest"
    )
    _add_json(audit)
    _add_settings(audit, AUDIT_SETTINGS)

    evaluate = _command(subparsers, "evaluate", evaluate_command, "score a model on labelled photos")
    evaluate.add_argument(
        "--model", default="output", help="model file, or the folder or s3:// prefix of one (default: output)"
    )
    evaluate.add_argument(
        "--split",
        choices=("validation", "train", "test", "all"),
        default="validation",
        help="which photos, as the training divided them (default: validation)",
    )
    evaluate.add_argument(
        "--report",
        default="evaluation",
        metavar="FOLDER",
        help="folder or s3:// prefix of the report (default: evaluation)",
    )
    _add_json(evaluate)
    _add_settings(evaluate, EVALUATE_SETTINGS, not_in_environment=("sources", "manifest"))

    predict = _command(subparsers, "predict", predict_command, "tell the pose in photos")
    predict.add_argument(
        "photos",
        nargs="+",
        help="files, folders, s3:// objects or prefixes; @FILE: a file with one of them a line",
    )
    predict.add_argument(
        "--model", default="output", help="model file, or the folder or s3:// prefix of one (default: output)"
    )
    predict.add_argument("--figures", metavar="FOLDER", help=f"where figures go (default: {FIGURES_FOLDER})")
    predict.add_argument("--no-figures", action="store_true", help="write no figures")
    predict.add_argument(
        "--output",
        metavar="FOLDER",
        help="for many photos: by Ray, into Parquet files in this folder or s3:// prefix, without figures; "
        "photos answered there already are left out",
    )
    predict.add_argument(
        "--part-rows",
        type=int,
        metavar="N",
        help="photos in one Parquet file (with --output; default: 10000)",
    )
    predict.add_argument(
        "--format",
        choices=FORMATS,
        help="one entry a photo on stdout, unreadable ones too (default: a block each for a reader)",
    )
    predict.add_argument(
        "--top", type=int, metavar="N", help="poses of each answer, the likeliest first (csv, table: 1)"
    )
    _add_json(predict)
    _add_settings(predict, PREDICT_SETTINGS)

    serve = _command(subparsers, "serve", serve_command, "answer HTTP requests on this machine")
    _add_settings(serve, list(LocalServingSettings.model_fields), kind=LocalServingSettings)

    sync = _command(subparsers, "sync", sync_command, "download the photos of buckets into a folder")
    sync.add_argument("folder", metavar="FOLDER", help="where to; each bucket gets a sub-folder")
    sync.add_argument("--labelled-only", action="store_true", help="only photos that a label names")
    sync.add_argument(
        "--sorted",
        action="store_true",
        help="only photos fit for training, into training/ and validation/ by pose id, split as train does",
    )
    sync.add_argument("--dry-run", action="store_true", help="tell what would be downloaded, write nothing")
    _add_json(sync)
    _add_settings(sync, list(SyncSettings.model_fields), kind=SyncSettings)

    cleanse = _command(subparsers, "cleanse", cleanse_command, "find photos without a label, and remove them")
    cleanse.add_argument("--plan", metavar="FILE", help="write what would go as JSON lines, to look through")
    deed = cleanse.add_mutually_exclusive_group()
    deed.add_argument("--delete", action="store_true", help="delete what no label names")
    deed.add_argument("--apply", metavar="FILE", help="delete just what this plan names and still may go")
    deed.add_argument("--restore", metavar="FILE", help="bring back what this journal of deletions names")
    cleanse.add_argument("--move-to", metavar="S3", help="move photos to this s3://bucket/prefix instead")
    cleanse.add_argument("--yes", action="store_true", help="do not ask (with --expect)")
    cleanse.add_argument("--expect", type=int, metavar="N", help="photos the plan must hold")
    cleanse.add_argument(
        "--journals", default=".", metavar="FOLDER", help="where deleted-<time>.jsonl goes (default: .)"
    )
    cleanse.add_argument(
        "--allow-unconditional",
        action="store_true",
        help="delete too where the S3 server cannot be told to spare a photo that has just changed",
    )
    _add_json(cleanse)
    _add_settings(cleanse, list(CleanseSettings.model_fields), kind=CleanseSettings)

    cache = _command(subparsers, "cache", cache_command, "show or empty the decoded photos on disk")
    cache.add_argument("--clear", action="store_true", help="delete all that no running training uses")
    _add_json(cache)
    _add_settings(cache, CACHE_SETTINGS)
    return parser


def _command(subparsers: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=EPILOG[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show traces and what Ray's processes print")
    parser.set_defaults(run=run)
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def _add_settings(
    parser: argparse.ArgumentParser,
    names: Sequence[str],
    *,
    show_default: bool = True,
    with_config: bool = True,
    not_in_environment: Sequence[str] = (),
    kind: type[BaseModel] = Settings,
) -> None:
    """Add --config, where the command has one, and a flag a setting."""
    also = "Each is also an environment variable, PHYSIQ_<NAME>"
    if not_in_environment:
        also += f" (but for {' and '.join(not_in_environment)})"
    if with_config:
        also += ", and a key in --config's file"
        parser.add_argument("--config", type=Path, metavar="FILE", help="settings in a TOML file")
    group = parser.add_argument_group("settings", f"{also}.")
    for name in names:
        setting = kind.model_fields[name]
        default = setting.get_default()
        is_list = typing.get_origin(setting.annotation) in (tuple, dict)
        help_text = str(setting.description).replace("%", "%%")
        if show_default and default not in ((), {}, None):
            shown = " ".join(default) if isinstance(default, tuple) else default
            help_text += f" (default: {shown})"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            nargs="+" if is_list else None,
            metavar=_metavar(setting.annotation, name),
            help=help_text,
        )


def _metavar(annotation: Any, name: str) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return "TEXT"
    return {int: "N", float: "X", str: "TEXT"}.get(annotation, name.rstrip("s").upper())
