"""What commands share when they print or ask: the progress display, JSON, answers, names, confirmation."""

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from physiq_ray.errors import SettingError

if TYPE_CHECKING:
    from physiq_ray.prediction import Prediction
    from physiq_ray.progress import Display
    from physiq_ray.training.finish import TrainingResult


def make_display(*, to_stderr: bool) -> "Display":
    """Make the display of progress; to_stderr: another program may read stdout."""
    from rich.console import Console

    from physiq_ray.progress import Display

    return Display(Console(stderr=to_stderr))


@contextlib.contextmanager
def silence_ray(*, debug: bool) -> Iterator[None]:
    """Keep Ray's messages off stdout, which another program may read; debug: show them on stderr.

    A thread of Ray prints warnings of nodes on stdout, whatever the log level (ray/_private/worker.py,
    listen_error_messages). It would continue after this block and mix its lines with the result. Therefore
    Ray is shut down at the end of the block, unless it ran before the block.
    """
    ray = sys.modules.get("ray")
    has_joined = ray is not None and ray.is_initialized()
    with contextlib.redirect_stdout(sys.stderr if debug else io.StringIO()):
        try:
            yield
        finally:
            ray = sys.modules.get("ray")  # missing if the work failed before it imported Ray
            if ray is not None and not has_joined:
                ray.shutdown()


def as_json(value: Any) -> str:
    """Give standard JSON. It has escapes if the encoding of stdout lacks one of its characters.

    Raises ValueError: a number is not finite; Python would write NaN, which is not JSON.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=2, allow_nan=False)
    return text


def printable(text: str) -> str:
    """Escape the control characters that a key may contain and a terminal would execute."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def print_training(result: "TrainingResult") -> None:
    """Print the result of a training for a reader; sources that failed go to stderr."""
    from physiq_ray.training.text import describe_result

    print("", *describe_result(result), sep="\n")
    for failure in result.failed_sources:
        print(f"NOT COMPLETE: trained without {failure}", file=sys.stderr)


def print_prediction(prediction: "Prediction", figure_uri: str | None, *, top: int | None = None) -> None:
    """Print one answer for a reader; top: the number of poses, the likeliest first, None for all."""
    likeliest, floor = prediction.likeliest, prediction.floor
    shape = " × ".join(map(str, prediction.tensor_shape))
    print(f"{prediction.uri}")
    if prediction.pose is not None or floor is None:
        print(f"  pose        {likeliest.name} (id {likeliest.pose_id})")
    else:
        print(f"  pose        no known pose ({floor.score} {floor.value:.3g}, below {floor.threshold:.3g})")
    print(f"  confidence  {likeliest.probability:.2%}")
    for rank, item in enumerate(prediction.probabilities[:top]):
        mark = "▶" if rank == 0 and prediction.pose is not None else " "
        bar = "█" * round(item.probability * 24)
        print(f"  {mark} {item.pose_id:>4}  {item.name:<22} {item.probability:>7.2%}  {bar}".rstrip())
    print(
        f"  photo       {prediction.width} × {prediction.height} px, tensor {shape}, on {prediction.device}"
    )
    if figure_uri:
        print(f"  figure      {figure_uri}")


def confirm_number(number: int, deed: str, done: str) -> None:
    """Let the user type the number of items to confirm a deed; done: the deed's participle.

    Raises SettingError: something else was typed.
    """
    question = f"Type {number} to {deed}, anything else to leave them: "
    print(question, end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline().strip()
    if typed != str(number):
        raise SettingError(f"{typed!r} is not {number}: nothing was {done} (scripts give --yes --expect N)")
