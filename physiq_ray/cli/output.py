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


def print_training(result: "TrainingResult") -> None:
    """Print the result of a training for a reader; sources that failed go to stderr."""
    from physiq_ray.training.text import describe_result

    print("", *describe_result(result), sep="\n")
    for failure in result.failed_sources:
        print(f"NOT COMPLETE: trained without {failure}", file=sys.stderr)


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
