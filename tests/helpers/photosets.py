"""Photos on disk, and a saved manifest that lists them."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest

Rows = Sequence[tuple[int | None, str]]  # for each photo: pose id (None: no known pose), split


def save_manifest(folder: Path, photos: Sequence[bytes], rows: Rows) -> str:
    """Write the photos and their manifest into a folder; each photo is its own group.

    Gives the path of the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mapping = ClassMapping.of_poses({pose_id for pose_id, _ in rows if pose_id is not None})
    lines = []
    for number, (data, (pose_id, split)) in enumerate(zip(photos, rows, strict=True)):
        path = folder / f"{number}.jpeg"
        path.write_bytes(data)
        lines.append(
            {
                **{"uri": str(path), "bucket": str(folder), "key": path.name},
                **{"size": len(data), "etag": str(number), "pose_id": pose_id},
                "class_index": None if pose_id is None else mapping.pose_ids.index(pose_id),
                **{"group": str(number), "split": split},
            }
        )
    posed, nulls = (
        pa.Table.from_pylist([line for line in lines if (line["pose_id"] is None) is none], MANIFEST_SCHEMA)
        for none in (False, True)
    )
    path = folder / "manifest.parquet"
    path.write_bytes(Manifest(posed, mapping, no_pose=nulls).to_parquet())
    return str(path)
