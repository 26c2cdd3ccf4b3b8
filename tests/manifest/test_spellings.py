"""Each spelling of the table means the same object to audit, train and cleanse, against a real S3 server."""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from spellings import BUCKET, SPELLINGS, Spelling

from physiq_ray import storage
from physiq_ray.cleanse import plan_cleanse
from physiq_ray.cli import main
from physiq_ray.config import load_settings
from physiq_ray.errors import quoted
from physiq_ray.labels import LABEL_SCHEMA, Labels
from physiq_ray.manifest import NamedPhotos, collect_manifest, find_labelled
from physiq_ray.storage import Bucket, list_sources

POSES = {1: "Front Lat Spread", 7: "Back Lat Spread"}
# So many that the shares of unmatched labels and of photos to delete stay below cleanse's limits.
PLAIN = {f"plain/{number:03d}-{pose}.jpg": pose for pose in (1, 7) for number in range(200)}


class Results(NamedTuple):
    """The result of each tool: keys of photos, and the audit's JSON."""

    trained: set[str]
    deletable: set[str]
    named: NamedPhotos
    keys: list[str]
    audit: dict[str, Any]


@pytest.fixture(
    scope="session"
)  # pytest-xdist may leave and re-enter this module, but the bucket can be created once
def results(s3: Any, s3_direct: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    storage.forget_clients()
    folder = tmp_path_factory.mktemp("spellings")
    s3_direct.create_bucket(Bucket=BUCKET)
    keys = [*PLAIN, *(key for spelling in SPELLINGS for key in sorted(spelling.all_of("keys")))]
    assert len(set(keys)) == len(keys)

    def put(key: str) -> None:
        s3_direct.put_object(Bucket=BUCKET, Key=key, Body=key.encode())

    put(keys[0])
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, keys[1:]))
    records = [*PLAIN.items(), *((spelling.label, 7) for spelling in SPELLINGS)]
    labels_file, poses_file = folder / "labels.json", folder / "poses.json"
    labels_file.write_text(json.dumps([{"s3Filename": name, "poseId": pose} for name, pose in records]))
    poses_file.write_text(json.dumps([{"id": pose, "name": name} for pose, name in POSES.items()]))
    files = {"labels": str(labels_file), "poses": str(poses_file)}

    settings = load_settings({"sources": [f"s3://{BUCKET}"], **files}, environment={})
    manifest = collect_manifest(settings, POSES)
    labels = Labels(
        pa.Table.from_pylist([{"name": name, "pose_id": pose} for name, pose in records], schema=LABEL_SCHEMA)
    )
    listings = list_sources([Bucket(BUCKET)])
    (named,) = find_labelled(listings, labels, POSES, {})
    assert named is not None
    assert listings[0].table is not None
    plan = plan_cleanse(listings, labels, POSES, now=datetime.now(UTC) + timedelta(days=2))
    assert plan.problems == ()
    out = folder / "audit.json"
    args = ["audit", "--sources", f"s3://{BUCKET}", "--labels", files["labels"], "--poses", files["poses"]]
    yield Results(
        set(manifest.table["key"].to_pylist()),
        set(plan.buckets[0].table["key"].to_pylist()),
        named,
        listings[0].table["key"].to_pylist(),
        run_audit(args, out),
    )
    storage.forget_clients()


def run_audit(args: list[str], out: Path) -> dict[str, Any]:
    """Run the command with --json."""
    with out.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        assert main([*args, "--json"]) == 0
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


each = pytest.mark.parametrize("spelling", SPELLINGS, ids=[ascii(spelling.label) for spelling in SPELLINGS])


def test_the_table_has_at_least_thirty_spellings() -> None:
    assert len({spelling.label for spelling in SPELLINGS}) == len(SPELLINGS) >= 30


@pytest.mark.slow
@each
def test_training_uses_the_photo_that_the_label_means(results: Results, spelling: Spelling) -> None:
    assert results.trained & spelling.all_of("keys") == spelling.all_of("means")


@each
def test_cleanse_keeps_photos_that_the_label_may_mean_or_that_resemble_it(
    results: Results, spelling: Spelling
) -> None:
    keys, kept = spelling.all_of("keys"), spelling.all_of("kept")
    labelled = dict(zip(results.keys, results.named.is_labelled.to_pylist(), strict=True))
    resembles = dict(zip(results.keys, results.named.resembles.to_pylist(), strict=True))
    protected = spelling.all_of("means") | spelling.all_of("conflict")

    assert {key for key in keys if labelled[key]} == protected
    assert {key: resembles[key] for key in keys if resembles[key]} == dict.fromkeys(kept, spelling.label)
    assert not results.deletable & protected
    assert results.deletable & keys >= keys - protected - kept


@pytest.mark.slow
@each
def test_audit_reports_unmatched_and_ambiguous_labels(results: Results, spelling: Spelling) -> None:
    found, has_photo = results.audit, bool(spelling.means or spelling.conflict)

    assert (spelling.label in found["labels_without_photo"]) == (not has_photo)
    assert (spelling.label in found["ambiguous"]) == bool(spelling.conflict)
    assert (spelling.label in results.named.unmatched) == (
        not has_photo and "elsewhere.s3." not in spelling.label
    )
    for key in spelling.all_of("keys"):
        sentences = [line for line in found["conflicts"] if line.startswith(quoted(f"s3://{BUCKET}/{key}"))]
        assert len(sentences) == (key in spelling.conflict)


def test_audit_counts_labels_that_spell_the_name_differently(results: Results) -> None:
    shared = results.audit["shared_names"]

    assert results.audit["loose"]["count"] == 32
    assert "'c01%20pose%201.jpg' means 's3://spellings/c01 pose 1.jpg'" in results.audit["loose"]["examples"]
    assert shared == {"count": 1, "examples": ["'a03.jpg': 2 photos"]}
    assert results.audit["conflicts"][0].endswith("may mean this photo or another, and names neither exactly")
    assert results.named.num_labels == len(PLAIN) + len(SPELLINGS) - 1  # one label names another bucket
