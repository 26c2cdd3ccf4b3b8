"""An audit reads photos as a training does, and leaves them where the training finds them."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ray.exceptions import RayError

from physiq_ray.auditing import audit_manifest
from physiq_ray.config import Settings
from physiq_ray.errors import ClusterError, SettingError
from physiq_ray.images import decode_square
from physiq_ray.ingest import CacheSettings, StoredPhotos, checking, checks, open_splits
from physiq_ray.ingest.tasks import keys_of
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.near import HASH_PX, load_hash
from physiq_ray.prepared import CacheFolder
from physiq_ray.storage import current_access, list_sources, parse_source

SIZE = 64


@pytest.fixture
def settings(tmp_path):
    return Settings(cache="disk", cache_dir=str(tmp_path / "cache"), image_size=SIZE)


@pytest.fixture
def bucket(ray_local, make_bucket, make_photo):
    """Make a bucket with 30 photos of two poses, of which one is truncated and one is no photo."""
    photos = {f"{number:02d}.jpeg": make_photo(seed=number) for number in range(30)}
    return make_bucket({**photos, "07.jpeg": photos["07.jpeg"][:900], "21.jpeg": b"no photo"})


def listed(bucket, *, num_test=0):
    """List a bucket into a manifest: the last num_test photos for the test, every fifth for validation."""
    [listing] = list_sources([parse_source(f"s3://{bucket}")])
    rows = [
        {
            **{name: row[name] for name in ("uri", "bucket", "key", "size", "etag")},
            **{"pose_id": 1 + number % 2, "class_index": number % 2, "group": row["key"]},
            "split": "test" if number >= 30 - num_test else "train" if number % 5 else "validation",
        }
        for number, row in enumerate(listing.table.sort_by("key").to_pylist())
    ]
    return Manifest(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), ClassMapping.of_poses([1, 2]))


def check(manifest, settings, *, notes=None, reader=None, near_duplicates=False):
    note = (lambda _: None) if notes is None else notes.append
    read_photos = checking(settings, lambda: None, reader=reader, note=note)
    return audit_manifest(manifest, {}, read_photos=read_photos, near_duplicates=near_duplicates).check


def open_for_training(manifest, settings):
    return open_splits(
        {split: manifest.split(split) for split in ("train", "validation")},
        CacheSettings(settings.cache, settings.cache_dir, settings.cache_limit_gib),
        image_size=settings.image_size,
        store_bytes=2**30,
    )


def faults(found):
    return [(photo.uri[-7:], photo.step) for photo in found]


def test_a_training_after_an_audit_fetches_and_decodes_only_the_faulty_photos_again(
    s3, read_bucket, bucket, settings
):
    manifest, notes = listed(bucket), []
    before = s3.read_traffic(bucket).num_requests

    found = check(manifest, settings, notes=notes)

    assert s3.read_traffic(bucket).num_requests == before + 30
    assert found.num_checked == 30
    assert faults(found.unreadable) == [("07.jpeg", "decode"), ("21.jpeg", "decode")]
    assert "truncated" in found.unreadable[0].error
    assert notes == ["cache disk: 0 MiB of decoded photos"]

    opened = open_for_training(manifest, settings)

    assert s3.read_traffic(bucket).num_requests == before + 32
    unreadable = [item for part in opened.values() for _, item in part.unreadable]
    assert sorted(faults(unreadable)) == faults(found.unreadable)
    contents = read_bucket(bucket)
    for name, keys in (
        ("train", manifest.split("train")["key"]),
        ("validation", manifest.split("validation")["key"]),
    ):
        rows = np.arange(len(keys))
        for batch in opened[name].batches(rows, 8):
            for image, row in zip(batch.images, batch.rows.tolist(), strict=True):
                assert np.array_equal(image, decode_square(contents[keys[row].as_py()], size_px=SIZE))


def test_a_second_audit_reads_only_the_faulty_photos_and_reports_the_same(s3, bucket, settings):
    manifest = listed(bucket)
    first = check(manifest, settings)
    before = s3.read_traffic(bucket).num_requests

    assert check(manifest, settings) == first

    assert s3.read_traffic(bucket).num_requests == before + 2


def test_photos_that_a_training_would_not_keep_are_checked_and_not_kept(s3, bucket, settings):
    cache = CacheFolder(Path(settings.cache_dir), 2**40)
    for kind in ("none", "memory"):
        found = check(listed(bucket), settings.model_copy(update={"cache": kind}))
        assert (found.num_checked, len(found.unreadable)) == (30, 2)
    assert cache.uses() == []

    manifest = listed(bucket, num_test=10)  # a training does not read the photos of the test
    before = s3.read_traffic(bucket).num_requests
    found = check(manifest, settings)
    assert s3.read_traffic(bucket).num_requests == before + 30
    assert (found.num_checked, len(found.unreadable)) == (30, 2)
    kept = cache.find(keys_of(manifest.table), SIZE).places
    assert set(kept) == set(keys_of(manifest.table.slice(0, 20))) - set(keys_of(manifest.table.slice(7, 1)))


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_the_hashes_of_an_audit_are_those_of_the_groups_of_near_duplicates(
    ray_local, make_bucket, make_photo, settings, cache
):
    photos = {f"{number}.jpeg": make_photo(seed=number, size=(900, 700)) for number in range(8)}
    manifest = listed(make_bucket({**photos, "9.jpeg": b"no photo"}))
    settings = settings.model_copy(update={"cache": cache})
    image_hash = load_hash()
    expected = {
        row: image_hash(decode_square(data, size_px=HASH_PX)) for row, data in enumerate(photos.values())
    }

    for _ in range(2):  # the second time, the photos are in the cache
        found = dict(checking(settings, lambda: None)(manifest.table, True))
        assert found.pop(8).step == "decode"
        assert found == expected


def test_a_cache_that_becomes_full_does_not_end_the_check(ray_local, bucket, settings):
    """Stand in for a full disk: a file is in the place of the folder of shards."""
    cache = CacheFolder(Path(settings.cache_dir), 2**40)
    folder, stored = str(cache.folder(SIZE)), StoredPhotos(current_access())

    class Reader:  # inside a function, Ray sends its code
        def read(self, uri, etag):
            if Path(folder).is_dir():
                shutil.rmtree(folder, ignore_errors=True)
                Path(folder).write_text("")
            return stored.read(uri, etag)

    notes = []
    found = check(listed(bucket), settings, notes=notes, reader=Reader())

    assert (found.num_checked, len(found.unreadable)) == (30, 2)
    assert len(notes) == 2
    assert notes[1].startswith(f"cache_dir={settings.cache_dir}: File exists; give another cache_dir")
    assert notes[1].endswith("; all photos are checked, but not all are kept")


def test_a_cache_that_cannot_hold_the_photos_is_refused_before_any_is_read(s3, bucket, settings):
    manifest = listed(bucket)
    before = s3.read_traffic(bucket).num_requests
    with pytest.raises(SettingError, match=r"cache=disk: .* has room for 0 MiB"):
        check(manifest, settings.model_copy(update={"cache_limit_gib": 0.0001}))
    assert s3.read_traffic(bucket).num_requests == before
    # Photos for GPUs are prepared in memory or on disk; if neither has room, they can still be checked.
    small = {"cache": "gpu", "cache_limit_gib": 0.0001, "image_size": 1024}
    assert check(manifest, settings.model_copy(update=small)).num_checked == 30


def test_a_failure_of_ray_is_reported_in_one_sentence(bucket, settings, monkeypatch):
    def fail(*_args, **_options):
        raise RayError("a trace\nThe node is gone.\n")

    monkeypatch.setattr(checks, "read_in_tasks", fail)
    message = "^Ray failed while it read photos: The node is gone.; --debug shows more$"
    with pytest.raises(ClusterError, match=message):
        check(listed(bucket), settings)
