"""The command predict: single photos with figures, or whole buckets into Parquet files."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physiq_ray.cli.answers import FORMATS, make_answers
from physiq_ray.cli.command import Command, add_model, load
from physiq_ray.cli.output import as_json, make_display, silence_ray
from physiq_ray.config import Settings
from physiq_ray.errors import PhysiqError, SettingError
from physiq_ray.lazy import without_garbage_collection
from physiq_ray.machine import check_writable

if TYPE_CHECKING:
    from physiq_ray.checkpoint import ModelState
    from physiq_ray.prediction.batch import BatchResult

FIGURES_FOLDER = "predictions"


def run_predict(args: argparse.Namespace) -> int:
    """Predict the poses in photos."""
    settings = load(args)
    _check_flags(args)
    if args.output is not None:
        check_writable("--output", args.output)
    if args.draft_labels is not None:
        check_writable("--draft-labels", args.draft_labels, is_file=True)
    from physiq_ray.cli.addresses import read_addresses

    args.photos = read_addresses(args.photos)  # before torch and the model, which take seconds
    with without_garbage_collection():
        from physiq_ray.checkpoint import load_model_state
    from physiq_ray.labels import load_configured_poses
    from physiq_ray.storage import split_uri

    state = load_model_state(args.model, pose_names=load_configured_poses(settings))
    buckets = [split_uri(address)[0] for address in args.photos if address.startswith("s3://")]
    if buckets:
        from physiq_ray.storage import follow_settings  # imported here, because it needs boto3

        follow_settings(settings, buckets)
    if args.draft_labels is not None:
        return _draft_labels(args, settings, state)
    return (
        _predict_each(args, settings, state) if args.output is None else _predict_all(args, settings, state)
    )


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that exclude each other, and set --format to json if --json is given.

    Raises SettingError.
    """
    if args.output is None and args.part_rows is not None:
        raise SettingError(f"--part-rows={args.part_rows}: needs --output, whose files it limits")
    if args.output is not None and (args.figures is not None or args.no_figures):
        raise SettingError(f"--output={args.output}: writes no figures; leave out --figures and --no-figures")
    if args.explain and args.no_figures:
        raise SettingError("--explain: draws in the figures; leave out --no-figures")
    if args.explain and args.output is not None:
        raise SettingError(f"--output={args.output}: writes no figures, in which --explain would draw")
    if args.draft_labels is not None:
        others = ("output", "figures", "no_figures", "explain", "top", "part_rows")
        for name in others:
            if getattr(args, name) not in (None, False):
                flag = "--" + name.replace("_", "-")
                raise SettingError(f"{flag}: excludes --draft-labels, which writes only drafts; leave it out")
    if args.json and args.format not in (None, "json"):
        raise SettingError(f"--format={args.format}: excludes --json, which means --format json")
    if args.json:
        args.format = "json"
    if args.output is not None and args.format not in (None, "json"):
        raise SettingError(
            f"--format={args.format}: excludes --output, which writes Parquet files (--json prints their "
            "summary); leave out one of the two"
        )
    if args.output is not None and args.top is not None:
        raise SettingError(f"--top={args.top}: excludes --output, whose files hold all probabilities")
    if args.top is not None and args.top < 1:
        raise SettingError(f"--top={args.top} (poses in each answer): expected at least 1")


