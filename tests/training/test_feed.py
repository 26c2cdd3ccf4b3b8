"""Batches are equal from host and device, and several workers share one pipeline."""

import threading

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

from physiq_ray.ingest import Share, open_photos, shared_batches, start_stream
from physiq_ray.storage import list_sources, parse_source
from physiq_ray.training.feed import Feed, Worker, ahead

SIZE = 64
CPU = torch.device("cpu")


@pytest.fixture
def table(make_bucket, make_photo):
    photos = {f"{number:02d}.jpeg": make_photo(seed=number) for number in range(30)}
    bucket = make_bucket({**photos, "30.jpeg": b"no photo"})
    [listing] = list_sources([parse_source(f"s3://{bucket}")])
    listed = listing.table.sort_by("uri")
    return listed.append_column("class_index", pa.array(np.arange(31) % 3, pa.int32()))


def read(feed, split):
    return [(images.clone(), labels.clone()) for images, labels in feed.batches(split)]


def test_a_split_that_is_loaded_onto_the_device_gives_the_same_batches(ray_local, table):
    photos = {
        "train": open_photos(table.slice(0, 20), image_size=SIZE),
        "validation": open_photos(table.slice(20), image_size=SIZE),
    }
    rows = {"train": np.random.default_rng(0).permutation(20), "validation": np.arange(10)}
    feeds = [Feed(photos, Worker(0, 1, CPU), batch_size=8) for _ in range(2)]
    feeds[1].load_all()
    for feed in feeds:
        feed.begin(1, rows)
    for split in rows:
        for left, right in zip(*(read(feed, split) for feed in feeds), strict=True):
            assert torch.equal(left[0], right[0])
            assert torch.equal(left[1], right[1])
            assert left[0].dtype == torch.uint8
    assert feeds[0].waited_s > 0
    assert feeds[1].waited_s == 0  # all photos are on the device


def test_unreadable_photos_are_reported_by_split(ray_local, table):
    photos = {"train": open_photos(table, image_size=SIZE, kind="none")}
    found = []
    feed = Feed(
        photos,
        Worker(0, 1, CPU),
        batch_size=8,
        on_unreadable=lambda split, items: found.extend((split, row) for row, _ in items),
    )
    feed.begin(1, {"train": np.arange(31)})
    assert sum(len(labels) for _, labels in feed.batches("train")) == 30
    assert found == [("train", 30)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_workers_of_one_pipeline_get_their_own_rows_in_their_order(ray_local, table, world_size):
    splits = {
        "train": open_photos(table.slice(0, 20), image_size=SIZE, kind="none"),
        "validation": open_photos(table.slice(20), image_size=SIZE, kind="none"),
    }
    alone = {split: np.concatenate([b.images for b in part.batches(np.arange(part.num_rows), 32)])
             for split, part in splits.items()}  # fmt: skip
    stream = start_stream(splits, world_size)
    rng = np.random.default_rng(0)
    for epoch in (1, 2):
        order, rest = rng.permutation(20), np.arange(11)
        shares = [
            Share(
                rank,
                world_size,
                3,
                {"train": order[rank::world_size], "validation": rest[rank::world_size]},
            )
            for rank in range(world_size)
        ]
        got = [{} for _ in shares]

        def work(share, mine, key=str(epoch)):
            ray.get(stream.begin.remote(key, share))
            for split in ("train", "validation"):
                mine[split] = list(shared_batches(stream, key, share, split))

        threads = [threading.Thread(target=work, args=pair) for pair in zip(shares, got, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()
        for share, mine in zip(shares, got, strict=True):
            rows = np.concatenate([batch.rows for batch in mine["train"]])
            assert rows.tolist() == share.rows["train"].tolist()
            assert {len(batch.rows) for batch in mine["train"][:-1]} <= {3}
            images = np.concatenate([batch.images for batch in mine["train"]])
            assert np.array_equal(images, alone["train"][rows])
        bad = [row for mine in got for batch in mine["validation"] for row, _ in batch.unreadable]
        assert bad == [10]
        read_rows = sorted(row for mine in got for batch in mine["validation"] for row in batch.rows.tolist())
        assert read_rows == list(range(10))


def test_an_interrupted_epoch_ends_when_the_next_epoch_begins(ray_local, table):
    splits = {"train": open_photos(table.slice(0, 30), image_size=SIZE, kind="none")}
    stream = start_stream(splits, 2)
    shares = [Share(rank, 2, 5, {"train": np.arange(30)[rank::2]}) for rank in range(2)]
    for share in shares:
        ray.get(stream.begin.remote("first", share))
    next(shared_batches(stream, "first", shares[0], "train"))
    for share in shares:
        ray.get(stream.begin.remote("second", share))
    for share in shares:
        rows = np.concatenate([batch.rows for batch in shared_batches(stream, "second", share, "train")])
        assert rows.tolist() == share.rows["train"].tolist()


def test_ahead_keeps_the_order_and_raises_the_errors_of_its_source():
    def items():
        yield from range(5)
        raise ValueError("after the fifth")

    seen = []
    with pytest.raises(ValueError, match="after the fifth"):
        seen.extend(ahead(items(), CPU))
    assert seen == list(range(5))
