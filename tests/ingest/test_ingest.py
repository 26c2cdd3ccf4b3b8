import json
import pickle
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from physiq_ray.errors import DataError, DeniedError, SettingError, UnreachableError
from physiq_ray.images import decode_square
from physiq_ray.ingest import StoredPhotos, build_dataset, choose_cache, open_photos, reading
from physiq_ray.ingest.choose import Disk
from physiq_ray.manifest import MANIFEST_SCHEMA
from physiq_ray.quarantine import Unreadable, check_unreadable, write_quarantine
from physiq_ray.storage import current_access

SIZE = 64


def manifest_rows(bucket, files):
    """Make manifest rows of objects, in the order given, class 0 and 1 by turns."""
    rows = [
        {
            "uri": f"s3://{bucket}/{key}",
            "bucket": bucket,
            "key": key,
            "size": len(data),
            "etag": "",
            "pose_id": 1,
            "class_index": number % 2,
            "group": key,
            "split": "train",
        }
        for number, (key, data) in enumerate(files.items())
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


@pytest.fixture
def photos(make_photo):
    return {f"photo-{n:02d} é.jpeg": make_photo(seed=n, orientation=1 + n % 8) for n in range(21)}


@pytest.fixture
def dirty(photos, make_photo):
    whole = make_photo(seed=99)
    return {**photos, "cut.jpeg": whole[: len(whole) // 2], "empty.jpeg": b"", "text.jpeg": b"no photo"}


def test_rows_keep_the_order_of_the_manifest_and_have_all_columns(ray_local, make_bucket, photos):
    table = manifest_rows(make_bucket(photos), photos)
    rows = build_dataset(table, image_size=SIZE).take_all()
    assert [row["uri"] for row in rows] == table["uri"].to_pylist()
    assert [row["label"] for row in rows] == table["class_index"].to_pylist()
    assert {row["image"].shape for row in rows} == {(SIZE, SIZE, 3)}
    assert {row["image"].dtype for row in rows} == {np.dtype(np.uint8)}
    assert {row["error"] for row in rows} == {""}
    for row, data in zip(rows, photos.values(), strict=True):
        assert np.array_equal(row["image"], decode_square(data, size_px=SIZE))


def test_streamed_photos_travel_with_the_columns_that_a_task_reads_and_no_others(ray_local):
    table = manifest_rows("checkins", {"a.jpeg": b"1", "b.jpeg": b"2"})
    halves = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    photos = pickle.loads(pickle.dumps(open_photos(halves, image_size=SIZE, kind="none")))
    assert photos.table.column_names == ["uri", "size", "etag", "class_index"]
    assert photos.table["uri"].num_chunks == 1  # taking rows of several chunks would copy them all
    assert photos.table.equals(table.select(photos.table.column_names))


@pytest.mark.parametrize("kind", ["memory", "none"])
def test_batches_follow_the_requested_rows_and_list_unreadable_photos_apart(
    ray_local, make_bucket, dirty, kind
):
    table = manifest_rows(make_bucket(dirty), dirty)
    photos = open_photos(table, image_size=SIZE, kind=kind)
    rows = np.random.default_rng(0).permutation(table.num_rows)
    batches = list(photos.batches(rows, 5))
    assert len(batches) == 5
    keys = table["key"].to_pylist()
    good = [row for row in rows.tolist() if keys[row].startswith("photo")]
    assert np.concatenate([batch.rows for batch in batches]).tolist() == good
    images = np.concatenate([batch.images for batch in batches])
    for row, image in zip(good, images, strict=True):
        assert np.array_equal(image, decode_square(dirty[keys[row]], size_px=SIZE))
    labels = np.concatenate([batch.labels for batch in batches])
    assert labels.tolist() == [row % 2 for row in good]
    bad = {keys[row]: item for batch in batches for row, item in batch.unreadable}
    assert set(bad) == {"cut.jpeg", "empty.jpeg", "text.jpeg"}
    assert {item.step for item in bad.values()} == {"decode"}
    assert "truncated" in bad["cut.jpeg"].error
    assert "empty" in bad["empty.jpeg"].error
    assert "not an image" in bad["text.jpeg"].error


def test_prepared_photos_name_the_unreadable_ones_before_the_first_batch(ray_local, make_bucket, dirty):
    seen = []
    table = manifest_rows(make_bucket(dirty), dirty)
    photos = open_photos(table, image_size=SIZE, kind="memory", on_progress=seen.append)
    assert [table["key"][row].as_py() for row, _ in photos.unreadable] == [
        "cut.jpeg",
        "empty.jpeg",
        "text.jpeg",
    ]
    assert sum(seen) == photos.num_rows == 24


def test_a_batch_may_be_all_unreadable(ray_local, make_bucket):
    files = {"a.jpeg": b"", "b.jpeg": b""}
    photos = open_photos(manifest_rows(make_bucket(files), files), image_size=SIZE, kind="none")
    (batch,) = photos.batches(np.arange(2), 2)
    assert batch.images.shape == (0, SIZE, SIZE, 3)
    assert [row for row, _ in batch.unreadable] == [0, 1]


def test_no_rows_give_no_batches(ray_local, make_bucket, photos):
    table = manifest_rows(make_bucket(photos), photos)
    for kind in ("memory", "none"):
        assert list(open_photos(table, image_size=SIZE, kind=kind).batches(np.arange(0), 4)) == []


@pytest.mark.slow
def test_an_outage_of_five_seconds_neither_loses_nor_repeats_photos(s3, ray_local, make_bucket, make_photo):
    photos = {f"{number:03d}.jpeg": make_photo(seed=number % 8) for number in range(300)}
    table = manifest_rows(make_bucket(photos), photos)

    def restart():
        s3.stop()
        time.sleep(5)
        s3.start()

    away = threading.Thread(target=restart)
    seen = []
    for batch in open_photos(table, image_size=SIZE, kind="none").batches(np.arange(300), 16):
        if not seen:
            away.start()
        assert batch.unreadable == ()
        seen += batch.rows.tolist()
    away.join()
    assert seen == list(range(300))


def test_a_bucket_that_is_denied_during_an_epoch_loses_only_its_own_photos(
    deny, ray_local, make_bucket, make_photo
):
    photos = {f"{number:03d}.jpeg": make_photo(seed=number % 8) for number in range(150)}
    open_bucket, closed = make_bucket(photos), make_bucket(photos)
    both = pa.concat_tables([manifest_rows(open_bucket, photos), manifest_rows(closed, photos)])
    table = both.take(np.arange(300).reshape(2, 150).T.ravel())  # one of each by turns
    read, lost = [], {}
    for batch in open_photos(table, image_size=SIZE, kind="none").batches(np.arange(300), 16):
        if not read:
            deny(closed, "s3:GetObject", "*")
        read += batch.rows.tolist()
        lost |= dict(batch.unreadable)
    assert sorted([*read, *lost]) == list(range(300))
    assert set(range(0, 300, 2)) < set(read)  # all of the one, and of the other what came before
    assert lost
    assert {(item.step, "AccessDenied" in item.error) for item in lost.values()} == {("fetch", True)}


def test_fetching_ahead_keeps_the_order_and_the_limit_in_bytes(monkeypatch):
    lock, flying, most = threading.Lock(), [], []

    class Reader:
        def read(self, uri, etag):
            with lock:
                flying.append(sizes[int(uri)])
                most.append(sum(flying))
            time.sleep(0.001)
            return uri.encode()

    monkeypatch.setattr(reading, "FETCH_AHEAD_BYTES", 100)
    sizes = [1, 30, 99, 5, 500, 40, 40, 40] * 10
    taken = []
    for number, data in enumerate(
        reading.fetch_ahead(Reader(), [str(n) for n in range(80)], sizes, ["v"] * 80)
    ):
        taken.append(data)
        with lock:
            flying.remove(sizes[number])
    assert taken == [str(n).encode() for n in range(80)]
    assert max(most) <= 500 + 100


def read_one(uri, size):
    """Read a photo that has no etag; give its step and its error, each in a list."""
    inputs = pa.table({"uri": [uri], "size": [size]})
    found = reading.read_photos(inputs, image_size=SIZE, reader=StoredPhotos(current_access()))
    return found.steps, found.errors


def test_a_photo_that_was_deleted_after_the_listing_is_gone(s3, make_bucket):
    bucket = make_bucket({})
    (step,), (error,) = read_one(f"s3://{bucket}/gone.jpeg", 10)
    assert step == "gone"
    assert f"s3://{bucket}/gone.jpeg" in error


def test_an_object_of_gigabytes_is_not_fetched():
    steps, errors = read_one("s3://nowhere-at-all/huge.jpeg", 5 * 2**30)
    assert (steps, errors) == (["fetch"], ["5368709120 bytes; at most 104857600 are read"])


def test_quarantine_names_uri_step_and_error(tmp_path):
    uri = write_quarantine([Unreadable("s3://b/é.jpeg", "decode", "empty")], str(tmp_path))
    assert json.loads((tmp_path / "quarantine.jsonl").read_text(encoding="utf-8")) == {
        "uri": "s3://b/é.jpeg",
        "step": "decode",
        "error": "empty",
    }
    assert uri == str(tmp_path / "quarantine.jsonl")


def test_too_many_unreadable_photos_are_refused_by_name():
    items = [Unreadable(f"s3://b/{n}.jpeg", "decode", "empty") for n in range(6)]
    check_unreadable(items[:5], 100, 0.05)
    with pytest.raises(DataError, match=r"6 of 100 photos.*s3://b/0\.jpeg: empty.*and 1 more in quarantine"):
        check_unreadable(items, 100, 0.05)


@pytest.mark.parametrize(
    ("setting", "needed", "problem", "cache_dir", "kind", "why"),
    [
        ("auto", 400, "", False, "memory", "auto: memory: 400 MiB of decoded photos fit Ray's object store"),
        ("auto", 400, "", True, "disk", "auto: disk: 400 MiB of decoded photos fit cache_dir (2.0 GiB)"),
        ("auto", 400, "read-only", True, "memory", "auto: memory"),
        ("auto", 600, "", False, "disk", "auto: disk"),
        ("auto", 600, "read-only", False, "none", "more than 500 MiB of Ray's object store and read-only"),
        ("auto", 3000, "", True, "none", "more than 2.0 GiB in cache_dir and more than 500 MiB of Ray's"),
        ("none", 1, "", True, "none", "cache none"),
        ("memory", 3000, "", True, "memory", "cache memory"),
        ("disk", 1500, "", False, "disk", "cache disk: 1500 MiB"),
        ("gpu", 400, "", False, "memory", "cache gpu: memory"),
    ],
)
def test_photos_are_kept_where_they_fit(setting, needed, problem, cache_dir, kind, why):
    chosen, reason = choose(setting, needed, lambda: Disk("/c", 2 * 2**30, problem), cache_dir)
    assert chosen == kind
    assert why in reason


@pytest.mark.parametrize(
    ("setting", "needed", "problem", "message"),
    [
        ("disk", 1, "read-only", "cache=disk: read-only; set cache_dir"),
        ("disk", 3000, "", "cache=disk: 3000 MiB of decoded photos, but /c has room for 2048 MiB"),
        ("gpu", 3000, "read-only", "cache=gpu: .* 3000 MiB .* are more than 500 MiB .* and read-only"),
    ],
)
def test_a_cache_that_is_not_available_is_refused(setting, needed, problem, message):
    with pytest.raises(SettingError, match=message):
        choose(setting, needed, lambda: Disk("/c", 2 * 2**30, problem))


@pytest.mark.parametrize("setting", ["auto", "memory", "none", "gpu"])
def test_a_disk_that_is_not_needed_is_not_checked(setting):
    choose(setting, 400, lambda: pytest.fail("it may be unreachable"))


def choose(setting, needed_mib, look_at_disk, cache_dir=False):
    return choose_cache(
        setting,
        needed_bytes=needed_mib * 2**20,
        store_bytes=1000 * 2**20,
        look_at_disk=look_at_disk,
        prefer_disk=cache_dir,
    )


def test_an_epoch_from_memory_sends_no_request_and_a_streamed_one_reads_each_photo_once(
    s3, ray_local, make_bucket, photos
):
    bucket = make_bucket(photos)
    table = manifest_rows(bucket, photos)
    before = s3.read_traffic(bucket).num_requests
    kept = open_photos(table, image_size=SIZE, kind="memory")
    assert s3.read_traffic(bucket).num_requests == before + 21
    for _ in range(2):
        assert sum(len(batch.labels) for batch in kept.batches(np.arange(21), 8)) == 21
    assert s3.read_traffic(bucket).num_requests == before + 21
    streamed = open_photos(table, image_size=SIZE, kind="none")
    for epoch in (1, 2):
        assert sum(len(batch.labels) for batch in streamed.batches(np.arange(21), 8)) == 21
        assert s3.read_traffic(bucket).num_requests == before + 21 * (epoch + 1)


def test_after_an_outage_the_rest_of_a_task_is_not_tried_and_a_single_failure_does_not_end_it():
    tried = []

    class Reader:
        def read(self, uri, etag):
            tried.append(uri)
            if uri in ("3", "7") or int(uri) >= 50:
                raise UnreachableError(f"read {uri}: no answer")
            if uri == "49":
                raise DeniedError(f"read {uri}: denied")
            return b"no photo"

    inputs = pa.table({"uri": [str(number) for number in range(500)], "size": [len(b"no photo")] * 500})

    read = reading.read_photos(inputs, image_size=SIZE, reader=Reader(), outage_run=5)

    assert len(tried) <= 55 + 2 * reading.FETCH_THREADS + reading.DECODE_THREADS + 1
    assert read.is_unreachable == [number in (3, 7) or number >= 50 for number in range(55)]
    assert read.steps == ["fetch" if number in (3, 7) or number >= 49 else "decode" for number in range(55)]
    assert [len(each) for each in (read.images, read.errors, read.bits)] == [55, 55, 55]
    assert len(reading.read_photos(inputs, image_size=SIZE, reader=Reader()).steps) == 500
