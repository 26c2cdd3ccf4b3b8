"""What the tools make of matches: sources that failed, prefixes, folders of buckets, test photos."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from building import build_manifest
from test_groups_and_splits import PLENTY, POSES, bucket, labels_of

from physiq_ray.audit import audit_manifest, describe
from physiq_ray.config import load_settings
from physiq_ray.constants import SCORED_SPLITS
from physiq_ray.errors import LabelError, UnreachableError
from physiq_ray.evaluation.candidates import Candidates
from physiq_ray.labels import LABEL_SCHEMA, Labels
from physiq_ray.manifest import collect_manifest, find_labelled
from physiq_ray.storage import Bucket, Folder, Listing
from physiq_ray.sync.sides import sorted_photos


def scoped(*records: tuple[str, str | None]) -> Labels:
    """Labels of pose 1: name and source."""
    rows = [{"name": name, "source": source, "pose_id": 1} for name, source in records]
    return Labels(pa.Table.from_pylist(rows, schema=LABEL_SCHEMA))


def test_labels_concern_the_bucket_that_they_name_or_all() -> None:
    one, two = bucket("a.jpg", "b 1.jpg", name="one"), bucket("a.jpg", name="two")
    labels = scoped(
        *(("a.jpg", "phone"), ("b%201.jpg", None), ("gone.jpg", None), ("lost.jpg", "phone")),
        *(("s3://two/away.jpg", None), ("s3://three/far.jpg", None)),
    )

    first, second = find_labelled([one, two], labels, POSES, {"phone": "one"})

    assert first is not None
    assert second is not None
    assert first.is_labelled.to_pylist() == [True, True]
    assert second.is_labelled.to_pylist() == [False]
    assert (first.num_labels, first.unmatched) == (4, ("gone.jpg", "lost.jpg"))
    assert (second.num_labels, second.unmatched) == (2, ("gone.jpg", "s3://two/away.jpg"))


def test_a_source_that_is_a_listed_bucket_s_name_means_that_bucket() -> None:
    one, two = bucket("a.jpg", name="one"), bucket("a.jpg", name="two")

    first, second = find_labelled(
        [one, two], scoped(("a.jpg", "two"), ("a.jpg", "one")), POSES, {"one": "two"}
    )

    assert first is not None
    assert second is not None
    assert first.is_labelled.to_pylist() == [False]
    assert second.is_labelled.to_pylist() == [True]


def test_a_bucket_of_a_label_is_never_another_one() -> None:
    one = bucket("a.jpg", "b.jpg", "c.jpg", name="one")
    labels = scoped(("a.jpg", "s3://one"), ("b.jpg", "s3://not-listed"), ("c.jpg", "s3://not-listed"))
    assert one.table is not None
    synced = one.table.set_column(1, "bucket", pa.array(["/photos/not-listed"] * 3))
    folder = Listing(Folder(Path("/photos/not-listed")), synced)

    [named] = find_labelled([one], labels, POSES, {"not-listed": "one"})
    assert named is not None
    assert named.is_labelled.to_pylist() == [True, True, True]
    [named] = find_labelled([one], labels, POSES, {})
    assert named is not None
    assert named.is_labelled.to_pylist() == [True, False, False]
    assert named.num_labels == 1
    [named] = find_labelled([folder], scoped(("a.jpg", "s3://not-listed"), ("b.jpg", "s3://old")), POSES, {})
    assert named is not None
    assert named.is_labelled.to_pylist() == [True, True, False]


def test_a_label_resembles_photos_of_its_bucket_or_of_one_that_may_have_moved() -> None:
    photos = bucket("x/A-1.png", "x/b_2.png", "x/c3.png", "x/d4.png", name="one")
    two = bucket("other.jpg", name="two")
    labels = scoped(
        *(("a1.jpg", None), ("B 2.jpg", "web"), ("s3://two/c3.jpg", None), ("s3://old/d4.jpg", None))
    )

    first, _ = find_labelled([photos, two], labels, POSES, {"web": "two"})

    assert first is not None
    assert first.resembles.to_pylist() == ["a1.jpg", None, None, "s3://old/d4.jpg"]


def test_labels_that_may_lie_in_a_failed_source_are_not_unmatched_but_still_protect() -> None:
    failed = Listing(Bucket("two"), error=UnreachableError("list s3://two: no answer"))

    first, second = find_labelled(
        [bucket("a-1.png", name="one"), failed], scoped(("a1.jpg", None)), POSES, {}
    )

    assert second is None
    assert first is not None
    assert first.unmatched == ()
    assert first.resembles.to_pylist() == ["a1.jpg"]


def test_a_name_below_the_prefix_means_that_key_unless_some_key_is_the_name() -> None:
    def below(prefix: str, *keys: str) -> Listing:
        return Listing(Bucket("one", prefix), bucket(*keys, name="one").table)

    listing = below("2026/", "2026/anna/a.jpg", "2026/2026/b.jpg", "2026/b.jpg", "2026/anna/c 1.jpg")
    labels = scoped(("anna/a.jpg", None), ("2026/b.jpg", None), ("anna/c%201.JPG", None))

    (named,) = find_labelled([listing], labels, POSES, {})

    assert named is not None
    assert named.is_labelled.to_pylist() == [True, False, True, True]
    both = [below("2025/", "2025/anna/a.jpg"), below("2026/", "2026/anna/a.jpg")]
    report = build_manifest([*both, bucket(*(name for name, _ in PLENTY))],
                            labels_of(*PLENTY, ("anna/a.jpg", 1)), POSES).report  # fmt: skip
    assert report.ambiguous == ("anna/a.jpg",)
    assert len(report.conflicts) == 2


def test_photos_of_one_name_in_two_folders_keep_the_pose_of_their_own_label() -> None:
    names = [name for name, _ in PLENTY]
    photos = bucket(*names, "anna/1.jpg", "bea/1.jpg", "cleo/1.jpg")

    manifest = build_manifest([photos], labels_of(*PLENTY, ("anna/1.jpg", 1), ("bea/1.jpg", 2)), POSES)

    poses = dict(zip(manifest.table["key"].to_pylist(), manifest.table["pose_id"].to_pylist(), strict=True))
    assert (poses["anna/1.jpg"], poses["bea/1.jpg"]) == (1, 2)
    assert "cleo/1.jpg" not in poses
    assert not manifest.report.conflicts


def test_two_spellings_of_different_pose_are_a_conflict_but_an_exact_name_wins() -> None:
    keys = [*(name for name, _ in PLENTY), "x 1.jpg", "y 1.jpg", "z 1.jpg"]
    labels = labels_of(
        *PLENTY,
        *(("x%201.jpg", 1), ("x+1.jpg", 2)),
        *(("y 1.jpg", 1), ("y%201.jpg", 2)),
        *(("z 1.jpg", 1), ("z%201.jpg", 1)),
    )

    manifest = build_manifest([bucket(*keys)], labels, POSES)

    poses = dict(zip(manifest.table["key"].to_pylist(), manifest.table["pose_id"].to_pylist(), strict=True))
    assert manifest.report.conflicts == ("'s3://checkins/x 1.jpg': labelled with different poses",)
    assert (poses["y 1.jpg"], poses["z 1.jpg"]) == (1, 1)
    assert manifest.report.labels_without_photo == ("y%201.jpg",)
    assert manifest.report.loose.count == 3


def test_test_photos_are_counted_sorted_and_evaluated_apart() -> None:
    records = [(name, pose, None, "test" if name[2] in "01" else None) for name, pose in PLENTY]
    listing = bucket(*(name for name, _ in PLENTY))
    modified = pa.array([0] * listing.table.num_rows, pa.timestamp("ms", tz="UTC"))
    position = listing.table.schema.get_field_index("modified")
    listing = Listing(listing.source, listing.table.set_column(position, "modified", modified))
    manifest = build_manifest([listing], labels_of(*records), POSES)

    audit = audit_manifest(manifest, POSES)
    folders = {photo.path.rpartition("/")[0] for photo in sorted_photos(manifest, [listing], 255)}

    assert [(pose.train, pose.validation, pose.test, pose.total) for pose in audit.poses] == [
        (6, 2, 2, 10)
    ] * 2
    assert next(line.split() for line in describe(audit) if "validation" in line.split()) == [
        *("pose", "train", "validation", "test", "share")
    ]
    assert folders == {"training/1", "training/2", "validation/1", "validation/2", "test/1", "test/2"}
    assert SCORED_SPLITS == ("validation", "train", "test", "all")
    assert Candidates(manifest, "", manifest).words("test") == "the test photos of the training"


def test_folders_named_after_poses_in_a_bucket_need_no_label_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_bucket: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    name = make_bucket({f"2026/{pose}/{number}.jpg": b"%d %d" % (pose, number)
                        for pose in (1, 2) for number in range(3)})  # fmt: skip
    settings = load_settings({"sources": [f"s3://{name}/2026"]}, environment={})

    assert collect_manifest(settings, POSES).table.num_rows == 6
    with pytest.raises(LabelError, match="no such labels file"):
        collect_manifest(load_settings({"sources": [f"s3://{name}"]}, environment={}), POSES)
    Path("labels.json").write_text(json.dumps([{"poseId": 2, "s3Filename": "2026/1/0.jpg"}]))
    told = load_settings({"sources": [f"s3://{name}/2026"], "labels": "labels.json"}, environment={})
    assert collect_manifest(told, POSES).report.conflicts == (
        f"'s3://{name}/2026/1/0.jpg': labelled with different poses",
    )
