"""Measure the time and the peak memory of joining near-duplicates, from hashes to groups.

The goal is a few minutes and 1 GB for a million photos. The hashes are generated: reading and hashing the
photos is not part of the measurement; it takes about as long as decoding them (see ingest.py).

    random  every bit is 0 or 1 with equal probability, and 2 % of the photos have a planted near-duplicate
    gym     each bit has its usual value in 80 % of the photos, as if all photos showed one room
    bursts  chains of 50 photos, each of which differs from the one before it in 2 bits
    equal   100,000 photos are equal, and all others are random

Each kind runs in a process of its own, whose peak memory includes the interpreter.

    python benchmarks/near.py [--photos 1000000] [--kinds random gym bursts equal]
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from machine import describe_machine

from physiq_ray.manifest import PhotoHashes
from physiq_ray.manifest.alike import join_alike

Hashes = npt.NDArray[np.uint64]
KINDS = ("random", "gym", "bursts", "equal")


def flips(rng: np.random.Generator, num_photos: int, num_bits: int) -> Hashes:
    """Give masks with at most num_bits random bits."""
    places = rng.integers(0, 64, (num_photos, num_bits), dtype=np.uint64)
    return np.bitwise_or.reduce(np.uint64(1) << places, axis=1)


def make_hashes(kind: str, num_photos: int) -> Hashes:
    """Generate hashes; equal arguments give equal hashes."""
    rng = np.random.default_rng(7)
    hashes = rng.integers(0, 2**64, num_photos, dtype=np.uint64)
    if kind == "random":
        planted = num_photos // 50
        hashes[:planted] = hashes[planted : 2 * planted] ^ flips(rng, planted, 4)
    elif kind == "gym":
        usual = np.uint64(rng.integers(0, 2**64, dtype=np.uint64))
        hashes = np.full(num_photos, usual)
        for bit in range(64):
            is_other = rng.random(num_photos, np.float32) < 0.2
            hashes ^= is_other.astype(np.uint64) << np.uint64(bit)
    elif kind == "bursts":
        changes = flips(rng, num_photos, 2)
        for start in range(1, 50):
            hashes[start::50] = hashes[start - 1 :: 50][: len(hashes[start::50])] ^ changes[start::50]
    else:
        hashes[rng.choice(num_photos, min(num_photos, 100_000), replace=False)] = hashes[0]
    return hashes


def measure(kind: str, num_photos: int) -> dict[str, float]:
    """Join photos of one kind in this process."""
    hashes = make_hashes(kind, num_photos)
    photos = pa.table({name: pa.nulls(num_photos) for name in ("uri", "size", "etag")})
    found = PhotoHashes(hashes, np.ones(num_photos, bool))
    start = time.perf_counter()
    _, alike = join_alike(photos, np.arange(num_photos), lambda _photos: found)
    return {
        "seconds": time.perf_counter() - start,
        "joined": alike.num_photos,
        "groups": alike.num_groups,
        "largest": alike.largest,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure each kind in a process of its own and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=1_000_000, help="hashes to generate")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of hashes")
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.photos)))
        return
    print(describe_machine("numpy"))
    print("| kind | photos | joined | groups | largest | seconds | peak memory |")
    print("|---|---|---|---|---|---|---|")
    for kind in args.kinds:
        command = [sys.executable, __file__, "--one", kind, "--photos", str(args.photos)]
        run = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"| {kind} | {args.photos:,} | {run['joined']:,} | {run['groups']:,} | {run['largest']:,} "
            f"| {run['seconds']:.1f} s | {run['peak_mib']:.0f} MiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
