"""The pages of thumbnails that cleanse draws with --sheet, with a model's answers if --model is given."""

import argparse
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physiq_ray.cli.output import printable
from physiq_ray.config import CleanseSettings
from physiq_ray.machine import check_writable
from physiq_ray.progress import Bars

if TYPE_CHECKING:
    from physiq_ray.cleanse import CleansePlan
    from physiq_ray.cleanse.sheet import Predict

SHOWN_FAILURES = 10


def prepare_sheet(args: argparse.Namespace, settings: CleanseSettings) -> "Predict | None":
    """Check the folder and load the model, both before the long work. Raises SettingError."""
    from physiq_ray.cleanse.sheet import check_sheet_folder

    check_sheet_folder(args.sheet)
    check_writable("--sheet", args.sheet)
    if not args.model:
        return None
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.labels import load_configured_poses
    from physiq_ray.prediction import Predictor

    predictor = Predictor(load_model_state(args.model, pose_names=load_configured_poses(settings)))
    one_at_a_time = threading.Lock()  # one forward pass uses all CPUs

    def predict(data: bytes, uri: str) -> str:
        with one_at_a_time:
            prediction = predictor.predict(data, uri=uri)
        if prediction.pose is None:
            return "no known pose"
        return f"{prediction.pose.probability:.0%} {prediction.pose.name}"

    return predict


def draw_sheet(
    plan: "CleansePlan", args: argparse.Namespace, predict: "Predict | None", answer: dict[str, Any]
) -> None:
    """Draw the photos of a plan before they are removed, and print where; unreadable ones go to stderr."""
    from physiq_ray.cleanse import sheet
    from physiq_ray.storage import absolute_uri

    with Bars() as bars:
        drawn = sheet.draw_sheet(
            plan,
            Path(absolute_uri(args.sheet)),
            predict=predict,
            on_progress=lambda done, total: bars.update(args.sheet, done, total, "drawn"),
        )
    answer["sheet"] = {"folder": args.sheet, "pages": drawn.pages, "unreadable": list(drawn.unreadable)}
    if not args.json:
        pages = f"{drawn.pages} page{'s' * (drawn.pages != 1)} with {drawn.photos} photos"
        print(f"{args.sheet}: {pages if drawn.pages else 'no photo to show, so no page'}", flush=True)
    for sentence in drawn.unreadable[:SHOWN_FAILURES]:
        print(f"physiq-ray cleanse: a grey tile on a page: {printable(sentence)}", file=sys.stderr)
    if len(drawn.unreadable) > SHOWN_FAILURES:
        num_more = len(drawn.unreadable) - SHOWN_FAILURES
        print(f"physiq-ray cleanse: … and {num_more} more grey tiles", file=sys.stderr)
