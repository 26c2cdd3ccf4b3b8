import stat

import numpy as np
import pytest

from physiq_ray.errors import StorageError
from physiq_ray.prepared.shards import (
    is_intact,
    open_images,
    open_keys,
    photo_keys,
    shard_path,
    write_shard,
)


def draw(num_photos, side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_photos, side, side, 3), np.uint8)


def test_a_shard_gives_back_its_images_and_keys_in_their_order(tmp_path):
    images, keys = draw(5), photo_keys(list("abcde"), [1] * 5, ["v"] * 5)
    name = write_shard(tmp_path, keys, images)
    assert open_keys(tmp_path, name) == keys
    assert np.array_equal(open_images(tmp_path, name), images)
    assert is_intact(shard_path(tmp_path, name))


def test_equal_photos_make_equal_files_and_other_photos_other_files(tmp_path):
    keys = photo_keys(["a", "b"], [1, 1], ["v", "v"])
    first = write_shard(tmp_path, keys, draw(2))
    assert write_shard(tmp_path, keys, draw(2)) == first
    assert write_shard(tmp_path, keys, draw(2, seed=1)) != first
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".arrow", ".arrow"]


@pytest.mark.parametrize(
    "other", [("b", 1, "v"), ("a", 2, "v"), ("a", 1, "w"), ("a1", 1, "v"), ("a", 11, "v")]
)
def test_another_uri_size_or_etag_is_another_key(other):
    uri, size, etag = other
    assert photo_keys([uri], [size], [etag]) != photo_keys(["a"], [1], ["v"])


def test_only_the_owner_reads_a_shard(tmp_path):
    name = write_shard(tmp_path, photo_keys(["a"], [1], ["v"]), draw(1))
    assert stat.S_IMODE(shard_path(tmp_path, name).stat().st_mode) == 0o600


def test_images_cannot_be_written_to(tmp_path):
    name = write_shard(tmp_path, photo_keys(["a"], [1], ["v"]), draw(1))
    with pytest.raises(ValueError, match="read-only"):
        open_images(tmp_path, name)[0, 0, 0, 0] = 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_shard_is_not_intact(tmp_path, damage):
    name = write_shard(tmp_path, photo_keys(["a", "b"], [1, 1], ["v", "v"]), draw(2))
    path = shard_path(tmp_path, name)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes({"cut": data[:-100], "flipped": data, "empty": b"", "other": b"no shard at all"}[damage])
    assert not is_intact(path)
    if damage in ("empty", "other"):
        with pytest.raises(StorageError, match="read prepared photos"):
            open_images(tmp_path, name)


def test_a_full_disk_leaves_no_file(make_disk):
    folder, _ = make_disk(2**20)
    with pytest.raises(OSError, match="No space left"):
        write_shard(folder, photo_keys(["a"], [1], ["v"]), draw(1, side=1024))
    assert list(folder.iterdir()) == []
