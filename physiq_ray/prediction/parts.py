"""Answers ↔ Parquet files: part-00000.parquet, part-00001.parquet, … in a folder or s3:// prefix.

A row is the answer for one photo, with the columns of `answer_schema`; its error is null (see `unreadable`).
A part appears complete or not at all, and is never changed; memory holds at most part_rows answers.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import PredictionError, SettingError
from physiq_ray.prediction.answer import VERSION_KEY, Float32Array, answer_schema, to_table
from physiq_ray.storage import join_uri, list_names, parse_source, read_bytes, write_bytes

READ_THREADS = 8
_NAME = re.compile(r"part-(\d{5,})\.parquet")


@dataclass(frozen=True)
class EarlierParts:
    """What an output contains: the uris that have an answer, a string array, and the next part's number."""

    uris: pa.ChunkedArray
    next_number: int


def read_parts(output: str, state: ModelState) -> EarlierParts:
    """Read the uris of earlier runs. All parts are read in full: the photos of a damaged part have no answer.

    Raises SettingError: the answers are of another model. PredictionError: a part is damaged, or is another
    file. StorageError.
    """
    numbers = {
        name: int(match[1]) for name in list_names(parse_source(output)) if (match := _NAME.fullmatch(name))
    }
    with ThreadPoolExecutor(READ_THREADS) as threads:
        columns = list(threads.map(lambda name: _read_uris(join_uri(output, name), output, state), numbers))
    chunks = [chunk for column in columns for chunk in column.chunks]
    return EarlierParts(pa.chunked_array(chunks, pa.string()), max(numbers.values(), default=-1) + 1)


def _read_uris(uri: str, output: str, state: ModelState) -> pa.ChunkedArray:
    try:
        table = pq.read_table(pa.BufferReader(read_bytes(uri)), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())  # Arrow's messages have several lines
        raise PredictionError(
            f"{uri}: damaged ({reason}); delete it and run the same command again, which predicts its photos"
        ) from error
    version = (table.schema.metadata or {}).get(VERSION_KEY)
    if version is None or "uri" not in table.column_names:
        raise PredictionError(f"{uri}: not a file of predictions; give another --output, or move it away")
    if version.decode() != state.version:
        raise SettingError(
            f"output={output}: {uri} has answers of model {version.decode()!r}, but the given model is "
            f"{state.version!r}; give another --output, or the previous --model"
        )
    return table["uri"]


class PartWriter:
    """Collects answers and writes a part as soon as it has part_rows of them."""

    def __init__(self, output: str, state: ModelState, *, next_number: int, part_rows: int) -> None:
        """output: a folder or s3:// prefix; next_number: of the first part to write."""
        self.files: list[str] = []
        self._output = output
        self._state = state
        self._next_number = next_number
        self._part_rows = part_rows
        self._waiting = answer_schema(state).empty_table()

    @property
    def num_waiting(self) -> int:
        """Answers that are in no file yet."""
        return int(self._waiting.num_rows)

    def add(self, uris: Sequence[str], outputs: Float32Array) -> None:
        """Add answers, outputs float32 (B, C) or (B, C + 1), and write the parts that they fill.

        Raises StorageError.
        """
        self._waiting = pa.concat_tables([self._waiting, to_table(uris, outputs, self._state)])
        while self._waiting.num_rows >= self._part_rows:
            self._write(self._part_rows)

    def flush(self) -> None:
        """Write the answers that wait, if there are any, as a shorter part.

        Raises StorageError.
        """
        if self._waiting.num_rows:
            self._write(self._waiting.num_rows)

    def _write(self, num_rows: int) -> None:
        uri = join_uri(self._output, f"part-{self._next_number:05d}.parquet")
        buffer = pa.BufferOutputStream()
        pq.write_table(self._waiting.slice(0, num_rows), buffer, compression="zstd", write_page_checksum=True)
        write_bytes(buffer.getvalue().to_pybytes(), uri)
        self._waiting = self._waiting.slice(num_rows)
        self._next_number += 1
        self.files.append(uri)
