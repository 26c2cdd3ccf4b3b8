"""A folder of prepared photos: finding them, deleting them for space, and keeping those in use."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from physiq_ray.errors import StorageError
from physiq_ray.prepared import CacheFolder, open_images, photo_keys
from physiq_ray.prepared import folder as folder_module
from physiq_ray.prepared.shards import shard_path

SIDE = 64
SHARD_BYTES = 4 * SIDE**2 * 3


@pytest.fixture
def cache(tmp_path):
    return CacheFolder(tmp_path / "cache", 2**40)


def keys_of(name, num_photos=4):
    return photo_keys([f"{name}-{row}" for row in range(num_photos)], [1] * num_photos, ["v"] * num_photos)


def add(cache, name, side=SIDE):
    seed = sum(map(ord, name))
    images = np.random.default_rng(seed).integers(0, 256, (4, side, side, 3), np.uint8)
    return cache.add(keys_of(name), images, side), images


def age(cache, name, seconds, side=SIDE):
    path = shard_path(cache.folder(side), name)
    os.utime(path, (time.time() - seconds,) * 2)


def test_photos_are_found_by_key_in_the_shard_that_holds_them(cache):
    first, images = add(cache, "a")
    second, _ = add(cache, "b")
    wanted = [keys_of("a")[2], keys_of("b")[0], keys_of("c")[0]]
    found = cache.find(wanted, SIDE)
    assert set(found.names) == {first, second}
    places = {key: (found.names[number], row) for key, (number, row) in found.places.items()}
    assert places == {wanted[0]: (first, 2), wanted[1]: (second, 0)}
    assert np.array_equal(open_images(cache.fetch(found.names, SIDE), first), images)


def test_each_image_size_has_its_own_folder(cache):
    add(cache, "a")
    assert cache.find(keys_of("a"), 96).names == ()
    add(cache, "a", side=96)
    assert len(cache.find(keys_of("a"), SIDE).names) == len(cache.find(keys_of("a"), 96).names) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_shard_is_deleted_and_its_photos_are_missing(cache, damage):
    name, _ = add(cache, "a")
    other, _ = add(cache, "b")
    path = shard_path(cache.folder(SIDE), name)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes({"cut": data[:-1000], "flipped": data, "empty": b""}[damage])
    found = cache.find([*keys_of("a"), *keys_of("b")], SIDE)
    assert found.names == (other,)
    assert set(found.places) == set(keys_of("b"))
    assert not path.exists()


def test_only_the_owner_reads_folders_and_shards(cache):
    name, _ = add(cache, "a")
    with cache.using([name]):
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode) for path in (cache.root, *cache.root.rglob("*"))
        }
    folders = {cache.root.name, cache.folder(SIDE).name, "uses"}
    assert {modes[folder] for folder in folders} == {0o700}
    assert {mode for name, mode in modes.items() if name not in folders} == {0o600}


def test_the_least_recently_used_shards_are_deleted_for_space_but_none_in_use(tmp_path):
    cache = CacheFolder(tmp_path, int(3.5 * SHARD_BYTES))
    names = [add(cache, name)[0] for name in "abc"]
    for name, seconds in zip(names, (300, 200, 100), strict=True):
        age(cache, name, seconds)
    cache.find(keys_of("b"), SIDE)  # the latest use of b is now
    with cache.using([names[0]]):
        add(cache, "d")
    left = {path.stem for path in cache.folder(SIDE).glob("*.arrow")}
    assert names[2] not in left
    assert {names[0], names[1]} < left
    assert len(left) == 3


def test_if_all_shards_are_in_use_nothing_is_deleted_and_there_is_no_space(tmp_path):
    cache = CacheFolder(tmp_path, int(1.5 * SHARD_BYTES))
    name, _ = add(cache, "a")
    with cache.using([name]):
        room_bytes = cache.room_bytes(keys_of("b"), SIDE)
        assert room_bytes < SHARD_BYTES
        photo_bytes = SIDE**2 * 3
        assert cache.room_bytes(keys_of("a"), SIDE) == room_bytes + len(keys_of("a")) * photo_bytes
        assert cache.room_bytes(keys_of("a"), SIDE + 1) == room_bytes
        with pytest.raises(StorageError, match=rf"cache_dir={tmp_path}: no space for .*cache_limit_gib"):
            add(cache, "b")
    assert cache.find(keys_of("a"), SIDE).names == (name,)
    add(cache, "b")  # the shard is not in use any more
    assert cache.find(keys_of("a"), SIDE).names == ()


@pytest.mark.slow
def test_a_killed_training_does_not_keep_its_shards_in_use(cache):
    name, _ = add(cache, "a")
    code = (
        "import pathlib, sys, time\n"
        "from physiq_ray.prepared import CacheFolder\n"
        f"with CacheFolder(pathlib.Path({str(cache.root)!r}), 2**40).using([{name!r}]):\n"
        "    print('in use', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert cache.clear() == (0, 1)
        process.send_signal(signal.SIGKILL)
    assert cache.clear() == (1, 0)
    assert list((cache.root / "uses").iterdir()) == []


def test_a_partial_file_of_a_killed_writer_is_removed_once_it_is_old(cache):
    folder = cache.make(SIDE)
    for name, seconds in (("old", 7200), ("new", 0)):
        path = folder / f"{name}.partial"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - seconds,) * 2)
    add(cache, "a")
    assert {path.name for path in folder.glob("*.partial")} == {"new.partial"}


def test_uses_give_size_and_age(cache):
    name, _ = add(cache, "a")
    add(cache, "b", side=96)
    age(cache, name, 500)
    small, large = sorted(cache.uses(), key=lambda use: use.num_bytes)
    assert (small.name, large.name) == (cache.folder(SIDE).name, cache.folder(96).name)
    assert (small.num_shards, small.num_bytes >= SHARD_BYTES) == (1, True)
    assert 499 < time.time() - small.used_s < 520


def test_the_error_of_a_full_disk_names_the_remedy(make_disk, monkeypatch):
    root, _ = make_disk(2**20)
    monkeypatch.setattr(
        folder_module, "SPARE_BYTES", -(2**30)
    )  # as if another process took the room just now
    with pytest.raises(
        StorageError, match=rf"cache_dir={root}: prepared photos cannot .*: the disk is full; give"
    ):
        add(CacheFolder(root, 2**40), "a", side=512)
    assert list(root.rglob("*.arrow")) == list(root.rglob("*.partial")) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=rf"cache_dir={tmp_path}/file: .*cache=memory"):
        CacheFolder(tmp_path / "file", 2**40).make(SIDE)


def test_shards_in_use_are_listed_for_other_runs(cache):
    name, _ = add(cache, "a")
    with cache.using([name]):
        (note,) = (cache.root / "uses").glob("*.json")
        assert json.loads(note.read_text()) == [name]
    assert list((cache.root / "uses").iterdir()) == []
