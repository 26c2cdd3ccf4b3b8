"""Measure how long the comparison of two models takes in a replica, and what it costs other requests.

A replica without Serve compares two models of random weights on photos of a manifest, as `compare_on` does.
Meanwhile one client sends one photo after another; its latencies are compared with those before.

    python benchmarks/gate.py
    python benchmarks/gate.py --photo phone --photos 100
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import torch
from machine import describe_machine
from photos import make_phone_photo, make_thumbnail

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.config import ServingSettings
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.model import build_model
from physiq_ray.serving.service import Service

NAMES = {number: f"Pose {number}" for number in range(1, 9)}


class OneReplica:
    """What a replica learns from others and reports: nothing."""

    def __getattr__(self, name: str) -> object:
        """Accept each call; there is no verdict of another replica."""
        return lambda *args, **_named: args[-1] if name == "agree" else None


def write_photos(folder: Path, photos: list[bytes]) -> str:
    """Write the photos and a manifest of them; each is its own group."""
    rows = []
    for number, data in enumerate([*photos, *photos[:8]]):
        path = folder / f"{number}.jpg"
        path.write_bytes(data)
        rows.append(
            {
                **{"uri": str(path), "bucket": str(folder), "key": path.name, "size": len(data)},
                **{"etag": str(number), "pose_id": number % 8 + 1, "class_index": number % 8},
                **{"group": str(number), "split": "test" if number < len(photos) else "train"},
            }
        )
    rows[-1]["split"] = "validation"
    manifest = Manifest(pa.Table.from_pylist(rows, MANIFEST_SCHEMA), ClassMapping.of_poses(NAMES))
    (folder / "manifest.parquet").write_bytes(manifest.to_parquet())
    return str(folder / "manifest.parquet")


def write_model(folder: Path, seed: int) -> str:
    """Write a model of random weights."""
    torch.manual_seed(seed)
    state = ModelState(
        build_model(8).state_dict(), ClassMapping.of_poses(NAMES), NAMES, temperature=1.0 + seed
    )
    save_model_files(replace(state), str(folder))
    return str(folder)


async def measure(folder: Path, photos: list[bytes]) -> None:
    """Change the model with a comparison, and print the times."""
    manifest = write_photos(folder, photos)
    old, new = (write_model(folder / name, seed) for name, seed in (("old", 0), ("new", 1)))
    settings = ServingSettings(model=old, cpus_per_replica=2, compare_on=manifest)
    service = Service(settings, OneReplica(), OneReplica())  # type: ignore[arg-type]
    await service.models.start({})

    async def latency_ms() -> float:
        started_s = time.perf_counter()
        await service.answer(photos[0])
        return 1000 * (time.perf_counter() - started_s)

    await latency_ms()
    before = [await latency_ms() for _ in range(50)]
    started_s = time.perf_counter()
    change = service.models.change({"model": new})
    during = []
    while not change.done():
        during.append(await latency_ms())
    took_s = time.perf_counter() - started_s
    started_s = time.perf_counter()
    await service.models.change({"model": new if service.models.refused else old})
    alone_s = time.perf_counter() - started_s
    for name, values in (("before", before), ("during the comparison", during)):
        print(f"{name}: median {statistics.median(values):.0f} ms, maximum {max(values):.0f} ms")
    print(f"{len(photos)} photos: {took_s:.0f} s next to these requests, {alone_s:.0f} s without them")
    service.close()


def main() -> None:
    """Measure with the chosen photos."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photo", choices=("thumbnail", "phone"), default="thumbnail")
    parser.add_argument("--photos", type=int, default=300, help="photos in the manifest")
    args = parser.parse_args()
    print(describe_machine("torch"))
    phones = [make_phone_photo(seed) for seed in range(8)]
    drawn = phones if args.photo == "phone" else [make_thumbnail(photo) for photo in phones]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), [drawn[number % 8] for number in range(args.photos)]))


if __name__ == "__main__":
    main()
