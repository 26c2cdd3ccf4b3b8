"""The unreadable photos of one run: as JSON lines with their step, and as rows like the answers.

    _unreadable.jsonl     uri, step, error; readers of Parquet folders skip names with an underscore
    unreadable.parquet    the columns of the answers, all null but uri and error, so that the folder, read as
                          one table, contains each photo once

Both describe the latest run only, and are replaced as a whole: the next run tries these photos again.
"""

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from physiq_ray.checkpoint import ModelState
from physiq_ray.prediction.answer import answer_schema
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import join_uri, write_file

UNREADABLE_LIST, UNREADABLE_ROWS = "_unreadable.jsonl", "unreadable.parquet"
EXAMPLES = 3
ROW_GROUP = 10_000  # rows that are in memory at a time


class UnreadableList:
    """Collects unreadable photos in a local file until they are saved: they may be many."""

    def __init__(self, file: IO[str], output: str, state: ModelState) -> None:
        """file: empty, with a name under which it can be read again; output: a folder or s3:// prefix."""
        self.uri = join_uri(output, UNREADABLE_LIST)
        self.num_photos = 0
        self.examples: list[Unreadable] = []
        self._rows_uri = join_uri(output, UNREADABLE_ROWS)
        self._schema = answer_schema(state)
        self._file = file
        self._num_saved = -1

    def add(self, items: Iterable[Unreadable]) -> None:
        """Add unreadable photos."""
        for item in items:
            self.num_photos += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(item)
            self._file.write(json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n")

    def save(self) -> None:
        """Write both files, if this is the first call or photos were added since the last one.

        Raises StorageError.
        """
        if self._num_saved == self.num_photos:
            return
        self._file.flush()
        write_file(Path(self._file.name), self.uri)
        with tempfile.NamedTemporaryFile(suffix=".parquet") as rows:
            self._write_rows(rows.name)
            write_file(Path(rows.name), self._rows_uri)
        self._num_saved = self.num_photos

    def _write_rows(self, path: str) -> None:
        with (
            Path(self._file.name).open(encoding="utf-8") as lines,
            pq.ParquetWriter(path, self._schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            while some := list(itertools.islice(lines, ROW_GROUP)):
                items = [json.loads(line) for line in some]
                known = {name: pa.array([item[name] for item in items]) for name in ("uri", "error")}
                columns = [
                    known.get(field.name, pa.nulls(len(items), field.type)).cast(field.type)
                    for field in self._schema
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
