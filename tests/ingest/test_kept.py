"""Prepared photos are equal from each kind of cache, and the next run finds those of the listed version."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from physiq_ray.errors import SettingError, StorageError
from physiq_ray.ingest import CacheSettings, StoredPhotos, in_use, keep_on_disk, open_photos, open_splits
from physiq_ray.prepared import CacheFolder, SharedCache, open_images, photo_keys
from physiq_ray.storage import current_access, list_sources, parse_source

SIZE = 64


def listed(*buckets):
    """List buckets as a manifest's columns that ingest reads."""
    import pyarrow as pa

    table = pa.concat_tables(
        [listing.table for listing in list_sources([parse_source(f"s3://{name}") for name in buckets])]
    ).sort_by("uri")
    labels = pa.array(np.arange(table.num_rows) % 3, pa.int32())
    return table.append_column("class_index", labels)


@pytest.fixture
def photos(make_photo):
    return {f"{number:02d}.jpeg": make_photo(seed=number) for number in range(20)}


@pytest.fixture
def cache(tmp_path):
    return CacheFolder(tmp_path / "cache", 2**40)


@pytest.fixture
def keep(ray_local, cache):
    """Give a function that keeps a table's photos in the cache."""

    def run(table, *, where=cache, size=SIZE):
        return keep_on_disk(table, where, image_size=size, reader=StoredPhotos(current_access()))

    return run


def keys_of_shard(number):
    return photo_keys([f"{number}-{row}" for row in range(100)], [1] * 100, ["v"] * 100)


def start_python(code, *args, **options):
    """Start code that may import this file, in a process of its own."""
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    return subprocess.Popen([sys.executable, "-c", path + code, *map(str, args)], **options)


def requests(s3, *buckets):
    return sum(s3.read_traffic(bucket).num_requests for bucket in buckets)


def test_every_kind_of_cache_gives_the_same_batches(ray_local, make_bucket, photos, cache):
    bucket = make_bucket({**photos, "broken.jpeg": b"no photo"})
    table = listed(bucket)
    rows = np.random.default_rng(0).permutation(21)
    given = {}
    for kind in ("memory", "disk", "none"):
        opened = open_photos(table, image_size=SIZE, kind=kind, cache=cache)
        given[kind] = list(pickle.loads(pickle.dumps(opened)).batches(rows, 8))
    for kind in ("disk", "none"):
        for left, right in zip(given["memory"], given[kind], strict=True):
            assert np.array_equal(left.images, right.images)
            assert left.labels.tolist() == right.labels.tolist()
            assert left.rows.tolist() == right.rows.tolist()
            assert [(row, item.uri, item.step) for row, item in left.unreadable] == [
                (row, item.uri, item.step) for row, item in right.unreadable
            ]
    assert sum(len(batch.rows) for batch in given["memory"]) == 20


def test_a_second_run_reads_no_photo_and_a_third_reads_the_replaced_one(
    s3, s3_direct, make_bucket, make_photo, photos, keep, cache
):
    buckets = make_bucket(photos), make_bucket(photos)
    table = listed(*buckets)
    before = requests(s3, *buckets)
    first = keep(table)
    assert requests(s3, *buckets) == before + 40
    second = keep(table)
    assert requests(s3, *buckets) == before + 40
    rows = np.arange(40)
    for left, right in zip(first.batches(rows, 16), second.batches(rows, 16), strict=True):
        assert np.array_equal(left.images, right.images)

    s3_direct.put_object(Bucket=buckets[0], Key="03.jpeg", Body=make_photo(seed=77))
    table = listed(*buckets)
    before = requests(s3, *buckets)
    third = keep(table)
    assert requests(s3, *buckets) == before + 1
    [old], [new] = first.batches(np.array([3]), 1), third.batches(np.array([3]), 1)
    assert not np.array_equal(old.images, new.images)

    keep(table, size=96)
    assert requests(s3, *buckets) == before + 41
    keep(table)
    assert requests(s3, *buckets) == before + 41


def test_the_cache_gives_the_labelled_version_of_a_photo_that_was_replaced(
    s3_direct, make_bucket, make_photo, photos, keep
):
    bucket = make_bucket(photos)
    table = listed(bucket)
    first = keep(table)
    s3_direct.put_object(Bucket=bucket, Key="03.jpeg", Body=make_photo(seed=77))
    again = keep(table)  # the manifest is older than the change, so the labels are for the old content
    assert again.unreadable == ()
    [old], [new] = first.batches(np.array([3]), 1), again.batches(np.array([3]), 1)
    assert np.array_equal(old.images, new.images)


