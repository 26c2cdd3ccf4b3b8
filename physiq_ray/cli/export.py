"""The command export."""

import argparse

from physiq_ray.cli.command import Command, load
from physiq_ray.cli.output import as_json
from physiq_ray.constants import EXPORT_SUFFIXES
from physiq_ray.machine import check_writable

DEFAULT_KIND = "onnx"


def run_export(args: argparse.Namespace) -> int:
    """Write a model as a file that programs use without this package."""
    settings = load(args)
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.export import describe, export_address, export_model, require_packages
    from physiq_ray.labels import load_configured_poses

    uri = export_address(args.output, args.format)
    check_writable("--output", args.output, is_file=uri == args.output)
    require_packages(args.format)
    state = load_model_state(args.model, pose_names=load_configured_poses(settings))
    files = export_model(state, args.format, uri)
    if args.json:
        print(as_json({"files": list(files), "description": describe(state, args.format)}))
    else:
        print(*files, sep="\n")
    return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default="output",
        metavar="MODEL",
        help="model file, or the folder that holds it: a path or an s3:// address (default: output)",
    )
    parser.add_argument(
        "--format",
        choices=tuple(EXPORT_SUFFIXES),
        default=DEFAULT_KIND,
        help="onnx: for onnxruntime and other runtimes; torch-export: the same program for torch; "
        f"safetensors: the weights alone (default: {DEFAULT_KIND})",
    )
    parser.add_argument(
        "--output",
        default="export",
        metavar="URI",
        help=f"folder, or a file that ends with {', '.join(EXPORT_SUFFIXES.values())} (default: export)",
    )


EXPORT = Command(
    "export",
    "write a model as ONNX, safetensors or a torch program",
    (
        "physiq-ray export output",
        "physiq-ray export s3://models/poses --output s3://models/poses/app.onnx",
        "physiq-ray export output --format safetensors",
    ),
    run_export,
    settings=("poses",),
    arguments="[MODEL]",
    add_flags=_add_flags,
)
