"""The command line: parse, call one function, print. Exit 0 done, 1 failed or partly failed, 2 wrong use.

Ray, torch, Arrow and S3 are imported inside the command that needs them, so that --help answers at once.
"""

import argparse
import contextlib
import io
import json
import sys
import traceback
import types
import typing
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physiq_ray.config import Settings, load_settings
from physiq_ray.errors import PhysiqError, SettingError

if TYPE_CHECKING:
    from physiq_ray.checkpoint import ModelState
    from physiq_ray.evaluation import Report
    from physiq_ray.prediction import Prediction
    from physiq_ray.prediction.batch import BatchResult
    from physiq_ray.training import Display, TrainingResult

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
  physiq-ray predict s3://checkin-poses --output s3://models/answers --part-rows 50000""",
    "demo": """examples:
  physiq-ray demo
  physiq-ray demo --photos my-photos --labels my-photos/db_labels.json --image-size 160""",
}
AUDIT_SETTINGS = (
    *("sources", "source_buckets", "poses", "labels"),
    *("validation_share", "group_pattern", "seed"),
)
EVALUATE_SETTINGS = (
    *("sources", "source_buckets", "manifest", "poses", "labels"),
    *("validation_share", "group_pattern", "seed", "batch_size", "precision"),
)
PREDICT_SETTINGS = ("poses", "precision")
FIGURES_FOLDER = "predictions"
# What a demo decides itself.
NOT_IN_DEMO = ("sources", "source_buckets", "manifest", "labels", "output", "storage", "run_name")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        return int(args.run(args))
    except PhysiqError as error:
        if args.debug:
            traceback.print_exc()
        print(f"physiq-ray {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 1
    except KeyboardInterrupt:
        print(f"physiq-ray {args.command}: interrupted", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; settings become flags, generated from their fields."""
    parser = argparse.ArgumentParser(
        prog="physiq-ray",
        description="Tell fitness poses apart in athletes' photos, from S3 buckets, on Ray.",
    )
    parser.add_argument("--version", action="version", version=f"physiq-ray {version('physiq-ray')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "try it all on generated photos and a local S3 server")
    demo.add_argument("--folder", default="demo", help="where everything goes (default: demo)")
    demo.add_argument("--photos", help="folder of your own photos; each sub-folder becomes a bucket")
    demo.add_argument("--labels", help="their labels (with --photos)")
    _add_settings(
        demo, [name for name in Settings.model_fields if name not in NOT_IN_DEMO], show_default=False
    )

    train = _command(commands, "train", _train, "train a pose classifier from buckets or folders")
    train.add_argument("--resume", action="store_true", help="go on with the run of --run-name")
    train.add_argument("--config", type=Path, metavar="FILE", help="settings in a TOML file")
    _add_json(train)
    _add_settings(train, list(Settings.model_fields))

    audit = _command(commands, "audit", _audit, "count and check the photos and labels, changing nothing")
    audit.add_argument("--check-photos", action="store_true", help="read every labelled photo")
    audit.add_argument(
        "--near-duplicates", action="store_true", help="compare photos by perceptual hash, reading them all"
    )
    audit.add_argument("--sheet", metavar="FILE", help="write some photos of each pose into one PNG")
    audit.add_argument(
        "--manifest", dest="manifest_output", metavar="FILE", help="save the manifest, for train --manifest"
    )
    audit.add_argument("--config", type=Path, metavar="FILE", help="settings in a TOML file")
    _add_json(audit)
    _add_settings(audit, AUDIT_SETTINGS)

    evaluate = _command(commands, "evaluate", _evaluate, "score a model on labelled photos")
    evaluate.add_argument(
        "--model", default="output", help="model file, or the folder or s3:// prefix of one (default: output)"
    )
    evaluate.add_argument(
        "--split",
        choices=("validation", "train", "all"),
        default="validation",
        help="which photos, as the training divided them (default: validation)",
    )
    evaluate.add_argument(
        "--report",
        default="evaluation",
        metavar="FOLDER",
        help="folder or s3:// prefix of the report (default: evaluation)",
    )
    evaluate.add_argument("--config", type=Path, metavar="FILE", help="settings in a TOML file")
    _add_json(evaluate)
    _add_settings(evaluate, EVALUATE_SETTINGS)

    predict = _command(commands, "predict", _predict, "tell the pose in photos")
    predict.add_argument("photos", nargs="+", help="files, folders, s3:// objects or prefixes")
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
    _add_json(predict)
    _add_settings(predict, PREDICT_SETTINGS)
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
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
    parser: argparse.ArgumentParser, names: Sequence[str], *, show_default: bool = True
) -> None:
    group = parser.add_argument_group(
        "settings", "Each is also an environment variable, PHYSIQ_<NAME>, and a key in --config's file."
    )
    for name in names:
        setting = Settings.model_fields[name]
        default = setting.get_default()
        is_list = typing.get_origin(setting.annotation) in (tuple, dict)
        help_text = str(setting.description).replace("%", "%%")
        if show_default and default not in ((), {}, None):
            help_text += f" (default: {default})"
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


def _given(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(args).items() if name in Settings.model_fields}


def _train(args: argparse.Namespace) -> int:
    settings = load_settings(_given(args), file=args.config)
    from physiq_ray.training import load_saved_settings, train

    if args.resume and settings.run_name is not None:
        saved = load_saved_settings(settings.storage, settings.run_name)
        settings = load_settings(_given(args), file=args.config, defaults=saved)
    display = _display(to_stderr=args.json)
    result = train(settings, display, resume=args.resume, debug=args.debug)
    if args.json:
        print(json.dumps(_summary(result), indent=2))
    else:
        _print_result(result)
    return 1 if result.failed_sources else 0


def _display(*, to_stderr: bool) -> "Display":
    from rich.console import Console

    from physiq_ray.training import Display

    return Display(Console(stderr=to_stderr))


def _summary(result: "TrainingResult") -> dict[str, Any]:
    return {
        "run_name": result.run_name,
        "best_epoch": result.best_epoch,
        "best_validation_accuracy": result.best_accuracy,
        "report": result.report.to_dict() if result.report is not None else None,
        "files": list(result.files),
        "photos": {**result.num_used, "skipped": result.num_skipped, "quarantined": len(result.unreadable)},
        "failed_sources": list(result.failed_sources),
        "history": list(result.history),
    }


def _print_result(result: "TrainingResult") -> None:
    print(f"\nBest validation accuracy {result.best_accuracy:.2%} in epoch {result.best_epoch}")
    if result.report is not None:
        print_report(result.report)
    used = " + ".join(f"{count} {split}" for split, count in result.num_used.items())
    print(f"Photos: {used} used, {result.num_skipped} skipped, {len(result.unreadable)} quarantined")
    for item in result.unreadable[:3]:
        print(f"  quarantined {item.uri}: {item.error}")
    print("Files:")
    for uri in result.files:
        print(f"  {uri}")
    for failure in result.failed_sources:
        print(f"NOT COMPLETE: trained without {failure}", file=sys.stderr)


def _audit(args: argparse.Namespace) -> int:
    settings = load_settings(_given(args), file=args.config)
    from physiq_ray.audit import audit_manifest, write_contact_sheet
    from physiq_ray.labels import load_poses
    from physiq_ray.manifest import collect_manifest
    from physiq_ray.storage import absolute_uri, write_bytes

    poses = load_poses(Path(settings.poses))
    manifest = collect_manifest(settings, poses)
    if args.check_photos or args.near_duplicates:
        display = _display(to_stderr=True)
        with display.live():
            audit = audit_manifest(
                manifest,
                poses,
                check_photos=True,
                near_duplicates=args.near_duplicates,
                on_progress=lambda done, total: display.count("reading", done, total),
            )
    else:
        audit = audit_manifest(manifest, poses)
    files = []
    if args.manifest_output:
        files.append(absolute_uri(args.manifest_output))
        write_bytes(manifest.to_parquet(), files[-1])
    if args.sheet:
        files.append(absolute_uri(args.sheet))
        write_contact_sheet(manifest, poses, files[-1], seed=settings.seed)
    if args.json:
        print(json.dumps(audit.to_dict() | {"files": files}, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*audit.describe(), *(f"wrote {uri}" for uri in files)]))
    for source in manifest.report.failed_sources:
        print(f"NOT COMPLETE: audited without {source.source}: {source.error}", file=sys.stderr)
    return 1 if manifest.report.failed_sources else 0


def _evaluate(args: argparse.Namespace) -> int:
    load_settings(_given(args), file=args.config)  # wrong ones are named before anything is read
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.evaluation import score, write_report
    from physiq_ray.evaluation.evaluate import collect_facts, evaluate, find_manifest, split_defaults
    from physiq_ray.labels import load_poses
    from physiq_ray.storage import absolute_uri

    state = load_model_state(args.model)
    settings = load_settings(_given(args), file=args.config, defaults=split_defaults(state))
    manifest = find_manifest(settings, state, load_poses(Path(settings.poses)))
    display = _display(to_stderr=True)
    with display.live():
        found = evaluate(
            manifest,
            state,
            split=args.split,
            precision=settings.precision,
            batch_size=settings.batch_size,
            on_progress=lambda done, total: display.count("evaluating", done, total),
            debug=args.debug,
        )
    report = score(found.answers, state.class_mapping, state.pose_names, temperature=state.temperature)
    facts = collect_facts(
        state,
        manifest,
        run_name=str(state.settings.get("run_name") or args.model),
        scored_on=f"the photos of split {args.split!r}",
        unreadable=found.unreadable,
    )
    files = write_report(report, found.answers, facts, absolute_uri(args.report), history=state.history)
    if args.json:
        print(json.dumps(report.to_dict() | {"files": list(files)}, indent=2, ensure_ascii=False))
    else:
        print_report(report)
        print("Files:")
        for uri in files:
            print(f"  {uri}")
    for pose_id, count in found.num_unknown.items():
        print(f"left out: {count} photos of pose {pose_id}, which the model does not know", file=sys.stderr)
    for item in found.unreadable:
        print(f"physiq-ray evaluate: {item.uri}: {item.error}", file=sys.stderr)
    for source in manifest.report.failed_sources:
        print(f"NOT COMPLETE: evaluated without {source.source}: {source.error}", file=sys.stderr)
    return 1 if found.unreadable or manifest.report.failed_sources else 0


def print_report(report: "Report") -> None:
    """Print a model's scores for a reader."""
    print(
        f"{report.num_photos} photos: accuracy {report.accuracy:.2%}, top 2 {report.top2_accuracy:.2%}, "
        f"macro F1 {report.f1:.2%}; calibration error {report.error_before:.3f}, "
        f"{report.error_after:.3f} at temperature {report.temperature:.2f}"
    )
    print(f"  {'pose':<22} precision  recall      F1  photos")
    for pose in report.poses:
        print(f"  {pose.name:<22} {pose.precision:>9.1%} {pose.recall:>7.1%} {pose.f1:>7.1%} {pose.count:>7}")


def _predict(args: argparse.Namespace) -> int:
    settings = load_settings(_given(args))
    if args.output is None and args.part_rows is not None:
        raise SettingError(f"--part-rows={args.part_rows}: only with --output, which it divides into files")
    if args.output is not None and (args.figures is not None or args.no_figures):
        raise SettingError(
            f"--output={args.output}: never with figures; leave out --figures and --no-figures"
        )
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.labels import load_poses

    poses = load_poses(Path(settings.poses)) if Path(settings.poses).exists() else {}
    state = load_model_state(args.model, pose_names=poses)
    return (
        _predict_each(args, settings, state) if args.output is None else _predict_all(args, settings, state)
    )


def _predict_all(args: argparse.Namespace, settings: Settings, state: "ModelState") -> int:
    from physiq_ray.prediction.batch import PART_ROWS, predict_to_parquet

    display = _display(to_stderr=True)
    # Where Ray prints its nodes' warnings, of each interrupted run too: stdout may be a program's to read.
    rays_own = sys.stderr if args.debug else io.StringIO()
    try:
        with display.live(), contextlib.redirect_stdout(rays_own):
            result = predict_to_parquet(
                args.photos,
                state,
                args.output,
                precision=settings.precision,
                part_rows=PART_ROWS if args.part_rows is None else args.part_rows,
                on_progress=lambda done, total: display.count("predicting", done, total),
                debug=args.debug,
            )
    except KeyboardInterrupt:
        print(
            f"physiq-ray predict: interrupted; {args.output} keeps what is answered, run the same command "
            "again to go on",
            file=sys.stderr,
        )
        return 1
    if args.json:
        print(json.dumps(_batch_summary(result, args.output), indent=2, ensure_ascii=False))
    else:
        print(
            f"{result.num_answered} photos answered, {result.num_skipped} were before, "
            f"{result.num_unreadable} cannot be read"
        )
        for uri in result.files:
            print(f"  {uri}")
    for item in result.examples:
        print(f"physiq-ray predict: {item.uri}: {item.error}", file=sys.stderr)
    if result.num_unreadable > len(result.examples):
        print(f"physiq-ray predict: all {result.num_unreadable} in {result.unreadable_file}", file=sys.stderr)
    for failure in result.failures:
        print(f"NOT COMPLETE: predicted without {failure}", file=sys.stderr)
    return 1 if result.num_unreadable or result.failures else 0


def _batch_summary(result: "BatchResult", output: str) -> dict[str, Any]:
    return {
        "output": output,
        "photos": {
            "answered": result.num_answered,
            "answered_before": result.num_skipped,
            "unreadable": result.num_unreadable,
        },
        "files": list(result.files),
        "unreadable_file": result.unreadable_file,
        "failures": list(result.failures),
    }


def _predict_each(args: argparse.Namespace, settings: Settings, state: "ModelState") -> int:
    from physiq_ray.prediction import Predictor, find_photos, predict_file
    from physiq_ray.storage import join_uri

    predictor = Predictor(state, precision=settings.precision)
    answers, failures, taken = [], [], set()
    for address in args.photos:
        try:
            uris = list(find_photos([address]))
        except PhysiqError as error:
            failures.append({"uri": address, "error": str(error)})
            continue
        for uri in uris:
            figure_uri = None
            if not args.no_figures:
                name = stem = Path(uri).stem
                number = 1
                while name in taken:  # IMG0001.jpg of two folders
                    number += 1
                    name = f"{stem}-{number}"
                taken.add(name)
                figure_uri = join_uri(args.figures or FIGURES_FOLDER, f"{name}.png")
            try:
                prediction = predict_file(predictor, uri, figure_uri=figure_uri)
            except PhysiqError as error:
                failures.append({"uri": uri, "error": str(error)})
                continue
            answers.append(prediction)
            if not args.json:
                print_prediction(prediction, figure_uri)
    if args.json:
        print(json.dumps({"predictions": [a.to_dict() for a in answers], "errors": failures}, indent=2))
    for failure in failures:
        print(f"physiq-ray predict: {failure['error']}", file=sys.stderr)
    return 1 if failures else 0


def print_prediction(prediction: "Prediction", figure_uri: str | None) -> None:
    """Print one answer for a reader."""
    pose = prediction.pose
    shape = " × ".join(map(str, prediction.tensor_shape))
    print(f"{prediction.uri}")
    print(f"  pose        {pose.name} (id {pose.pose_id})")
    print(f"  confidence  {pose.probability:.2%}")
    for rank, item in enumerate(prediction.probabilities):
        mark = "▶" if rank == 0 else " "
        bar = "█" * round(item.probability * 24)
        print(f"  {mark} {item.pose_id:>4}  {item.name:<22} {item.probability:>7.2%}  {bar}".rstrip())
    print(
        f"  photo       {prediction.width} × {prediction.height} px, tensor {shape}, on {prediction.device}"
    )
    if figure_uri:
        print(f"  figure      {figure_uri}")


def _demo(args: argparse.Namespace) -> int:
    if (args.photos is None) != (args.labels is None):
        raise SettingError(
            "--photos and --labels go together: a folder of photos and the labels of its photos"
        )
    from physiq_ray.sample.demo import run_demo

    display = _display(to_stderr=False)
    demo = run_demo(
        Path(args.folder),
        display,
        flags=_given(args),
        photos=Path(args.photos) if args.photos else None,
        labels=Path(args.labels) if args.labels else None,
        debug=args.debug,
    )
    _print_result(demo.training)
    print(f"\nA photo it was not trained on{f' ({demo.truth})' if demo.truth else ''}:")
    print_prediction(demo.prediction, demo.figure)
    print(f"\n{demo.next_steps}")
    return 1 if demo.training.failed_sources else 0


if __name__ == "__main__":
    sys.exit(main())
