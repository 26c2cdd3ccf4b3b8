"""Training through Ray on one GPU: its share of the bare step, and whether equal runs give equal results."""

import contextlib
import functools
import itertools
import shutil
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from gpu_report import Report, Sizes
from gpu_step import MODES, measure_step
from photos import make_phone_photo, make_thumbnail

from physiq_ray.machine import usable_cpus

ROOT = Path(__file__).parents[1]
POSES = (1, 2, 5, 6, 7, 11, 14, 16)
REQUIRED_SHARE, REQUIRED_BUSY, MOST_BETWEEN_S = 0.95, 95.0, 0.3
SAMPLE_S = 0.2
# The values that must be equal in equal runs.
TABLE = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


@functools.cache
def make_phone_photos(count: int) -> tuple[bytes, ...]:
    """Generate photos of 12 megapixels in threads, because CUDA does not survive a fork."""
    with ThreadPoolExecutor(min(count, usable_cpus())) as threads:
        return tuple(threads.map(make_phone_photo, range(count)))


class GpuUtilization:
    """Samples of the GPU's utilization with their times, taken while the context is open.

    They come from NVIDIA's library if its Python package is installed, otherwise from nvidia-smi. If neither
    is installed, there are no samples.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._is_cuda, self._samples = sizes.is_cuda, list[tuple[float, float]]()
        self._done, self._process = threading.Event(), None

    def __enter__(self) -> Self:
        if self._is_cuda:
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        if self._is_cuda:
            if self._process is not None:
                self._process.terminate()
            self._thread.join(timeout=10)

    def between(self, start_s: float, end_s: float) -> list[float]:
        """Give the percentages between two times; each is the mean of the interval before its sample."""
        return [percent for at_s, percent in self._samples if start_s + SAMPLE_S <= at_s <= end_s]

    def _sample(self) -> None:
        try:
            torch.cuda.utilization()
        except Exception:  # ModuleNotFoundError, or the error of NVIDIA's library without a driver
            self._read_nvidia_smi()
            return
        while not self._done.wait(SAMPLE_S):
            self._samples.append((time.time(), float(torch.cuda.utilization())))

    def _read_nvidia_smi(self) -> None:
        if shutil.which("nvidia-smi") is None:
            return
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        query = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")
        command = ["nvidia-smi", f"--id={uuid}", *query, "-lms", str(int(SAMPLE_S * 1000))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as self._process:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                with contextlib.suppress(ValueError):
                    self._samples.append((time.time(), float(line)))
                if self._done.is_set():
                    self._process.terminate()


def write_photos(sizes: Sizes, folder: Path, kind: str) -> Path:
    """Write thumbnails or phone photos once, with one folder for each pose; give their parent folder."""
    source = folder / kind
    if source.exists():
        return source
    photos = list(make_phone_photos(sizes.different_phones))
    if kind == "thumbnails":
        photos = [make_thumbnail(photo) for photo in photos]
    for pose_id in POSES:
        (source / str(pose_id)).mkdir(parents=True)
    for number in range(sizes.thumbnails if kind == "thumbnails" else sizes.phones):
        # Bytes after the end of a JPEG change the file, but not the picture.
        path = source / str(POSES[number % len(POSES)]) / f"{number:06d}.jpeg"
        path.write_bytes(photos[number % len(photos)] + number.to_bytes(4, "big"))
    return source


@dataclass(frozen=True)
class Run:
    """The epochs of one run, and the utilization of the GPU in the second epoch."""

    history: list[dict[str, Any]]
    busy: list[float]

    @property
    def per_s(self) -> float:
        """The training rate in photos per second, median of the epochs after the first."""
        later = self.history[1:] or self.history
        return statistics.median(epoch["train_photos"] / epoch["train_seconds"] for epoch in later)

    @property
    def between_s(self) -> float:
        """The longest time between the end of an epoch and the start of the next one; 0 for one epoch."""
        gaps = [
            after["time"] - after["seconds"] - before["time"]
            for before, after in itertools.pairwise(self.history)
        ]
        return max(gaps, default=0.0)

    @property
    def busy_percent(self) -> float:
        """The mean utilization in the second epoch; 0 without samples."""
        return statistics.fmean(self.busy) if self.busy else 0.0


def run_training(
    sizes: Sizes, folder: Path, name: str, kind: str, *, resume: bool = False, **values: Any
) -> Run:
    """Train through Ray on this machine."""
    from rich.console import Console

    from physiq_ray.config import Settings
    from physiq_ray.progress import Display
    from physiq_ray.training.run import train

    labels = folder / "none.json"
    labels.write_text("[]")
    settings = Settings.model_validate(
        {
            "sources": (str(write_photos(sizes, folder, kind)),),
            "labels": str(labels),
            "poses": str(ROOT / "mappings" / "poses.json"),
            "weights": "random",
            "image_size": sizes.side_px,
            "learning_rate": 1e-3,
            "patience": 50,
            "use_gpu": "yes" if sizes.is_cuda else "no",
            "run_name": name,
            "output": str(folder / "models" / name),
            "storage": str(folder / "runs"),
            **values,
        }
    )
    if sizes.is_cuda:
        torch.cuda.empty_cache()  # the worker is another process on the same GPU
    with GpuUtilization(sizes) as utilization:
        result = train(settings, Display(Console(stderr=True)), local=True, resume=resume)
    history = [dict(epoch) for epoch in result.history]
    second = history[min(1, len(history) - 1)]
    return Run(history, utilization.between(second["time"] - second["seconds"], second["time"]))


def measure_training(report: Report, folder: Path) -> None:
    """Train through Ray on prepared photos, and compare with the bare step of the same mode and batch."""
    sizes = report.sizes
    for cache, batch in itertools.product(sizes.caches, sizes.train_batches):
        bare = measure_step(sizes, "eager", batch)[0]
        name = f"cache {cache}, batch {batch}"
        run = run_training(
            sizes, folder, f"train-{cache}-{batch}", "thumbnails", cache=cache, batch_size=batch, epochs=3
        )
        first = run.history[0]
        report.inform(f"{name}: img/s, first epoch", first["train_photos"] / first["train_seconds"])
        report.inform(f"{name}: img/s, later epochs", run.per_s, MODES["eager"][2])
        report.require(
            f"{name}: share of the bare step's {bare:,.0f} img/s",
            run.per_s / bare,
            f"at least {REQUIRED_SHARE}",
            holds=run.per_s / bare >= REQUIRED_SHARE,
        )
        report.require(
            f"{name}: GPU busy in the second epoch, % of {len(run.busy)} samples",
            run.busy_percent,
            f"at least {REQUIRED_BUSY:g}",
            holds=run.busy_percent >= REQUIRED_BUSY,
        )
        report.require(
            f"{name}: s between epochs, longest",
            run.between_s,
            f"at most {MOST_BETWEEN_S}",
            holds=run.between_s <= MOST_BETWEEN_S,
        )
    values = {"cache": "memory", "batch_size": sizes.train_batches[-1], "reproducible": "yes"}
    uninterrupted = run_training(sizes, folder, "uninterrupted", "thumbnails", epochs=3, **values)
    stopped = run_training(sizes, folder, "stopped", "thumbnails", epochs=2, **values)
    resumed = run_training(sizes, folder, "stopped", "thumbnails", resume=True, epochs=3, **values)
    seen = _tables(uninterrupted.history[:2]), _tables(stopped.history)
    report.check("reproducible=yes: two runs' epochs", _losses(*seen), "equal", holds=seen[0] == seen[1])
    seen = _tables(uninterrupted.history[2:]), _tables(resumed.history[2:])
    report.check(
        "reproducible=yes: third epoch, uninterrupted and resumed",
        _losses(*seen),
        "equal",
        holds=seen[0] == seen[1] and len(seen[0]) == 1,
    )


def _tables(history: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    return [tuple(epoch[name] for name in TABLE) for epoch in history]


def _losses(*tables: list[tuple[float, ...]]) -> str:
    return " and ".join(" ".join(f"{epoch[0]:.9f}" for epoch in table) for table in tables)


def measure_streaming(report: Report, folder: Path) -> None:
    """Train through Ray on photos that are decoded in each epoch."""
    sizes = report.sizes
    for kind, batch, expected in (
        ("thumbnails", sizes.train_batches[-1], "1,000 to 2,500"),
        ("phones", min(64, sizes.train_batches[-1]), "300 to 500: decoding is the limit"),
    ):
        run = run_training(sizes, folder, f"stream-{kind}", kind, cache="none", batch_size=batch, epochs=2)
        name = f"{kind}, batch {batch}"
        report.inform(f"{name}: img/s, second epoch", run.per_s, expected)
        report.inform(f"{name}: GPU busy in the second epoch, % of {len(run.busy)} samples", run.busy_percent)
        report.inform(f"{name}: s between epochs", run.between_s)