def test_a_damaged_shard_is_prepared_again(s3, make_bucket, photos, keep, cache):
    bucket = make_bucket(photos)
    table = listed(bucket)
    first = keep(table)
    path = sorted(cache.folder(SIZE).glob("*.arrow"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    before = requests(s3, bucket)
    again = keep(table)
    assert 0 < requests(s3, bucket) - before <= 20
    rows = np.arange(20)
    images = [np.concatenate([batch.images for batch in kept.batches(rows, 20)]) for kept in (first, again)]
    assert np.array_equal(images[1], np.concatenate([b.images for b in keep(table).batches(rows, 20)]))


def test_the_next_run_reads_unreadable_photos_again(s3, make_bucket, photos, keep):
    bucket = make_bucket({**photos, "99.jpeg": b"no photo"})
    table = listed(bucket)
    assert [row for row, _ in keep(table).unreadable] == [20]
    before = requests(s3, bucket)
    again = keep(table)
    assert requests(s3, bucket) == before + 1
    assert [(row, item.step) for row, item in again.unreadable] == [(20, "decode")]


def test_photos_without_an_etag_are_never_taken_from_the_cache(s3, make_bucket, photos, keep):
    import pyarrow as pa

    bucket = make_bucket(photos)
    table = listed(bucket)
    table = table.set_column(table.schema.get_field_index("etag"), "etag", pa.array([""] * 20, pa.string()))
    keep(table)
    before = requests(s3, bucket)
    keep(table)
    assert requests(s3, bucket) == before + 20


def test_two_nodes_share_an_s3_prefix_and_copy_what_they_need(s3, make_bucket, photos, keep, cache, tmp_path):
    bucket, store = make_bucket(photos), make_bucket({})
    shared = SharedCache(f"s3://{store}/prepared", cache)
    first = keep(listed(bucket), where=shared)
    other = SharedCache(f"s3://{store}/prepared", CacheFolder(tmp_path / "other node", 2**40))
    before = requests(s3, bucket)
    second = keep(listed(bucket), where=other)
    assert requests(s3, bucket) == before + 1  # the listing
    rows = np.arange(20)
    for left, right in zip(first.batches(rows, 8), second.batches(rows, 8), strict=True):
        assert np.array_equal(left.images, right.images)
    assert sorted(path.name for path in cache.folder(SIZE).glob("*.arrow")) == sorted(
        path.name for path in other.copies.folder(SIZE).glob("*.arrow")
    )


def test_a_damaged_shard_under_a_prefix_is_named_and_prepared_again(
    s3_direct, make_bucket, photos, keep, cache, tmp_path
):
    bucket, store = make_bucket(photos), make_bucket({})
    keep(listed(bucket), where=SharedCache(f"s3://{store}/p", cache))
    keys = [item["Key"] for item in s3_direct.list_objects_v2(Bucket=store)["Contents"]]
    shard = next(key for key in keys if key.endswith(".arrow"))
    s3_direct.put_object(Bucket=store, Key=shard, Body=b"cut")
    other = SharedCache(f"s3://{store}/p", CacheFolder(tmp_path / "other", 2**40))
    with pytest.raises(StorageError, match=r"are damaged; run the same command again"):
        list(keep(listed(bucket), where=other).batches(np.arange(20), 8))
    again = keep(listed(bucket), where=other)
    assert sum(len(batch.rows) for batch in again.batches(np.arange(20), 8)) == 20


@pytest.mark.long
def test_a_killed_preparation_continues_where_it_stopped(s3, make_bucket, make_photo, keep, cache):
    large = make_photo(seed=1, size=(2400, 1800))
    photos = {f"{number:03d}.jpeg": large + number.to_bytes(2, "big") for number in range(120)}
    bucket = make_bucket(photos)
    code = (
        "import pathlib\n"
        "from test_kept import listed, SIZE\n"
        "from physiq_ray.cluster import connect\n"
        "from physiq_ray.ingest import StoredPhotos, keep_on_disk\n"
        "from physiq_ray.prepared import CacheFolder\n"
        "from physiq_ray.storage import current_access\n"
        "connect(local=True)\n"
        "cache = CacheFolder(pathlib.Path(sys.argv[1]), 2**40)\n"
        "keep_on_disk(listed(sys.argv[2]), cache, image_size=SIZE, reader=StoredPhotos(current_access()))\n"
    )
    with start_python(code, cache.root, bucket, start_new_session=True) as process:
        end_s = time.monotonic() + 90
        while not list(cache.root.glob("*/*.arrow")) and time.monotonic() < end_s:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    kept = len(list(cache.root.glob("*/*.arrow")))
    assert kept
    time.sleep(2)  # Ray's orphans end
    before = requests(s3, bucket)
    again = keep(listed(bucket))
    asked = requests(s3, bucket) - before - 1
    assert 0 < asked < 120
    assert sum(len(batch.rows) for batch in again.batches(np.arange(120), 32)) == 120


def test_a_disk_that_cannot_be_used_is_ignored_by_auto_and_an_error_with_disk(
    ray_local, make_bucket, photos, tmp_path
):
    table = listed(make_bucket(photos))
    (tmp_path / "file").write_text("")
    no_folder = str(tmp_path / "file" / "cache")
    notes = []

    def open_with(setting):
        wanted = CacheSettings(setting, no_folder, 1.0)
        open_splits({"train": table}, wanted, image_size=SIZE, store_bytes=2**30, note=notes.append)

    open_with("auto")
    assert notes == [
        "cache auto: memory: 0 MiB of decoded photos fit Ray's object store (512 MiB): decoded once"
    ]
    with pytest.raises(SettingError, match=rf"cache=disk: cache_dir={no_folder}: Not a directory; "):
        open_with("disk")


def test_photos_that_do_not_fit_are_refused_before_any_is_decoded(
    s3, ray_local, make_bucket, photos, tmp_path
):
    bucket = make_bucket(photos)
    table, before = listed(bucket), requests(s3, bucket)
    wanted = CacheSettings("disk", str(tmp_path / "cache"), 0.0001)
    with pytest.raises(SettingError, match=r"\(cache_limit_gib=0\.0001\) has room for 0 MiB"):
        open_splits({"train": table}, wanted, image_size=SIZE, store_bytes=2**30)
    assert requests(s3, bucket) == before


def test_photos_that_another_training_uses_need_no_space_again(ray_local, make_bucket, photos, tmp_path):
    table = listed(make_bucket(photos))
    num_bytes = table.num_rows * SIZE**2 * 3
    wanted = CacheSettings("disk", str(tmp_path / "cache"), 1.5 * num_bytes / 2**30)

    def open_all(size):
        return open_splits({"train": table}, wanted, image_size=size, store_bytes=2**30)

    first = open_all(SIZE)
    with in_use(first):
        assert set(open_all(SIZE)["train"].blocks.names) == set(first["train"].blocks.names)
        with pytest.raises(SettingError, match=r"cache=disk: .* has room for 0 MiB"):
            open_all(SIZE + 1)


@pytest.mark.slow
def test_a_killed_upload_leaves_no_partial_shard(s3, s3_direct, make_bucket, tmp_path):
    store = make_bucket({})
    code = (
        "import pathlib\n"
        "import numpy as np\n"
        "from test_kept import keys_of_shard\n"
        "from physiq_ray.prepared import CacheFolder, SharedCache\n"
        "cache = SharedCache(sys.argv[1], CacheFolder(pathlib.Path(sys.argv[2]), 2**40))\n"
        "for number in range(10**6):\n"
        "    images = np.full((100, 224, 224, 3), number % 256, np.uint8)\n"
        "    cache.add(keys_of_shard(number), images, 224)\n"
    )
    for attempt in range(3):
        with start_python(code, f"s3://{store}/p", tmp_path / f"writer {attempt}") as process:
            end_s = time.monotonic() + 60
            while not s3_direct.list_objects_v2(Bucket=store, Prefix="p/").get("KeyCount", 0) > 4 * attempt:
                assert time.monotonic() < end_s, "nothing was uploaded"
                time.sleep(0.01)
            time.sleep(0.07 * attempt)
            process.send_signal(signal.SIGKILL)
    reader = SharedCache(f"s3://{store}/p", CacheFolder(tmp_path / "reader", 2**40))
    shards = [keys_of_shard(number) for number in range(100)]
    found = reader.find([key for keys in shards for key in keys], 224)
    folder = reader.fetch(found.names, 224)
    for number, shard in enumerate(shards):
        if shard[0] in found.places:
            name, row = found.places[shard[7]]
            assert (open_images(folder, found.names[name])[row] == number).all()
    assert found.names
