"""Measure how fast each kind of cache gives prepared photos, and what a second preparation saves.

    python benchmarks/feed.py [--parts reading runs] [--photos 7680] [--blocks 120] [--repeats 3]

reading  Batches of random rows at 224 px from 120 blocks or shards, alone and next to launches: a thread that
         starts small torch operations, as a training step starts GPU kernels. "launches keep" is the speed of
         that thread next to a feed of 3,000 img/s, which an H100 needs, divided by its speed without a feed
         before and after. It is the median of alternating seconds. The process has the heap settings of
         training workers. Sides:
         memory, disk         as training reads them (`KeptPhotos`); the shards on disk are in the page cache,
                              as they are after the first epoch
         gpu                  a gather on the device, only with CUDA
         resolved each batch  memory, with one `ray.get` and one `to_numpy` for each block of each batch
         one array            `np.take` from one array: the upper limit
runs     Preparation on disk of 400 phone photos from two buckets of a local S3 server, in this process:
         first, again, after one photo was replaced, and at another image size; with the number of requests.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from machine import describe_machine
from photos import make_phone_photo

from physiq_ray.model import KEEP_MEMORY

SIDE_PX, NEED_PER_S = 224, 3000
REPLACED, RESIZED = "after one photo was replaced", "at another image size"
Batches = Callable[[np.ndarray, int], Iterator[object]]


def measure_reading(args: argparse.Namespace) -> None:
    """Measure each kind of cache and print img/s."""
    import ray
    import ray.data
    import torch

    from physiq_ray.ingest.kept import KeptPhotos, ShardBlocks, StoreBlocks
    from physiq_ray.prepared import CacheFolder, photo_keys

    per_block = args.photos // args.blocks
    num_photos = per_block * args.blocks
    places = np.stack(np.divmod(np.arange(num_photos), per_block), axis=1)
    labels = np.arange(num_photos) % 8
    store_bytes = num_photos * SIDE_PX**2 * 3 * 2
    ray.init("local", object_store_memory=store_bytes, include_dashboard=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        cache = CacheFolder(Path(folder), 2**40)
        refs, names = [], []
        rng = np.random.default_rng(0)
        for number in range(args.blocks):
            images = rng.integers(0, 256, (per_block, SIDE_PX, SIDE_PX, 3), np.uint8)
            column = ray.data.block.BlockAccessor.batch_to_block({"image": images})
            refs.append(ray.put(column))
            uris = [f"{number}-{row}" for row in range(per_block)]
            keys = photo_keys(uris, [1] * per_block, ["v"] * per_block)
            names.append(cache.add(keys, images, SIDE_PX))
        memory = KeptPhotos(StoreBlocks(tuple(refs)), labels, places, SIDE_PX)
        disk = KeptPhotos(ShardBlocks(cache, tuple(names), SIDE_PX), labels, places, SIDE_PX)
        whole = np.concatenate(disk.blocks.resolve())

        def resolved(rows: np.ndarray, batch_size: int) -> Iterator[object]:
            for start in range(0, len(rows), batch_size):
                chosen = rows[start : start + batch_size]
                blocks = places[chosen, 0]
                images = np.empty((len(chosen), SIDE_PX, SIDE_PX, 3), np.uint8)
                needed = np.unique(blocks)
                for block, value in zip(needed, ray.get([refs[n] for n in needed]), strict=True):
                    here = blocks == block
                    columns = ray.data.block.BlockAccessor.for_block(value).to_numpy(["image"])
                    images[here] = columns["image"][places[chosen, 1][here]]
                yield images

        def one_array(rows: np.ndarray, batch_size: int) -> Iterator[object]:
            for start in range(0, len(rows), batch_size):
                yield whole.take(rows[start : start + batch_size], axis=0)

        sides: dict[str, Batches] = {
            "memory": memory.batches,
            "disk": disk.batches,
            "resolved each batch": resolved,
            "one array": one_array,
        }
        if torch.cuda.is_available():
            device = torch.device("cuda")
            resident = torch.from_numpy(whole).to(device)

            def gathered(rows: np.ndarray, batch_size: int) -> Iterator[object]:
                for part in torch.from_numpy(rows).to(device).split(batch_size):
                    yield resident.index_select(0, part)
                torch.cuda.synchronize()

            sides["gpu"] = gathered
        first = np.random.default_rng(1).permutation(num_photos)[:256]
        for batch in (next(iter(memory.batches(first, 256))), next(iter(disk.batches(first, 256)))):
            assert np.array_equal(batch.images, whole[first]), "the batch has wrong photos"
        print(f"{num_photos} photos in {args.blocks} blocks, median of {args.repeats}\n")
        print("| cache | batch | img/s alone | range | next to launches | launches keep at 3,000 img/s |")
        print("|---|---|---|---|---|---|")
        for side, batches in sides.items():
            for batch_size in (32, 256):
                print(_measure(side, batches, batch_size, num_photos, args), flush=True)
    ray.shutdown()


def _measure(side: str, batches: Batches, batch_size: int, num_photos: int, args: argparse.Namespace) -> str:
    alone, beside, kept = [], [], []

    def feed() -> float:
        return _feed(batches, batch_size, num_photos, args.seconds)

    feed()  # warm-up: it maps the pages
    for _ in range(args.repeats):
        alone.append(feed())
        beside.append(_launches(args.seconds, feed)[1])
    before, _ = _launches(1, None)
    for _ in range(args.alternations):
        fed, _ = _launches(1, lambda: _feed(batches, batch_size, num_photos, 1, NEED_PER_S))
        after, _ = _launches(1, None)
        kept.append(2 * fed / (before + after))
        before = after
    return (
        f"| {side} | {batch_size} | {statistics.median(alone):,.0f} | {min(alone):,.0f} to {max(alone):,.0f} "
        f"| {statistics.median(beside):,.0f} | {statistics.median(kept):.2f} |"
    )


def _feed(
    batches: Batches, batch_size: int, num_photos: int, seconds: float, per_s: float | None = None
) -> float:
    """Read random rows for some seconds, at most per_s photos a second; give the photos per second."""
    rng, done, started_s = np.random.default_rng(2), 0, time.perf_counter()
    while (passed_s := time.perf_counter() - started_s) < seconds:
        for _ in batches(rng.permutation(num_photos), batch_size):
            done += batch_size
            passed_s = time.perf_counter() - started_s
            if passed_s > seconds:
                break
            if per_s is not None and done > per_s * passed_s:
                time.sleep(done / per_s - passed_s)
    return done / passed_s


def _launches(seconds: float, feed: Callable[[], float] | None) -> tuple[float, float]:
    """Start small torch operations in this thread for some seconds, next to a feed in another thread.

    Give the operations per second and the photos per second.
    """
    import torch

    torch.set_num_threads(1)
    value, number = torch.zeros(8), 0
    with ThreadPoolExecutor(1) as thread:
        fed = thread.submit(feed) if feed else None
        started_s = time.perf_counter()
        while time.perf_counter() - started_s < seconds:
            for _ in range(100):
                value = value * 0.5
            number += 100
        rate = number / (time.perf_counter() - started_s)
        return rate, fed.result() if fed else 0.0


def measure_preparations(args: argparse.Namespace) -> None:
    """Prepare the same photos several times and print the seconds and the requests."""
    from physiq_ray.cluster import connect
    from physiq_ray.ingest import StoredPhotos, keep_on_disk
    from physiq_ray.prepared import CacheFolder
    from physiq_ray.sample import LocalS3
    from physiq_ray.storage import current_access, forget_clients, list_sources, parse_source

    buckets = ("feed-one", "feed-two")
    with LocalS3() as server, ThreadPoolExecutor(8) as threads:
        os.environ.update(server.environment)
        forget_clients()
        client = server.client()
        photos = [make_phone_photo(seed) for seed in range(8)]
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        for number in range(args.phones):  # bytes after the end of a JPEG make each object different
            body = photos[number % 8] + number.to_bytes(4, "big")
            threads.submit(client.put_object, Bucket=buckets[number % 2], Key=f"{number:04d}.jpeg", Body=body)
        threads.shutdown()
        connect(local=True)
        reader = StoredPhotos(current_access())

        def list_all() -> pa.Table:
            return pa.concat_tables(
                [listing.table for listing in list_sources([parse_source(f"s3://{b}") for b in buckets])]
            )

        def num_requests() -> int:
            return sum(server.read_traffic(bucket).num_requests for bucket in buckets)

        print("\n| preparation | seconds | of the first | photos asked for |\n|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            cache, first_s = CacheFolder(Path(folder), 2**40), 0.0
            # Ray's workers import packages for seconds when they are first used.
            warm = CacheFolder(Path(folder, "warm"), 2**40)
            keep_on_disk(list_all().slice(0, 64), warm, image_size=SIDE_PX, reader=reader)
            for name in ("first", "again", REPLACED, RESIZED):
                if name == REPLACED:
                    client.put_object(Bucket=buckets[0], Key="0000.jpeg", Body=photos[1])
                table = list_all()
                before = num_requests()
                started_s = time.perf_counter()
                size = 160 if name == RESIZED else SIDE_PX
                kept = keep_on_disk(table, cache, image_size=size, reader=reader)
                next(kept.batches(np.arange(32), 32))
                seconds = time.perf_counter() - started_s
                first_s = first_s or seconds
                print(
                    f"| {name} | {seconds:.2f} | {seconds / first_s:.2f} | {num_requests() - before} |",
                    flush=True,
                )


def main() -> None:
    """Measure the chosen parts and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=["reading", "runs"], default=["reading", "runs"])
    parser.add_argument("--photos", type=int, default=7680, help="photos of reading")
    parser.add_argument("--blocks", type=int, default=120, help="blocks or shards of reading")
    parser.add_argument("--phones", type=int, default=400, help="phone photos of runs")
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side")
    parser.add_argument(
        "--alternations", type=int, default=9, help="seconds with a feed, between seconds without"
    )
    args = parser.parse_args()
    if any(name not in os.environ for name in KEEP_MEMORY):  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**KEEP_MEMORY, **os.environ})
    print(describe_machine("ray", "torch", "pyarrow", "numpy"), end="\n\n")
    if "reading" in args.parts:
        measure_reading(args)
    if "runs" in args.parts:
        measure_preparations(args)


if __name__ == "__main__":
    main()
