"""The manifest: one row per usable photo, the class mapping, and the report of what is not used.

Photos that a person labelled as no known pose are in a table of their own: nothing is trained with them. In
the saved file they are rows without pose_id and class_index.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from physiq_ray.columns import widened
from physiq_ray.constants import SPLITS, TRAIN, VALIDATION
from physiq_ray.errors import DataError
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest.report import ManifestReport

MANIFEST_SCHEMA = pa.schema(
    [
        ("uri", pa.large_string()),
        ("bucket", pa.large_string()),
        ("key", pa.large_string()),
        ("size", pa.int64()),  # bytes
        ("etag", pa.large_string()),
        ("pose_id", pa.int32()),
        ("class_index", pa.int32()),
        ("group", pa.large_string()),
        ("split", pa.large_string()),
    ]
)
MANIFEST_FILE = "manifest.parquet"  # among the files of a run


@dataclass(frozen=True)
class Manifest:
    """The photos of one run, as tables of MANIFEST_SCHEMA sorted by uri; texts have the type large_string.

    no_pose: the photos of no known pose, in the splits "validation" and "test".
    """

    table: pa.Table
    class_mapping: ClassMapping
    report: ManifestReport = field(default_factory=lambda: ManifestReport(()))
    no_pose: pa.Table = field(default_factory=MANIFEST_SCHEMA.empty_table)

    @property
    def buckets(self) -> list[str]:
        """The buckets and folders of the photos."""
        names = pa.concat_tables([self.table.select(["bucket"]), self.no_pose.select(["bucket"])])
        return list(names["bucket"].unique().to_pylist())

    def split(self, name: str) -> pa.Table:
        """Return the rows of "train", "validation" or "test"."""
        return self.table.filter(pc.equal(self.table["split"], name))

    def limited(self, most: int, seed: int) -> "Manifest":
        """Keep at most `most` photos of each pose, and of no known pose; the seed chooses them.

        Each photo stays in its split, and the splits of a pose keep their proportions, with at least one
        photo each. So a model that is trained on the rest has not seen the other photos of validation and
        test. most: at least the number of splits.
        """
        rng = np.random.default_rng(seed)
        return replace(
            self, table=_draw_rows(self.table, most, rng), no_pose=_draw_rows(self.no_pose, most, rng)
        )

    def count(self, uris: Sequence[str], split: str) -> int:
        """Count the uris that are in a split."""
        found = pc.is_in(pa.array(uris, pa.large_string()), value_set=self.split(split)["uri"])
        return int(pc.sum(found, min_count=0).as_py())

    def to_parquet(self) -> bytes:
        """Serialise the tables; the report is not part of it."""
        sink = io.BytesIO()
        pq.write_table(pa.concat_tables([self.table, self.no_pose]), sink)
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes, *, name: str) -> "Manifest":
        """Read a table that `to_parquet` wrote. name: names the file in errors.

        Raises DataError: it is not Parquet, has other columns or no rows, or contradicts itself.
        """
        try:
            table = widened(pq.read_table(io.BytesIO(data)))  # earlier versions wrote string
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{name}: not a manifest in Parquet: {error}") from error
        if not table.schema.equals(MANIFEST_SCHEMA) or table.num_rows == 0:
            raise DataError(
                f"{name}: expected a manifest with the columns {', '.join(MANIFEST_SCHEMA.names)}, "
                f"got {', '.join(table.schema.names)} with {table.num_rows} rows"
            )
        is_posed = pc.or_(table["pose_id"].is_valid(), table["class_index"].is_valid())
        table, no_pose = table.filter(is_posed), table.filter(pc.invert(is_posed))
        if problem := _find_contradiction(table, no_pose):
            raise DataError(f"{name}: {problem}; build the manifest again")
        mapping = ClassMapping.of_poses(pc.unique(table["pose_id"]).to_pylist())
        return cls(table, mapping, no_pose=no_pose)


def _draw_rows(table: pa.Table, most: int, rng: np.random.Generator) -> pa.Table:
    """Keep at most `most` rows of each pose."""
    poses = table["pose_id"].to_numpy()
    splits = pc.index_in(table["split"], pa.array(SPLITS)).to_numpy()
    kept = []
    for pose_id in table["pose_id"].unique().to_pylist():
        is_pose = poses == pose_id if pose_id is not None else np.isnan(poses)
        of_split = [np.flatnonzero(is_pose & (splits == split)) for split in range(len(SPLITS))]
        parts = [rows for rows in of_split if len(rows)]
        total, left = sum(map(len, parts)), most
        for rows in reversed(parts):  # the first one, usually training, gets what rounding leaves
            size = left if rows is parts[0] else max(1, most * len(rows) // total)
            kept.append(rng.choice(rows, min(len(rows), size), replace=False))
            left -= size
    return table.take(np.sort(np.concatenate(kept))) if kept else table


def _find_contradiction(table: pa.Table, no_pose: pa.Table) -> str | None:
    """Describe the first contradiction in tables that may have been changed, None if there is none."""
    every = pa.concat_tables([table, no_pose])
    for column in table.schema.names:
        rows = table if column in ("pose_id", "class_index") else every
        if rows[column].null_count:
            return f"{rows[column].null_count} rows have no {column}"
    if others := set(pc.unique(every["split"]).to_pylist()) - set(SPLITS):
        return f"split must be one of {', '.join(map(repr, SPLITS))}, got {sorted(others)}"
    splits = set(pc.unique(table["split"]).to_pylist())
    if not splits:
        return "no photo has a pose"
    if len(splits) < 2:
        return f"all photos are in one split, {table['split'][0].as_py()!r}"
    if missing := {TRAIN, VALIDATION} - splits:
        return f"no photo is in split {missing.pop()!r}"
    if pc.count_distinct(every["uri"]).as_py() < every.num_rows:
        return "some uris occur twice"
    mapping = ClassMapping.of_poses(pc.unique(table["pose_id"]).to_pylist())
    expected = pc.index_in(table["pose_id"], pa.array(mapping.pose_ids, pa.int32()))
    if not pc.all(pc.equal(expected, table["class_index"])).as_py():
        return f"class_index does not number the poses {', '.join(mapping.classes)} from 0"
    return None
