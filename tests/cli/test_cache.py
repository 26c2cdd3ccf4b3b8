"""The command cache: what it shows and what it deletes."""

import json
import os
import time

import numpy as np
import pytest

from physiq_ray.prepared import CacheFolder, photo_keys


@pytest.fixture
def cache(tmp_path):
    """Make a cache of two sizes: three shards of 64 px, last used two days ago, and one of 96 px."""
    cache = CacheFolder(tmp_path / "cache", 2**40)
    for side, numbers in ((64, range(3)), (96, range(1))):
        for number in numbers:
            images = np.full((4, side, side, 3), number, np.uint8)
            name = cache.add(
                photo_keys([f"{number}-{row}" for row in range(4)], [1] * 4, ["v"] * 4), images, side
            )
            if side == 64:
                os.utime(cache.folder(side) / f"{name}.arrow", (time.time() - 2 * 86400 - 60,) * 2)
    return cache


def test_size_and_age_of_each_image_size_are_shown(run_here, cache):
    done = run_here("cache", "--cache-dir", cache.root)
    assert done.returncode == 0, done.stderr
    first, latest, oldest = done.stdout.splitlines()
    assert first == f"{cache.root}: 0 MiB of at most 100 GiB"
    assert latest.startswith(f"  {cache.folder(96).name}: 1 shards, 0 MiB, first made ")
    assert oldest.startswith(f"  {cache.folder(64).name}: 3 shards, 0 MiB, first made ")
    assert oldest.endswith("last used 2 days ago")


def test_sizes_in_json_add_up_to_the_files(run_here, cache):
    answer = json.loads(run_here("cache", "--cache-dir", cache.root, "--json").stdout)
    assert answer["folder"] == str(cache.root)
    files = sum(path.stat().st_size for path in cache.root.rglob("*.arrow"))
    assert sum(size["num_bytes"] for size in answer["sizes"]) == files > 4 * 4 * 64**2 * 3


def test_clear_deletes_all_shards_except_those_that_a_training_uses(run_here, cache):
    used = next(cache.folder(64).glob("*.arrow"))
    with cache.using([used.stem]):
        done = run_here("cache", "--cache-dir", cache.root, "--clear")
    assert done.stdout == f"{cache.root}: 3 shards deleted, 1 kept: a running training uses them\n"
    assert list(cache.root.rglob("*.arrow")) == [used]
    answer = json.loads(run_here("cache", "--cache-dir", cache.root, "--clear", "--json").stdout)
    assert answer == {"folder": str(cache.root), "deleted": 1, "kept": 0}


def test_a_missing_cache_folder_counts_as_empty(run_here, tmp_path):
    done = run_here("cache", "--cache-dir", tmp_path / "none", "--cache-limit-gib", "2")
    assert done.stdout == f"{tmp_path}/none: 0 MiB of at most 2 GiB\n"
    assert not (tmp_path / "none").exists()
    assert run_here("cache", "--cache-dir", tmp_path / "none", "--clear").returncode == 0


def test_for_a_prefix_the_command_shows_its_copies_on_this_machine(run_here, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    done = run_here("cache", "--cache-dir", "s3://bucket/prepared")
    assert done.stdout.splitlines() == [
        f"{tmp_path}/home/physiq-ray: 0 MiB of at most 100 GiB",
        "These are this machine's copies. To empty s3://bucket/prepared, use the tools of its bucket.",
    ]
