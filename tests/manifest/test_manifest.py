import io
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from building import PLENTY, PLENTY_LABELS, POSES, build_manifest, labels_of, list_plenty, manifest_of_plenty

from physiq_ray.errors import DataError
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest


def test_the_two_splits_together_are_the_manifest() -> None:
    manifest = build_manifest([list_plenty()], labels_of(*PLENTY_LABELS), POSES)

    train, validation = manifest.split("train"), manifest.split("validation")

    assert (train.num_rows, validation.num_rows) == (16, 4)
    assert Counter(validation["pose_id"].to_pylist()) == {1: 2, 2: 2}
    assert sorted((train["uri"].to_pylist()) + validation["uri"].to_pylist()) == sorted(
        f"s3://checkins/{key}" for key in PLENTY
    )


def test_a_manifest_is_equal_after_it_was_written_and_read() -> None:
    manifest = build_manifest([list_plenty()], labels_of(*PLENTY_LABELS), POSES)

    read = Manifest.from_parquet(manifest.to_parquet(), name="manifest.parquet")

    assert read.table.equals(manifest.table)
    assert read.class_mapping == manifest.class_mapping
    assert read.split("validation").equals(manifest.split("validation"))


def test_a_manifest_with_test_photos_is_equal_after_it_was_written_and_read() -> None:
    manifest = manifest_of_plenty(**{"1-0.jpg": (None, "test")})

    read = Manifest.from_parquet(manifest.to_parquet(), name="m")

    assert read.table.equals(manifest.table)
    assert read.split("test")["key"].to_pylist() == ["1-0.jpg"]


def test_photos_of_no_known_pose_are_written_and_read() -> None:
    labels = labels_of(*PLENTY_LABELS, ("rest.jpg", None))
    manifest = build_manifest([list_plenty(**{"rest.jpg": "rest"})], labels, POSES)

    read = Manifest.from_parquet(manifest.to_parquet(), name="m")

    assert read.table.equals(manifest.table)
    assert read.no_pose.equals(manifest.no_pose)
    assert read.no_pose["key"].to_pylist() == ["rest.jpg"]
    assert read.buckets == ["checkins"]


def test_a_limit_keeps_each_photo_in_its_split_and_the_splits_proportions() -> None:
    nulls = [(f"rest-{number}.jpg", None) for number in range(9)]
    listing = list_plenty(**{name: name for name, _ in nulls})
    manifest = build_manifest([listing], labels_of(*PLENTY_LABELS, *nulls), POSES)

    limited = manifest.limited(5, seed=3)

    rows = manifest.table.to_pylist()
    assert all(row in rows for row in limited.table.to_pylist())
    counts = Counter(zip(*(limited.table[name].to_pylist() for name in ("pose_id", "split")), strict=True))
    assert counts == {(1, "train"): 4, (1, "validation"): 1, (2, "train"): 4, (2, "validation"): 1}
    assert limited.no_pose.num_rows == 5
    assert limited.class_mapping == manifest.class_mapping
    assert limited.table.equals(limited.table.sort_by("uri"))
    assert limited.table.equals(manifest.limited(5, seed=3).table)
    assert not limited.table.equals(manifest.limited(5, seed=4).table)


def test_a_limit_above_all_counts_keeps_everything() -> None:
    manifest = build_manifest([list_plenty()], labels_of(*PLENTY_LABELS), POSES)

    assert manifest.limited(10, seed=3).table.equals(manifest.table)


def parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "runs/m.parquet: not a manifest in Parquet: "),
        (b"uri,bucket,key\n", "runs/m.parquet: not a manifest in Parquet: "),
        (parquet(MANIFEST_SCHEMA.empty_table())[:-9], "runs/m.parquet: not a manifest in Parquet: "),
        (
            parquet(MANIFEST_SCHEMA.empty_table()),
            "runs/m.parquet: expected a manifest with the columns uri, bucket, key, size, etag, pose_id, "
            "class_index, group, split, got uri, bucket, key, size, etag, pose_id, class_index, group, split "
            "with 0 rows",
        ),
        (
            parquet(pa.table({"uri": ["a"], "label": [1]})),
            "runs/m.parquet: expected a manifest with the columns uri, bucket, key, size, etag, pose_id, "
            "class_index, group, split, got uri, label with 1 rows",
        ),
    ],
)
def test_a_file_that_is_not_a_manifest_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Manifest.from_parquet(data, name="runs/m.parquet")

    assert str(caught.value).startswith(message)


def manifest_with(column: str, values: dict[int, object]) -> bytes:
    """Give the bytes of a manifest in which some rows of one column are replaced."""
    rows = build_manifest([list_plenty()], labels_of(*PLENTY_LABELS), POSES).table.to_pylist()
    for row, value in values.items():
        rows[row][column] = rows[0]["uri"] if value == "first" else value
    return parquet(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (manifest_with("pose_id", {0: None}), "1 rows have no pose_id"),
        (
            manifest_with("split", {1: "tests"}),
            "split must be one of 'train', 'validation', 'test', got ['tests']",
        ),
        (
            manifest_with(
                "split", {row: "test" if row % 2 else "train" for row in range(len(PLENTY_LABELS))}
            ),
            "no photo is in split 'validation'",
        ),
        (
            manifest_with("split", dict.fromkeys(range(len(PLENTY_LABELS)), "train")),
            "all photos are in one split, 'train'",
        ),
        (manifest_with("group", {0: None}), "1 rows have no group"),
        (manifest_with("class_index", {3: None}), "1 rows have no class_index"),
        (manifest_with("uri", {1: "first"}), "some uris occur twice"),
        (manifest_with("class_index", {0: 7}), "class_index does not number the poses 1, 2 from 0"),
    ],
)
def test_an_edited_manifest_that_contradicts_itself_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        Manifest.from_parquet(data, name="m.parquet")

    assert str(caught.value) == f"m.parquet: {problem}; build the manifest again"
