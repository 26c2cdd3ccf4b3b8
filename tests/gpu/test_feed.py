"""The feed's batches on the device hold the requested photos, copied in each of the possible ways."""

import os
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from device import DEVICE, IS_CUDA, SIZE, gpu, only_cuda

from physiq_ray.ingest import KeptPhotos
from physiq_ray.quarantine import Unreadable
from physiq_ray.training.feed import Feed, Worker, ahead
from physiq_ray.training.loop import CHECK_STEPS

pytestmark = gpu

NUM_BLOCKS, BLOCK_ROWS = (8, 32) if IS_CUDA else (4, 8)
NUM_PHOTOS = NUM_BLOCKS * BLOCK_ROWS
NUM_BATCHES, BATCH_SIZE = (200, 64) if IS_CUDA else (30, 4)
UNREADABLE = 3


@dataclass(frozen=True)
class ArrayBlocks:
    """Blocks in this process's memory."""

    images: tuple[np.ndarray, ...]

    def resolve(self):
        return list(self.images)

    def in_use(self):
        return nullcontext()


@pytest.fixture(scope="module")
def photos():
    """Give photos of noise in blocks, of which one is unreadable; the labels are the rows."""
    rng = np.random.default_rng(0)
    shape = (BLOCK_ROWS, SIZE, SIZE, 3)
    blocks = ArrayBlocks(tuple(rng.integers(0, 256, shape, np.uint8) for _ in range(NUM_BLOCKS)))
    places = np.stack(np.divmod(np.arange(NUM_PHOTOS), BLOCK_ROWS), axis=1)
    places[UNREADABLE] = -1
    unreadable = ((UNREADABLE, Unreadable("s3://bucket/3.jpeg", "decode", "cut off")),)
    return KeptPhotos(blocks, np.arange(NUM_PHOTOS), places, SIZE, unreadable)


@pytest.fixture
def feed(photos):
    """Give a function that makes a feed about to give these rows."""

    def make(rows, batch_size=BATCH_SIZE):
        made = Feed({"train": photos}, Worker(0, 1, DEVICE), batch_size=batch_size)
        made.begin(1, {"train": rows})
        return made

    return make


def keep_busy():
    """Give the device some milliseconds of work; return whether earlier work was still running."""
    if not IS_CUDA:
        return True
    was_behind = not torch.cuda.current_stream().query()
    torch.cuda._sleep(10_000_000)
    return was_behind


def readable_rows(count, seed=0):
    rows = np.random.default_rng(seed).integers(0, NUM_PHOTOS - 1, count)
    return rows + (rows >= UNREADABLE)


def test_batches_hold_the_gathered_photos_while_the_device_is_behind(photos, feed):
    truth = torch.from_numpy(np.concatenate(photos.blocks.resolve())).to(DEVICE)
    rows = readable_rows(NUM_BATCHES * BATCH_SIZE)
    wanted = torch.from_numpy(rows).to(DEVICE).split(BATCH_SIZE)
    wrong, num_behind = torch.zeros((), dtype=torch.int64, device=DEVICE), 0
    for number, (images, labels) in enumerate(feed(rows).batches("train")):
        num_behind += keep_busy()
        wrong += (images != truth[wanted[number]]).any() | (labels != wanted[number]).any()
        if number % CHECK_STEPS == 0:  # as training does
            assert int(wrong) == 0
    assert number == NUM_BATCHES - 1
    assert int(wrong) == 0
    assert num_behind > NUM_BATCHES // 2


def test_photos_on_the_device_give_the_batches_of_copied_ones(feed):
    rows = np.setdiff1d(np.random.default_rng(1).permutation(NUM_PHOTOS), [UNREADABLE])
    copied, resident = feed(rows, 7), feed(rows, 7)
    resident.load_all()
    num_photos = 0
    for left, right in zip(copied.batches("train"), resident.batches("train"), strict=True):
        for mine, others in zip(left, right, strict=True):
            assert (mine.device, mine.dtype) == (others.device, others.dtype)
            assert mine.device == DEVICE
            assert torch.equal(mine, others)
        num_photos += len(left[1])
    assert num_photos == NUM_PHOTOS - 1


def test_few_photos_fit_a_gpu(feed):
    made = feed(readable_rows(8))
    assert made.needed_bytes == NUM_PHOTOS * SIZE**2 * 3
    assert made.fits_device() is IS_CUDA


def test_batches_are_gathered_in_memory_that_the_device_can_copy_from_at_once(photos, monkeypatch):
    made = []
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *shape, **options: made.append(empty(*shape, **options)) or made[-1]
    )
    feed = Feed({"train": photos}, Worker(0, 1, DEVICE), batch_size=4)
    feed.begin(1, {"train": readable_rows(8)})
    batches = list(feed.batches("train"))
    assert [len(labels) for _, labels in batches] == [4, 4]
    pinned = [tensor for tensor in made if tensor.shape == (4, SIZE, SIZE, 3) and tensor.is_pinned()]
    assert len(pinned) == (2 if IS_CUDA else 0)


@only_cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_feed_s_thread_uses_the_worker_s_gpu():
    second = torch.device("cuda", 1)
    found = list(ahead(((torch.cuda.current_device(), os.getpid()) for _ in range(3)), second))
    assert found == [(1, os.getpid())] * 3
    assert torch.cuda.current_device() == 0
