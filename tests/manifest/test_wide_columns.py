"""Columns of more than 2 GiB of text: the limit of Arrow's type `string`, whose offsets have 32 bits.

35 million photos reach it with usual names; here, a thousand photos with long names do.
"""

import io
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from building import PLENTY_LABELS, POSES, build_manifest, labels_of, list_bucket, list_plenty

from physiq_ray.cleanse.plan import RESEMBLING_SCHEMA
from physiq_ray.labels import LABEL_SCHEMA, NAMED_SCHEMA
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest, find_labelled, match_photos
from physiq_ray.manifest.match import concat_photos, match_labels
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Listing
from physiq_ray.storage.history import HISTORY_SCHEMA

SCHEMAS = (LISTING_SCHEMA, HISTORY_SCHEMA, LABEL_SCHEMA, NAMED_SCHEMA, MANIFEST_SCHEMA, RESEMBLING_SCHEMA)


def test_no_table_of_photos_or_labels_has_32_bit_offsets():
    kinds = {str(field.type) for schema in SCHEMAS for field in schema}
    assert "large_string" in kinds
    assert kinds.isdisjoint({"string", "binary"})


def test_no_column_of_the_match_has_32_bit_offsets():
    listings = [
        list_bucket("checkins", "ann/a.jpg", "b+1.JPG", "é.jpg", "c.jpg"),
        list_bucket("two", "d.jpg"),
    ]
    labels = labels_of(
        ("a.jpg", 1), ("b 1.jpg", 2), ("e\u0301.jpg", 1), ("C.jpeg", 1), ("https://x.y/z.jpg", 1)
    )
    matches = match_labels(listings, concat_photos(listings), labels, POSES, {"s": "s3://checkins"})
    assert matches.likeness is not None
    read = (matches.likeness.labels, matches.likeness.photos)
    columns = [
        *(matches.names.name, matches.names.scope, matches.names.text, matches.scope),
        *(column for readings in read for column in (readings.text, readings.bucket)),
        *(named.resembles for named in find_labelled(listings, labels, POSES, {}) if named is not None),
    ]
    assert {str(column.type) for column in columns} == {"large_string"}


def test_a_manifest_of_an_earlier_version_is_read():
    manifest = build_manifest([list_plenty()], labels_of(*PLENTY_LABELS), POSES)
    narrow = pa.schema(
        [
            (field.name, pa.string() if field.type == pa.large_string() else field.type)
            for field in MANIFEST_SCHEMA
        ]
    )
    file = io.BytesIO()
    pq.write_table(manifest.table.cast(narrow), file)
    assert pq.read_schema(io.BytesIO(file.getvalue())) == narrow

    read = Manifest.from_parquet(file.getvalue(), name="m")

    assert read.table.equals(manifest.table)
    assert read.split("train").schema == MANIFEST_SCHEMA


@pytest.mark.long
@pytest.mark.timeout(300)
def test_more_than_2_gib_of_keys_are_matched_grouped_and_split():
    folder, num_photos = 2**20, 1100  # 1.1 GiB in each of two buckets, which share the memory
    text = np.full((num_photos, folder + 8), ord("x"), np.uint8)
    names = [f"{number:03d}.jpg"[-8:].rjust(8, "0") for number in range(num_photos)]
    text[:, -9] = ord("/")
    text[:, -8:] = np.frombuffer("".join(names).encode(), np.uint8).reshape(num_photos, 8)
    offsets = np.arange(num_photos + 1, dtype=np.int32) * (folder + 8)
    keys = pa.StringArray.from_buffers(num_photos, pa.py_buffer(offsets), pa.py_buffer(text.reshape(-1)))
    now = [datetime(2026, 1, 1, tzinfo=UTC)] * num_photos
    listings = [
        Listing(
            Bucket(bucket),
            pa.table(
                [
                    [f"s3://{bucket}/…/{name}" for name in names],
                    [bucket] * num_photos,
                    keys.cast(LISTING_SCHEMA.field("key").type),
                    [1] * num_photos,
                    [f"{bucket} {name}" for name in names],
                    now,
                ],
                schema=LISTING_SCHEMA,
            ),
        )
        for bucket in ("one", "two")
    ]
    labels = labels_of(*((name, 1 + number % 2) for number, name in enumerate(names[1:])))

    manifest = match_photos(listings, labels, {1: "a", 2: "b"}, group_pattern=r"(\d+)\.jpg$")

    assert manifest.table.num_rows == 2 * (num_photos - 1)
    assert manifest.table["key"].nbytes > 2**31
    assert [source.labelled for source in manifest.report.sources] == [num_photos - 1] * 2
    copies = manifest.table.select(["pose_id", "group", "split"])
    assert copies.slice(0, num_photos - 1).equals(copies.slice(num_photos - 1))  # a group is in both buckets
