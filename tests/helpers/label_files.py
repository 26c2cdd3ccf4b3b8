"""Label files in each form, and their content."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from physiq_ray.labels import Labels, load_labels

POSES = {1: "Front Lat Spread", 7: "Back Lat Spread"}

COLUMNS = ("s3Filename", "poseId", "source", "group", "split")
RECORDS: list[dict[str, Any]] = [
    {"s3Filename": "a.jpg", "poseId": 7, "source": "checkins", "group": "anna", "split": "train"},
    {"s3Filename": "é, b.jpg", "poseId": None, "source": None, "group": None, "split": None},
]
ROWS = [
    {"name": "a.jpg", "source": "checkins", "pose_id": 7, "group": "anna", "split": "train"},
    {"name": "é, b.jpg", "source": None, "pose_id": None, "group": None, "split": None},
]


def as_csv(records: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def as_parquet(records: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    kinds = [
        pa.string(),
        pa.float64(),
        pa.string(),
        pa.string(),
        pa.string(),
    ]  # pandas writes nullable ids as floats
    columns = {
        name: pa.array([record[name] for record in records], kind)
        for name, kind in zip(COLUMNS, kinds, strict=True)
    }
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def as_json(records: list[dict[str, Any]]) -> bytes:
    return json.dumps(records, ensure_ascii=False).encode()


def as_lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


FORMS = {"json": as_json, "jsonl": as_lines, "csv": as_csv, "parquet": as_parquet}


def load(path: Path, content: bytes, **columns: Any) -> Labels:
    path.write_bytes(content)
    return load_labels([path], POSES, **columns)


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def labels_of(path: Path, *records: Any) -> Labels:
    return load_labels([write(path, list(records))], POSES)
