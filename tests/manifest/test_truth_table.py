"""The truth table in manifest/match.py: labels decide the use of a photo, and whether cleanse deletes it."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from building import list_bucket

from physiq_ray.cleanse import plan_cleanse
from physiq_ray.labels import Labels, load_labels
from physiq_ray.manifest import match
from physiq_ray.manifest.match import concat_photos, match_labels

POSES = {1: "Front Lat Spread", 7: "Back Lat Spread"}
UNKNOWN_POSE = 99
LABELLED = ("labelled.jpg", 1)  # without a labelled photo, cleanse refuses the whole bucket
MASKS = ("is_usable", "is_known", "is_unusable", "is_conflict", "is_poseless")

Record = tuple[str, int | None]


@dataclass(frozen=True)
class Row:
    """A row of the table: the label records, the masks that are true, and whether cleanse may delete it.

    key: the photo. others: keys of other photos in the bucket.
    """

    name: str
    records: tuple[Record, ...]
    true: frozenset[str]
    is_deletable: bool = False
    key: str = "a.jpg"
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


USABLE = frozenset({"is_known", "is_usable"})
CONFLICT = frozenset({"is_known", "is_conflict"})
ROWS = (
    Row("one label", (("a.jpg", 7),), USABLE),
    Row("several that agree", (("a.jpg", 7), ("x/a.jpg", 7)), USABLE, key="x/a.jpg"),
    Row("several that differ", (("a.jpg", 7), ("x/a.jpg", 1)), CONFLICT, key="x/a.jpg"),
    Row("poseId null", (("a.jpg", None),), frozenset({"is_known", "is_poseless"})),
    Row("poseId null and a pose", (("a.jpg", None), ("a.jpg", 7)), CONFLICT),
    Row("only unusable labels", (("a.jpg", UNKNOWN_POSE),), frozenset({"is_known", "is_unusable"})),
    Row("usable and unusable labels", (("a.jpg", UNKNOWN_POSE), ("a.jpg", 7)), USABLE),
    Row(
        "possibly an ambiguous label",
        (("front%20pose.jpg", 7),),
        CONFLICT,
        key="x/front pose.jpg",
        others=("y/front pose.jpg",),
    ),
    Row("only its folder's name", (), USABLE, key="7/a.jpg"),
    Row("a label unlike its folder", (("a.jpg", 1),), CONFLICT, key="7/a.jpg"),
    Row("none, like an unmatched label", (("img_5001.png", 7),), frozenset(), key="IMG-5001.jpg"),
    Row("none", (), frozenset(), is_deletable=True),
)
each_row = pytest.mark.parametrize("row", ROWS, ids=str)


def labels_of(folder: Path, records: tuple[Record, ...]) -> Labels:
    path = folder / "labels.json"
    path.write_text(json.dumps([{"s3Filename": name, "poseId": pose} for name, pose in records]))
    return load_labels([path], POSES)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


@each_row
def test_the_labels_of_a_photo_decide_its_use_and_its_deletion(tmp_path: Path, row: Row) -> None:
    listing = list_bucket("checkins", row.key, *row.others, LABELLED[0])
    labels = labels_of(tmp_path, (*row.records, LABELLED))

    matches = match_labels([listing], concat_photos([listing]), labels, POSES, {})
    plan = plan_cleanse(
        *([listing], labels, POSES),
        now=datetime(2026, 6, 1, tzinfo=UTC),
        max_delete_share=1.0,
        max_unmatched_share=1.0,
    )

    assert {mask for mask in MASKS if getattr(matches, mask)[0]} == row.true
    assert plan.problems == ()
    deleted = plan.buckets[0].table["key"].to_pylist()
    assert deleted == ([row.key] if row.is_deletable else [])


@each_row
def test_each_row_is_in_the_documented_table(row: Row) -> None:
    masks = ["yes" if mask in row.true else "no" for mask in MASKS]

    assert match.__doc__ is not None
    assert [row.name, *masks, "yes" if row.is_deletable else "no"] in map(cells, match.__doc__.splitlines())


def test_the_documented_table_has_no_other_rows() -> None:
    assert match.__doc__ is not None
    lines = [line for line in match.__doc__.splitlines() if line.startswith("|")]

    assert cells(lines[0]) == ["labels of the photo", *MASKS, "deletable"]
    assert len(lines) == 2 + len(ROWS)
