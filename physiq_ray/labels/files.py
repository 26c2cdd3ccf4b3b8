"""Read the records of a file at a path or s3:// address one by one, each with its place in the file.

The content decides the format: Parquet begins with PAR1, a JSON list with "[", JSON Lines with "{". Any
other content is CSV, with "," ";" or tabs between the cells, unless the name ends in .json, .jsonl, .ndjson
or .parquet: then the file is damaged. A byte order mark is accepted. Records are yielded one by one, so that
a million JSON records take little more memory than their text.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from physiq_ray.errors import LabelError, NotFoundError, PhysiqError
from physiq_ray.storage import absolute_uri, read_bytes

if TYPE_CHECKING:
    import pyarrow.parquet as pq

JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
PARQUET_ROWS = 1 << 16  # converted to Python values at a time
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # comes first, because it begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),  # Excel's "Unicode text", PowerShell's >
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLANKS = re.compile(r"[ \t\r\n]*")
_LIST_SEPARATOR = re.compile(r"[ \t\r\n]*([],])[ \t\r\n]*")
_LINE_END = re.compile(r"[ \t\r]*(?:\n|$)")


@dataclass
class RepeatedKeys:
    """A JSON object that repeats a key, as its unchanged pairs."""

    pairs: list[tuple[str, Any]]


@dataclass
class RaggedRow:
    """A CSV row with more cells than the header, for example because a name contains a comma.

    texts: by column, the values that the column may have.
    """

    num_cells: int
    num_columns: int
    cells: dict[str, Any]
    texts: dict[str, list[str]] = field(default_factory=dict)


Record = dict[str, Any] | RepeatedKeys | RaggedRow | Any
Records = Iterator[tuple[int, Record]]


@dataclass(frozen=True)
class RecordFile:
    """A file of records, which can be read once.

    address: as the user wrote it. unit: "record" or "line", which the numbers of the records count.
    columns: the used columns of a table, None if each record has its own keys.
    """

    address: str
    unit: str
    columns: tuple[str, ...] | None
    records: Records

    def place(self, number: int) -> str:
        """Describe the place of a record."""
        return f"{self.address}: {self.unit} {number}"


def open_records(address: str, what: str, is_used: Callable[[str], bool]) -> RecordFile:
    """Read a file's bytes and detect its format; the records are parsed while the caller iterates.

    what: "labels" or "poses", for errors. is_used: tells whether a column is used.
    Raises LabelError, here and during the iteration: the file does not exist, cannot be read or is damaged.
    No record of a damaged file is used, because its missing part may name photos too.
    """
    name = address.lower()
    data = _read(address, what)
    if data[:4] == b"PAR1" or name.endswith(".parquet"):
        table = _open_parquet(address, what, data)
        columns = _used_columns(f"{address}: the {what} file", table.schema_arrow.names, is_used)
        return RecordFile(address, "record", columns, _parquet_records(address, what, table, columns))
    text = _decode(address, what, data)
    del data
    start = _after_blanks(text)
    begin = text[start : start + 1]
    if begin == "[" or (begin != "{" and name.endswith(JSON_ENDINGS)):
        return RecordFile(address, "record", None, _json_records(address, what, text))
    if begin == "{":
        return RecordFile(address, "line", None, _json_lines(address, what, text))
    rows, header, delimiter = _open_csv(address, what, text)
    columns = _used_columns(f"{address}: line 1", header, is_used)
    return RecordFile(address, "line", columns, _csv_records(address, what, rows, header, delimiter, columns))


def _read(address: str, what: str) -> bytes:
    try:
        return read_bytes(absolute_uri(address))
    except NotFoundError as error:
        raise LabelError(
            f"{address}: no such {what} file; give its path with --{what} or PHYSIQ_{what.upper()}"
        ) from error
    except PhysiqError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
        raise LabelError(f"{address}: the {what} file cannot be read: {reason}") from error


def _decode(address: str, what: str, data: bytes) -> str:
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LabelError(
            f"{address}: line {line}: the {what} file is not text in UTF-8 (byte 0x{data[error.start]:02x}); "
            "save it as JSON, JSON Lines, Parquet, or CSV in UTF-8"
        ) from error


def _to_record(pairs: list[tuple[str, Any]]) -> dict[str, Any] | RepeatedKeys:
    record = dict(pairs)
    return record if len(record) == len(pairs) else RepeatedKeys(pairs)


def _after_blanks(text: str, position: int = 0) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def _json_records(address: str, what: str, text: str) -> Records:
    """Parse the items of a list one by one: the whole list would take four times the memory of the text."""
    scan = json.JSONDecoder(object_pairs_hook=_to_record).scan_once  # type: ignore[attr-defined]
    position = _after_blanks(text)
    try:
        if text[position : position + 1] != "[":
            value = json.loads(text)
            raise LabelError(f"{address}: expected a JSON list of {what}, got a {type(value).__name__}")
        position = _after_blanks(text, position + 1)
        number, is_open = 0, text[position : position + 1] != "]"
        while is_open:
            record, position = scan(text, position)
            separator = _LIST_SEPARATOR.match(text, position)
            if separator is None:
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            position = separator.end()
            is_open = separator[1] == ","
            number += 1
            yield number, record
        if number == 0:
            position = _after_blanks(text, position + 1)
        if position != len(text):
            raise json.JSONDecodeError("Extra data", text, position)
    except StopIteration as error:  # the scanner found no value here
        raise _not_json(address, what, json.JSONDecodeError("Expecting value", text, error.value)) from error
    except (ValueError, RecursionError) as error:  # not JSON, or nested a thousand levels deep
        raise _not_json(address, what, error) from error


def _json_lines(address: str, what: str, text: str) -> Records:
    scan = json.JSONDecoder(object_pairs_hook=_to_record).scan_once  # type: ignore[attr-defined]
    line, counted, position, num_records = 1, 0, _after_blanks(text), 0
    try:
        while position < len(text):
            line += text.count("\n", counted, position)
            counted = position
            record, position = scan(text, position)
            end = _LINE_END.match(text, position)
            if end is None:
                raise json.JSONDecodeError("Extra data", text, position)
            position = _after_blanks(text, end.end())
            num_records += 1
            yield line, record
    except StopIteration as error:
        raise _not_json(address, what, json.JSONDecodeError("Expecting value", text, error.value)) from error
    except (ValueError, RecursionError) as error:
        raise _not_json(address, what, error) from error
    if num_records == 1 and address.lower().endswith(".json"):
        raise LabelError(f"{address}: expected a JSON list of {what}, got a dict")


def _not_json(address: str, what: str, error: Exception) -> LabelError:
    return LabelError(f"{address}: the {what} file is not JSON: {error}")


def _open_csv(address: str, what: str, text: str) -> tuple[Any, list[str], str]:
    """Read the header. Returns a reader of the other rows, the column names and the delimiter."""
    if "\0" in text[:4096]:
        raise LabelError(
            f"{address}: the {what} file is not text; save it as JSON, JSON Lines, CSV or Parquet"
        )
    first = text[: text.find("\n")] if "\n" in text else text
    delimiter = max(",;\t", key=first.count)
    # The text is encoded again, because a StringIO takes four bytes per character.
    lines = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline="")
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
    except csv.Error as error:
        raise _not_csv(address, what, rows.line_num, error) from error
    if not any(header):
        raise LabelError(f"{address}: line 1: the {what} file has no header; name its columns there")
    return rows, header, delimiter


def _csv_records(
    address: str, what: str, rows: Any, header: list[str], delimiter: str, columns: tuple[str, ...]
) -> Records:
    used = [(header.index(name), name) for name in columns]
    width = len(header)
    begin = rows.line_num + 1
    try:
        for row in rows:
            if len(row) >= width:
                record = {name: row[index] for index, name in used}
            else:
                record = {name: row[index] for index, name in used if index < len(row)}
            if rows.line_num > begin and any("\n" in cell or "\r" in cell for cell in record.values()):
                raise csv.Error("a line break inside a cell: a quotation mark is missing")
            if len(row) > width and any(row[width:]):
                yield begin, _ragged(row, width, record, used, delimiter)
            elif any(row):
                yield begin, record
            begin = rows.line_num + 1
    except csv.Error as error:
        raise _not_csv(address, what, begin, error) from error


def _ragged(
    row: list[str], num_columns: int, record: dict[str, Any], used: list[tuple[int, str]], delimiter: str
) -> RaggedRow:
    extra = len(row) - num_columns
    texts = {name: [row[index], delimiter.join(row[index : index + extra + 1])] for index, name in used}
    return RaggedRow(len(row), num_columns, record, texts)


def _not_csv(address: str, what: str, line: int, error: Exception) -> LabelError:
    return LabelError(f"{address}: line {line}: the {what} file is not CSV: {error}")


def _open_parquet(address: str, what: str, data: bytes) -> "pq.ParquetFile":
    import pyarrow as pa  # imported here: the other formats do not need it
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(address, what, error) from error


def _parquet_records(address: str, what: str, table: "pq.ParquetFile", columns: tuple[str, ...]) -> Records:
    import pyarrow as pa

    number = 0
    try:
        for batch in table.iter_batches(PARQUET_ROWS, columns=list(columns)):
            batch.validate(full=True)
            for row in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                number += 1
                yield number, dict(zip(columns, row, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise _not_parquet(address, what, error) from error


def _not_parquet(address: str, what: str, error: Exception) -> LabelError:
    return LabelError(f"{address}: the {what} file is not Parquet: {error}")


def _used_columns(place: str, names: list[str], is_used: Callable[[str], bool]) -> tuple[str, ...]:
    """Select the columns that are used.

    Raises LabelError: one of them occurs twice.
    """
    used = [name for name in names if is_used(name)]
    for name in used:
        if used.count(name) > 1:
            raise LabelError(f"{place}: column {name!r} occurs twice; keep only one of them")
    return tuple(used)