def _predict_all(args: argparse.Namespace, settings: Settings, state: "ModelState") -> int:
    from physiq_ray.prediction.batch import PART_ROWS, predict_to_parquet

    display = make_display(to_stderr=True)
    try:
        with display.live(), silence_ray(debug=args.debug):
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
            f"physiq-ray predict: interrupted; {args.output} keeps the answers so far; run the same command "
            "again to continue",
            file=sys.stderr,
        )
        return 1
    if args.format == "json":
        print(as_json(_batch_summary(result, args.output)))
    else:
        print(
            f"{result.num_answered} predicted, {result.num_skipped} already done, "
            f"{result.num_unreadable} unreadable"
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


def _draft_labels(args: argparse.Namespace, settings: Settings, state: "ModelState") -> int:
    from physiq_ray.labels import load_configured_labels
    from physiq_ray.prediction.drafts import draft_labels

    labels = load_configured_labels(settings, state.pose_names)
    display = make_display(to_stderr=True)
    with display.live(), silence_ray(debug=args.debug):
        drafts = draft_labels(
            args.photos,
            labels,
            state,
            args.draft_labels,
            source_buckets=settings.source_buckets,
            precision=settings.precision,
            on_progress=lambda done, total: display.count("predicting", done, total),
            debug=args.debug,
        )
    if args.format == "json":
        print(
            as_json(
                {
                    "file": args.draft_labels,
                    "drafts": drafts.num_drafts,
                    "labelled": drafts.num_labelled,
                    "unreadable": [vars(item) for item in drafts.unreadable],
                    "failures": list(drafts.failures),
                }
            )
        )
    else:
        print(f"{drafts.num_drafts} drafts, {drafts.num_labelled} photos labelled already")
        print(f"  {args.draft_labels}")
    for item in drafts.unreadable:
        print(f"physiq-ray predict: {item.uri}: {item.error}", file=sys.stderr)
    for failure in drafts.failures:
        print(f"NOT COMPLETE: drafted without {failure}", file=sys.stderr)
    return 1 if drafts.unreadable or drafts.failures else 0


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
    from physiq_ray.prediction import Predictor, find_photos, write_figure
    from physiq_ray.storage import join_uri, read_bytes

    predictor = Predictor(state, precision=settings.precision)
    answers = make_answers(args.format, top=args.top, num_poses=len(state.class_mapping.classes))
    failures, taken = [], set()
    for address in args.photos:
        try:
            uris = list(find_photos([address]))
        except PhysiqError as error:
            failures.append(str(error))
            answers.add(address, None, str(error))
            continue
        for uri in uris:
            figure_uri = None
            if not args.no_figures:
                name = stem = Path(uri).stem
                number = 1
                while name in taken:  # two folders may both have an IMG0001.jpg
                    number += 1
                    name = f"{stem}-{number}"
                taken.add(name)
                figure_uri = join_uri(args.figures or FIGURES_FOLDER, f"{name}.png")
            try:
                data = read_bytes(uri)
                prediction = predictor.predict(data, uri=uri)
            except PhysiqError as error:
                failures.append(str(error))
                answers.add(uri, None, str(error))
                continue
            problem = None
            if figure_uri is not None:
                try:
                    best = prediction.probabilities[0].pose_id
                    explanation = predictor.explain(data, best) if args.explain else None
                    write_figure(prediction, data, figure_uri, explanation)
                except PhysiqError as error:  # the answer is printed without it
                    problem = f"{uri}: answered, but without its figure: {error}"
                    failures.append(problem)
                    figure_uri = None
            answers.add(uri, prediction, problem, figure_uri)
    answers.close()
    for failure in failures:
        print(f"physiq-ray predict: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTO",
        help="file, folder, s3:// object or prefix; @FILE: each line of FILE names one",
    )
    add_model(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="print one entry for each photo, also for unreadable ones (default: blocks for a reader)",
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="NUMBER",
        help="poses in each answer, the likeliest first (default: all; csv and table: 1)",
    )
    parser.add_argument(
        "--figures", metavar="URI", help=f"folder for the figures (default: {FIGURES_FOLDER})"
    )
    parser.add_argument("--no-figures", action="store_true", help="write no figures")
    parser.add_argument(
        "--explain", action="store_true", help="draw in the figures where the network looked for the pose"
    )
    parser.add_argument(
        "--output",
        metavar="URI",
        help="for many photos: predict with Ray and write Parquet files into this folder, without figures; "
        "photos that it already has answers for are skipped",
    )
    parser.add_argument(
        "--draft-labels",
        metavar="URI",
        help="predict only photos that no label names, and write the answers into this JSON Lines file as "
        "drafts of labels, which a person must confirm",
    )
    parser.add_argument(
        "--part-rows", type=int, metavar="NUMBER", help="answers in each file of --output (default: 10000)"
    )


PREDICT = Command(
    "predict",
    "predict the pose in photos",
    (
        "physiq-ray predict photo.jpg",
        "physiq-ray predict photos/ s3://checkin-poses/new/ --json",
        "physiq-ray predict photo.jpg --explain",
        "physiq-ray predict @list.txt --format csv --top 3 --no-figures > answers.csv",
        "physiq-ray predict s3://checkin-poses --output s3://models/answers",
        "physiq-ray predict s3://checkin-poses --draft-labels drafts.jsonl",
    ),
    run_predict,
    settings=(
        *("poses", "labels", "label_fields", "source_buckets"),
        *("requester_pays", "anonymous", "precision"),
    ),
    arguments="PHOTO [PHOTO ...]",
    add_flags=_add_flags,
)
