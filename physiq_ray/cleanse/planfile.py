"""Plan files: one line for each photo that would be removed, to be reviewed and applied later."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from physiq_ray.cleanse.plan import CleansePlan
from physiq_ray.errors import CleanseError
from physiq_ray.storage import LISTING_SCHEMA, is_photo, split_uri


def format_plan(plan: CleansePlan) -> bytes:
    """Give the JSON lines of a plan file: uri, size in bytes, etag, modified (ISO 8601)."""
    rows = (row for bucket in plan.buckets for row in bucket.table.to_pylist())
    lines = [
        json.dumps(
            {
                "uri": row["uri"],
                "size": row["size"],
                "etag": row["etag"],
                "modified": row["modified"].isoformat(),
            },
            ensure_ascii=False,
        )
        for row in rows
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def read_plan(path: Path) -> pa.Table:
    """Read a plan file to a table of LISTING_SCHEMA.

    Raises CleanseError: no such file, or a line that `format_plan` does not write. Nothing of a damaged plan
    is applied.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CleanseError(f"{path}: the plan cannot be read: {error}") from error
    rows: dict[str, tuple[Any, ...]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            uri, size, etag = record["uri"], record["size"], record["etag"]
            modified = datetime.fromisoformat(record["modified"]).astimezone(UTC)
            bucket, key = split_uri(uri)
            is_right = uri.startswith("s3://") and is_photo(key) and type(size) is int and etag.strip()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad_line(path, number, line) from error
        if not is_right or uri in rows:
            raise _bad_line(path, number, line)
        rows[uri] = (uri, bucket, key, size, etag, modified)
    columns = list(zip(*rows.values(), strict=True)) or [()] * len(LISTING_SCHEMA)
    return pa.table([list(column) for column in columns], schema=LISTING_SCHEMA)


def _bad_line(path: Path, number: int, line: str) -> CleanseError:
    return CleanseError(
        f'{path}: line {number}: expected one photo, {{"uri": "s3://…", "size": …, "etag": "…", '
        f'"modified": "…"}}, and each photo once; got {line[:200]}; write a new plan with --plan'
    )
