"""What commands share: the settings given, the progress display, and results as text."""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from physiq_ray.config import Settings

if TYPE_CHECKING:
    from physiq_ray.evaluation import Report
    from physiq_ray.prediction import Prediction
    from physiq_ray.progress import Display
    from physiq_ray.training.finish import TrainingResult


def given(args: argparse.Namespace, kind: type[BaseModel] = Settings) -> dict[str, Any]:
    """Give the settings of one kind among the arguments, None where a flag was left out."""
    return {name: value for name, value in vars(args).items() if name in kind.model_fields}


def make_display(*, to_stderr: bool) -> "Display":
    """Make the display of progress; to_stderr where stdout is a program's to read."""
    from rich.console import Console

    from physiq_ray.progress import Display

    return Display(Console(stderr=to_stderr))


@contextlib.contextmanager
def no_words_of_ray(*, debug: bool) -> Iterator[None]:
    """Keep Ray off stdout, which may be a program's to read; debug: on stderr, else nowhere.

    Ray prints its nodes' warnings on stdout from a thread of its own, whatever the log level
    (ray/_private/worker.py, listen_error_messages). That thread would go on beyond this block, beside the
    answer: so Ray ends with it, as it else would with the process.
    """
    with contextlib.redirect_stdout(sys.stderr if debug else io.StringIO()):
        try:
            yield
        finally:
            ray = sys.modules.get("ray")  # not imported where the work failed before it was needed
            if ray is not None:
                ray.shutdown()


def as_json(value: Any) -> str:
    """Give JSON that every reader takes, with escapes where stdout could not show the letters themselves.

    Raises ValueError: a number is not finite, which Python would write as NaN, a word JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=2, allow_nan=False)
    return text


def printable(text: str) -> str:
    """Escape what a key may hold and a terminal would obey."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def summarise(result: "TrainingResult") -> dict[str, Any]:
    """Give what train --json prints."""
    from physiq_ray.quarantine import count_steps

    return {
        "run_name": result.run_name,
        "best_epoch": result.best_epoch,
        "best_validation_accuracy": result.best_accuracy,
        "report": result.report.to_dict() if result.report is not None else None,
        "files": list(result.files),
        "photos": {**result.num_used, "skipped": result.num_skipped, "quarantined": len(result.unreadable)},
        "quarantined_by_step": count_steps(result.unreadable),
        "failed_sources": list(result.failed_sources),
        "history": list(result.history),
    }


def print_result(result: "TrainingResult") -> None:
    """Print what a training has come to for a reader."""
    from physiq_ray.quarantine import count_steps

    print(f"\nBest validation accuracy {result.best_accuracy:.2%} in epoch {result.best_epoch}")
    if result.report is not None:
        print_report(result.report)
    used = " + ".join(f"{count} {split}" for split, count in result.num_used.items())
    steps = ", ".join(f"{count} {step}" for step, count in count_steps(result.unreadable).items())
    print(
        f"Photos: {used} used, {result.num_skipped} skipped, {len(result.unreadable)} quarantined"
        + (f" ({steps})" if steps else "")
    )
    for item in result.unreadable[:3]:
        print(f"  quarantined {item.uri}: {item.error}")
    print("Files:")
    for uri in result.files:
        print(f"  {uri}")
    for failure in result.failed_sources:
        print(f"NOT COMPLETE: trained without {failure}", file=sys.stderr)


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


def print_prediction(prediction: "Prediction", figure_uri: str | None, *, top: int | None = None) -> None:
    """Print one answer for a reader; top: its likeliest poses, None for all."""
    pose = prediction.pose
    shape = " × ".join(map(str, prediction.tensor_shape))
    print(f"{prediction.uri}")
    print(f"  pose        {pose.name} (id {pose.pose_id})")
    print(f"  confidence  {pose.probability:.2%}")
    for rank, item in enumerate(prediction.probabilities[:top]):
        mark = "▶" if rank == 0 else " "
        bar = "█" * round(item.probability * 24)
        print(f"  {mark} {item.pose_id:>4}  {item.name:<22} {item.probability:>7.2%}  {bar}".rstrip())
    print(
        f"  photo       {prediction.width} × {prediction.height} px, tensor {shape}, on {prediction.device}"
    )
    if figure_uri:
        print(f"  figure      {figure_uri}")
