"""Listings, labels and manifests made in memory, without a bucket or a label file."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from physiq_ray.labels import LABEL_SCHEMA, Labels
from physiq_ray.manifest import Manifest, match_photos, require_trainable
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Folder, Listing

POSES: Final = {1: "Front Lat Spread", 2: "Front Double Biceps", 7: "Back Lat Spread", 11: "Abs & Thighs"}
# Ten photos of each of two poses, key → content: with fewer, the report would name a thin pose.
PLENTY: Final = {f"{pose}-{number}.jpg": f"{pose} {number}" for pose in (1, 2) for number in range(10)}
PLENTY_LABELS: Final = [(key, int(key[0])) for key in PLENTY]


def list_photos(source: Bucket | Folder, photos: Mapping[str, str], num_others: int = 0) -> Listing:
    """Give the listing of photos of 100 bytes, key → content; equal contents have equal ETags."""
    base = f"s3://{source.name}" if isinstance(source, Bucket) else str(source.path)
    columns = [
        [f"{base}/{key}" for key in photos],
        [source.name] * len(photos),
        list(photos),
        [100] * len(photos),
        list(photos.values()),
        [datetime(2026, 1, 1, tzinfo=UTC)] * len(photos),
    ]
    return Listing(source, pa.table(columns, schema=LISTING_SCHEMA), num_others)


def list_bucket(name: str, *keys: str) -> Listing:
    """Give the listing of a bucket whose photos all differ."""
    return list_photos(Bucket(name), {key: f"{name} {key}" for key in keys})


def list_plenty(**more: str) -> Listing:
    """Give the listing of a bucket with the photos of PLENTY and more, key → content."""
    return list_photos(Bucket("checkins"), {**PLENTY, **more})


def labels_of(*records: tuple[Any, ...], **report: Any) -> Labels:
    """Give the labels of records (name, pose id) or (name, pose id, source)."""
    return _labels(("name", "pose_id", "source"), records, report)


def labels_with_groups(*records: tuple[Any, ...], **report: Any) -> Labels:
    """Give the labels of records (name, pose id), with a group, or with a group and a split."""
    return _labels(("name", "pose_id", "group", "split"), records, report)


def labels_with_sources(*records: tuple[str, str | None]) -> Labels:
    """Give labels of pose 1 from records (name, source)."""
    return labels_of(*((name, 1, source) for name, source in records))


def _labels(fields: tuple[str, ...], records: tuple[tuple[Any, ...], ...], report: dict[str, Any]) -> Labels:
    rows = [dict(zip(fields, record, strict=False)) for record in records]
    return Labels(pa.Table.from_pylist(rows, schema=LABEL_SCHEMA), **report)


def build_manifest(*args: Any, **options: Any) -> Manifest:
    """Call match_photos and refuse a manifest that cannot be used for training."""
    return require_trainable(match_photos(*args, **options))


def manifest_of_plenty(**additions: tuple[Any, ...]) -> Manifest:
    """Build the manifest of PLENTY; additions give some labels a group, or a group and a split, by key."""
    records = [(key, pose, *additions.get(key, ())) for key, pose in PLENTY_LABELS]
    return build_manifest([list_plenty()], labels_with_groups(*records), POSES)


def column_by_key(manifest: Manifest, column: str) -> dict[str, Any]:
    """Give one column of a manifest by the photos' keys."""
    return dict(zip(manifest.table["key"].to_pylist(), manifest.table[column].to_pylist(), strict=True))


def poses_by_key(manifest: Manifest) -> dict[str, int]:
    """Give the pose ids of a manifest by the photos' keys."""
    return column_by_key(manifest, "pose_id")
