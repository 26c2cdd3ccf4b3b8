"""Take the photos out of a file's bytes: rows of Parquet, or lines of JSON."""

import io
import json
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from physiq_ray.erase.choose import Photos
from physiq_ray.errors import StorageError
from physiq_ray.labels.merge import NAME_KEY


class Rest(NamedTuple):
    """A file without the traces, None if nothing else was in it, and the number of traces."""

    data: bytes | None
    num_removed: int


def read_rows(data: bytes, photos: Photos) -> tuple[pa.Table, pa.BooleanArray]:
    """Read Parquet, and tell for each row whether it is about one of the photos.

    The column uri decides; with size and etag, so does the content. Raises StorageError: it is not Parquet.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"not readable as Parquet: {' '.join(str(error).split())}") from error
    columns = [
        table[name].to_pylist() if name in table.column_names else [None] * table.num_rows
        for name in ("uri", "size", "etag")
    ]
    return table, pa.array([photos.holds(*values) for values in zip(*columns, strict=True)], pa.bool_())


def drop_rows(data: bytes, photos: Photos) -> Rest:
    """Take rows out of a Parquet file; other rows, schema and metadata stay. Raises StorageError."""
    table, is_held = read_rows(data, photos)
    if not is_held.true_count:
        return Rest(data, 0)
    sink = io.BytesIO()
    kept = table.filter(pa.array([not held for held in is_held.to_pylist()]))
    pq.write_table(kept, sink, compression="zstd", write_page_checksum=True)
    return Rest(sink.getvalue(), is_held.true_count)


def drop_lines(data: bytes, photos: Photos) -> Rest:
    """Take lines out of JSON lines with the key uri, and perhaps size, etag and moved_to.

    In a journal of `review`, the key is that of a label record. In a journal of `cleanse`, a line without the
    content follows one of the same uri that has it.
    """
    kept, uris = [], set[str]()
    lines = data.splitlines(keepends=True)
    for line in lines:
        record = read_json(line)
        uri = str(record.get("uri") or record.get(NAME_KEY))
        if photos.holds(uri, record.get("size"), record.get("etag")) or photos.holds(record.get("moved_to")):
            uris.add(uri)
        if uri not in uris:
            kept.append(line)
    return Rest(b"".join(kept) or None, len(lines) - len(kept))


def read_json(data: bytes) -> dict[str, Any]:
    """Read one JSON object; anything else, such as an incomplete line, is empty."""
    try:
        record = json.loads(data)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
