"""The truth table in manifest/match.py: labels decide the use of a photo, and whether cleanse deletes it."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from physiq_ray.cleanse import plan_cleanse
from physiq_ray.labels import Labels, load_labels
from physiq_ray.manifest import match
from physiq_ray.manifest.match import concat_photos, match_labels
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Listing

POSES = {1: "Front Lat Spread", 7: "Back Lat Spread"}
UNKNOWN_POSE = 99
LABELLED = ("labelled.jpg", 1)  # without a labelled photo, cleanse refuses the whole bucket
MASKS = ("is_usable", "is_known", "is_unusable", "is_conflict", "is_poseless")

Records = list[tuple[str, int | None]]

# Name of the row, key of the photo, other keys, label records, the five masks, deletable.
ROWS: list[tuple[str, str, list[str], Records, tuple[bool, ...], bool]] = [
    ("one label", "a.jpg", [], [("a.jpg", 7)], (True, True, False, False, False), False),
    (
        *("several that agree", "x/a.jpg", [], [("a.jpg", 7), ("x/a.jpg", 7)]),
        *((True, True, False, False, False), False),
    ),
    (
        *("several that differ", "x/a.jpg", [], [("a.jpg", 7), ("x/a.jpg", 1)]),
        *((False, True, False, True, False), False),
    ),
    ("poseId null", "a.jpg", [], [("a.jpg", None)], (False, True, False, False, True), False),
    (
        *("poseId null and a pose", "a.jpg", [], [("a.jpg", None), ("a.jpg", 7)]),
        *((False, True, False, True, False), False),
    ),
    (
        *("only unusable labels", "a.jpg", [], [("a.jpg", UNKNOWN_POSE)]),
        *((False, True, True, False, False), False),
    ),
    (
        *("usable and unusable labels", "a.jpg", [], [("a.jpg", UNKNOWN_POSE), ("a.jpg", 7)]),
        *((True, True, False, False, False), False),
    ),
    (
        *("possibly an ambiguous label", "x/front pose.jpg", ["y/front pose.jpg"], [("front%20pose.jpg", 7)]),
        *((False, True, False, True, False), False),
    ),
    ("only its folder's name", "7/a.jpg", [], [], (True, True, False, False, False), False),
    (
        *("a label unlike its folder", "7/a.jpg", [], [("a.jpg", 1)]),
        *((False, True, False, True, False), False),
    ),
    (
        *("none, like an unmatched label", "IMG-5001.jpg", [], [("img_5001.png", 7)]),
        *((False, False, False, False, False), False),
    ),
    ("none", "a.jpg", [], [], (False, False, False, False, False), True),
]
each_row = pytest.mark.parametrize(
    ("name", "key", "others", "records", "masks", "is_deletable"), ROWS, ids=[row[0] for row in ROWS]
)


def bucket_of(*keys: str) -> Listing:
    rows = [
        {
            **{"uri": f"s3://checkins/{key}", "bucket": "checkins", "key": key, "size": 100},
            **{"etag": f"etag of {key}", "modified": datetime(2026, 1, 1, tzinfo=UTC)},
        }
        for key in keys
    ]
    return Listing(Bucket("checkins"), pa.Table.from_pylist(rows, schema=LISTING_SCHEMA))


def labels_of(folder: Path, records: Records) -> Labels:
    path = folder / "labels.json"
    path.write_text(json.dumps([{"s3Filename": name, "poseId": pose} for name, pose in records]))
    return load_labels([path], POSES)


@each_row
def test_the_labels_of_a_photo_decide_its_use_and_its_deletion(
    tmp_path: Path,
    name: str,
    key: str,
    others: list[str],
    records: Records,
    masks: tuple[bool, ...],
    is_deletable: bool,
) -> None:
    listing = bucket_of(key, *others, LABELLED[0])
    labels = labels_of(tmp_path, [*records, LABELLED])

    matches = match_labels([listing], concat_photos([listing]), labels, POSES, {})
    plan = plan_cleanse(
        *([listing], labels, POSES),
        now=datetime(2026, 6, 1, tzinfo=UTC),
        max_delete_share=1.0,
        max_unmatched_share=1.0,
    )

    assert tuple(bool(getattr(matches, mask)[0]) for mask in MASKS) == masks
    assert plan.problems == ()
    deleted = plan.buckets[0].table["key"].to_pylist()
    assert deleted == ([key] if is_deletable else [])


@each_row
def test_the_documented_row_is_that_of_the_test(
    name: str, key: str, others: list[str], records: Records, masks: tuple[bool, ...], is_deletable: bool
) -> None:
    assert match.__doc__ is not None
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in match.__doc__.splitlines()]

    assert [name, *("yes" if is_set else "no" for is_set in (*masks, is_deletable))] in rows


def test_the_documented_table_has_no_other_rows() -> None:
    assert match.__doc__ is not None
    lines = [line for line in match.__doc__.splitlines() if line.startswith("|")]

    header = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    assert header == ["labels of the photo", *MASKS, "deletable"]
    assert len(lines) == 2 + len(ROWS)
