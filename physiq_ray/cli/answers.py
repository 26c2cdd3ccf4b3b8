"""What predict prints: an entry for each photo, also for one that cannot be read.

    (none)  a block for a reader, with a bar for each pose; errors go to stderr only
    table   one line per photo, in columns
    csv     one row per photo, for spreadsheets: CSV_COLUMNS, then three columns for each further pose
    jsonl   one JSON object per line: the answer in the form of the HTTP API, or {"uri", "error"}
    json    one document: {"predictions": […], "errors": […]}

csv, jsonl and json are UTF-8, whatever the terminal's encoding is. csv begins with a byte order mark unless
it is printed on a terminal; Excel needs the mark to recognise UTF-8.
"""

import csv
import io
import json
import sys
from typing import TYPE_CHECKING, Any, Protocol

from physiq_ray.cli.output import as_json, print_prediction, printable

if TYPE_CHECKING:
    from physiq_ray.prediction import PoseProbability, Prediction

FORMATS = ("csv", "json", "jsonl", "table")
CSV_COLUMNS = ("uri", "pose_id", "pose", "confidence", "error")
# A spreadsheet takes a cell that begins with one of these for a formula, which may start programs or send
# other cells to a server. Names of objects may come from strangers. East Asian versions also take the wide
# forms of these characters.
FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
NAME_WIDTH = 22


class Answers(Protocol):
    """A printer of predict's answers, in the order of the photos."""

    def add(
        self, uri: str, answer: "Prediction | None", error: str | None, figure_uri: str | None = None
    ) -> None:
        """Add the result of one photo; it has an answer and an error if only its figure failed."""

    def close(self) -> None:
        """Print what is not printed yet."""


def make_answers(kind: str | None, *, top: int | None, num_poses: int) -> Answers:
    """Make the printer of a format, one of FORMATS or None; top: poses in each answer, None: its default."""
    if kind == "csv":
        return _Csv(min(top or 1, num_poses))
    if kind == "json":
        return _Json(top)
    if kind == "jsonl":
        return _JsonLines(top)
    if kind == "table":
        return _Table(min(top or 1, num_poses))
    return _Blocks(top)


class _Blocks:
    def __init__(self, top: int | None) -> None:
        self._top = top

    def add(
        self, uri: str, answer: "Prediction | None", error: str | None, figure_uri: str | None = None
    ) -> None:
        if answer is not None:
            print_prediction(answer, figure_uri, top=self._top)

    def close(self) -> None:
        pass


class _Table:
    def __init__(self, top: int) -> None:
        self._top = top
        heads = (f"{'id':>5}  {'pose':<{NAME_WIDTH}} {'confidence':>10}" for _ in range(top))
        print(f"{'  '.join(heads)}  photo")

    def add(
        self, uri: str, answer: "Prediction | None", error: str | None, figure_uri: str | None = None
    ) -> None:
        items = answer.probabilities[: self._top] if answer is not None else ()
        cells = [f"{i.pose_id:>5}  {i.name:<{NAME_WIDTH}} {i.probability:>10.2%}" for i in items]
        if answer is not None and answer.pose is None:
            cells[0] = f"{'-':>5}  {'no known pose':<{NAME_WIDTH}} {items[0].probability:>10.2%}"
        blank = f"{'-':>5}  {'-':<{NAME_WIDTH}} {'-':>10}"
        cells += [blank] * (self._top - len(cells))
        fault = f"  ({printable(_without(uri, error))})" if error else ""
        print(f"{'  '.join(cells)}  {printable(uri)}{fault}", flush=True)

    def close(self) -> None:
        pass


class _Csv:
    def __init__(self, top: int) -> None:
        self._top = top
        if not sys.stdout.isatty():
            _write("\ufeff")
        further = [
            f"{name}_{rank}" for rank in range(2, top + 1) for name in ("pose_id", "pose", "confidence")
        ]
        self._row([*CSV_COLUMNS, *further])

    def add(
        self, uri: str, answer: "Prediction | None", error: str | None, figure_uri: str | None = None
    ) -> None:
        items = answer.probabilities[: self._top] if answer is not None else ()
        cells = [_pose_cells(item) for item in items]
        if answer is not None and answer.pose is None:
            cells[0][:2] = "", ""
        cells += [["", "", ""]] * (self._top - len(cells))
        first, *further = cells
        fault = _without(uri, error) if error else ""
        self._row([_harmless(uri), *first, _harmless(fault), *(cell for three in further for cell in three)])

    def close(self) -> None:
        pass

    def _row(self, cells: list[str]) -> None:
        line = io.StringIO()
        csv.writer(line).writerow(cells)  # RFC 4180: quoted where needed, CRLF at the end
        _write(line.getvalue())


class _JsonLines:
    def __init__(self, top: int | None) -> None:
        self._top = top

    def add(
        self, uri: str, answer: "Prediction | None", error: str | None, figure_uri: str | None = None
    ) -> None:
        value = _as_dict(answer, self._top) if answer is not None else {"uri": uri}
        if error:
            value["error"] = error
        _write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        pass


class _Json:
    def __init__(self, top: int | None) -> None:
        self._top = top
        self._predictions: list[dict[str, Any]] = []
        self._errors: list[dict[str, str]] = []

    def add(
        self, uri: str, answer: "Prediction | None", error: str | None, figure_uri: str | None = None
    ) -> None:
        if answer is not None:
            self._predictions.append(_as_dict(answer, self._top))
        if error:
            self._errors.append({"uri": uri, "error": error})

    def close(self) -> None:
        _write(as_json({"predictions": self._predictions, "errors": self._errors}) + "\n")


def _as_dict(answer: "Prediction", top: int | None) -> dict[str, Any]:
    value = answer.to_dict()
    value["probabilities"] = value["probabilities"][:top]
    return value


def _pose_cells(item: "PoseProbability") -> list[str]:
    return [str(item.pose_id), _harmless(item.name), f"{item.probability:.6f}"]


def _harmless(text: str) -> str:
    """Put an apostrophe before a formula; spreadsheets then show it as text."""
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_MARKS) else text


def _without(uri: str, error: str) -> str:
    return error.removeprefix(f"{uri}: ")  # the row has the uri already


def _write(text: str) -> None:
    # A name that cannot be decoded contains lone surrogates, which UTF-8 cannot encode. Readers of CSV and of
    # JSON get them as \udcXX.
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()
