"""Claim: training through Ray runs at 95 % of the bare step's speed on one GPU, which is busy all the time.

One run on a machine with one GPU says whether the project is right there, and how fast. Without network or
S3: photos are made here. A row is a figure, what is expected or required of it, and PASS, FAIL or INFO.
Expected figures are estimates for one H100 with 16 cores (ResNet50, 224 px, bf16).

env      versions, GPU, precision, shared memory
tests    tests/gpu, where pytest is installed
step     img/s of the bare step (normalise, augment, forward, backward, Adam) over images that are on the GPU
graph    the whole step as a CUDA graph: whether launches are worth saving
decode   12-megapixel photos by Pillow, in threads, and by nvJPEG
feed     kept photos through the feed to the device, alone and next to the step
train    through Ray on thumbnails that are kept in memory or on the GPU; equal runs; a resumed one
stream   through Ray on photos that are decoded in each epoch
predict  the network that answers: ms and img/s by batch size, and each batch size's first pass

    python benchmarks/gpu.py --out results
    python benchmarks/gpu.py --only step train
    python benchmarks/gpu.py --smoke              # tiny sizes on the CPU, to try the script
"""

import argparse
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from machine import describe_machine
from photos import make_phone_photo, make_thumbnail
from torch.nn import functional

from physiq_ray.machine import usable_cpus

ROOT = Path(__file__).parents[1]
POSES = (1, 2, 5, 6, 7, 11, 14, 16)
REQUIRED_SHARE, REQUIRED_BUSY, MOST_BETWEEN_S = 0.95, 95.0, 0.3
SAMPLE_S, TESTS_LIMIT_S = 0.2, 420.0
# The same numbers in two runs that are equal.
TABLE = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
# How a network trains: settings, whether cuDNN computes alike each time, and what an H100 should reach.
MODES: dict[str, tuple[dict[str, str], bool, str]] = {
    "eager": ({}, False, "1,200 to 2,000 at 32; 1,900 to 2,800 at 256"),
    "eager, reproducible": ({}, True, "as eager at 32; 5 to 25 % less at 256"),
    "fp16": ({"precision": "fp16"}, False, "as eager, less the scaler's few kernels"),
    "compiled": ({"compile": "yes"}, False, "1,800 to 2,800 at 32; 2,500 to 3,400 at 256"),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured: on a GPU, or only to try the script."""

    device: torch.device
    side_px: int
    step_batches: tuple[int, ...]
    train_batches: tuple[int, ...]
    caches: tuple[str, ...]
    modes: tuple[str, ...]
    seconds: float  # of each measurement
    warm_steps: int
    thumbnails: int
    phones: int
    different_phones: int
    kept: int
    predict_batches: tuple[int, ...]

    @property
    def is_cuda(self) -> bool:
        """Whether this is a measurement at all."""
        return self.device.type == "cuda"


FULL = Sizes(
    device=torch.device("cuda", 0),
    side_px=224,
    step_batches=(32, 64, 256),
    train_batches=(32, 256),
    caches=("memory", "gpu"),
    modes=tuple(MODES),
    seconds=2.0,
    warm_steps=8,
    thumbnails=8000,
    phones=1600,
    different_phones=8,
    kept=7680,
    predict_batches=(1, 16, 32, 256),
)
SMOKE = Sizes(
    device=torch.device("cpu"),
    side_px=64,
    step_batches=(4,),
    train_batches=(8,),
    caches=("memory",),
    modes=("eager", "eager, reproducible"),
    seconds=0.3,
    warm_steps=1,
    thumbnails=48,
    phones=16,
    different_phones=1,
    kept=64,
    predict_batches=(1, 4),
)


@dataclass(frozen=True)
class Row:
    """One figure; word: PASS, FAIL, or INFO where nothing is required."""

    part: str
    figure: str
    seen: str
    expected: str
    word: str


@dataclass
class Report:
    """The table, printed row by row."""

    sizes: Sizes
    part: str = ""
    rows: list[Row] = field(default_factory=list)

    def inform(self, figure: str, seen: object, expected: str = "–") -> None:
        """Add a figure of which nothing is required."""
        self._add(figure, seen, expected, "INFO")

    def check(self, figure: str, seen: object, expected: str, *, holds: bool) -> None:
        """Add something that is right or wrong on every machine."""
        self._add(figure, seen, expected, "PASS" if holds else "FAIL")

    def require(self, figure: str, seen: object, expected: str, *, holds: bool) -> None:
        """Add a figure that a GPU must reach; a CPU that tries the script need not."""
        self._add(figure, seen, expected, ("PASS" if holds else "FAIL") if self.sizes.is_cuda else "INFO")

    def _add(self, figure: str, seen: object, expected: str, word: str) -> None:
        text = f"{seen:,.4g}" if isinstance(seen, float) and abs(seen) < 1000 else seen
        row = Row(self.part, figure, f"{text:,.0f}" if isinstance(text, float) else str(text), expected, word)
        self.rows.append(row)
        cells = (row.part, row.figure, row.seen, row.expected, row.word)
        print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |", flush=True)


# --- What several parts use ---------------------------------------------------------------------------


def synchronize() -> None:
    """Wait for the GPU, if there is one: a clock is read afterwards only."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_images(sizes: Sizes, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give smooth uint8 images (count, side, side, 3) and labels, on the CPU."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = functional.interpolate(coarse, size=(sizes.side_px, sizes.side_px), mode="bilinear") * 255
    return images.to(torch.uint8).permute(0, 2, 3, 1).contiguous(), torch.arange(count) % len(POSES)


@functools.cache
def make_step(sizes: Sizes, mode: str, batch: int) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Give the bare step of a new network, on images and labels that are on the device."""
    from physiq_ray.config import Settings
    from physiq_ray.model import normalise
    from physiq_ray.training.augment import STRENGTHS, augment
    from physiq_ray.training.loop import set_up_cudnn
    from physiq_ray.training.network import Network

    values, reproducible, _ = MODES[mode]
    set_up_cudnn("yes" if reproducible else "no")
    torch._dynamo.reset()
    settings = Settings.model_validate(
        {"weights": "random", "image_size": sizes.side_px, "batch_size": batch, **values}
    )
    network = Network(settings, len(POSES), None, sizes.device)
    network.begin_epoch(1)
    generator = torch.Generator().manual_seed(0)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        logits = network.forward(augment(normalise(images), STRENGTHS["light"], generator))
        network.backward(functional.cross_entropy(logits, labels, reduction="sum") / len(labels))
        network.step(1e-3)

    return step


@functools.cache
def measure_step(sizes: Sizes, mode: str, batch: int) -> tuple[float, float, float]:
    """Give the bare step's img/s, the host's ms a step, and the seconds of the first steps."""
    step = make_step(sizes, mode, batch)
    images, labels = (part.to(sizes.device) for part in make_images(sizes, batch))
    synchronize()
    started_s = time.perf_counter()
    for _ in range(sizes.warm_steps):
        step(images, labels)
    synchronize()
    warm_s = time.perf_counter() - started_s
    started_s, num_steps, host_s = time.perf_counter(), 0, 0.0
    while (passed_s := time.perf_counter() - started_s) < sizes.seconds:
        before_s = time.perf_counter()
        for _ in range(5 if sizes.is_cuda else 1):
            step(images, labels)
            num_steps += 1
        host_s += time.perf_counter() - before_s
        synchronize()
        passed_s = time.perf_counter() - started_s
    make_step.cache_clear()
    if sizes.is_cuda:
        torch.cuda.empty_cache()
    return num_steps * batch / passed_s, host_s / num_steps * 1000, warm_s


@functools.cache
def make_phone_photos(count: int) -> tuple[bytes, ...]:
    """Give so many 12-megapixel photos, drawn in threads: CUDA does not outlive a fork."""
    with ThreadPoolExecutor(min(count, usable_cpus())) as threads:
        return tuple(threads.map(make_phone_photo, range(count)))


class GpuUse:
    """How busy the GPU is, sampled while inside, with the clock of each sample.

    By NVIDIA's library where its Python package is there, else by nvidia-smi; with neither there are none.
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
        """Give the percentages sampled in a time; each is a mean over the moment before it."""
        return [percent for at_s, percent in self._samples if start_s + SAMPLE_S <= at_s <= end_s]

    def _sample(self) -> None:
        try:
            torch.cuda.utilization()
        except Exception:  # ModuleNotFoundError, and what NVIDIA's library raises where it finds no driver
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


# --- Parts --------------------------------------------------------------------------------------------


def look_at_the_machine(report: Report, _folder: Path) -> None:
    """Say what runs here."""
    from physiq_ray.model import choose_precision

    sizes = report.sizes
    if sizes.is_cuda:
        properties = torch.cuda.get_device_properties(0)
        memory, capability = properties.total_memory / 2**30, torch.cuda.get_device_capability()
        report.inform("GPU", f"{properties.name}, {memory:.0f} GiB, capability {capability}", "an H100")
        report.inform("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}")
    report.inform("cores", usable_cpus(), "16")
    report.inform("precision auto", choose_precision("auto", sizes.device), "torch.bfloat16")
    shared = os.statvfs("/dev/shm")
    report.inform("/dev/shm, GB free", shared.f_bavail * shared.f_frsize / 1e9, "over 8: Ray's store")


def run_tests(report: Report, folder: Path) -> None:
    """Run tests/gpu in a process of its own."""
    if importlib.util.find_spec("pytest") is None:
        report.inform("tests/gpu", "pytest is not installed")
        return
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--noconftest",
        "-c",
        os.devnull,
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, **({} if report.sizes.is_cuda else {"TEST_DEVICE": "cpu"})}
    with (folder / "tests.txt").open("w+") as file:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}", "tests/gpu"],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=TESTS_LIMIT_S,
            check=False,
        )
        file.seek(0)
        lines = [line.strip() for line in file if line.strip()]
    if done.returncode:
        print("\n".join(lines[-120:]), file=sys.stderr)
    report.check("tests/gpu", lines[-1].strip("= ") if lines else "–", "passed", holds=done.returncode == 0)


def measure_steps(report: Report, _folder: Path) -> None:
    """Measure the bare step in each mode, and count its kernels."""
    sizes = report.sizes
    for mode in sizes.modes:
        for batch in sizes.step_batches:
            per_s, host_ms, warm_s = measure_step(sizes, mode, batch)
            seen = f"{per_s:,.0f}, {host_ms:.1f}, {warm_s:.1f}"
            report.inform(f"{mode}, batch {batch}: img/s, host ms, s to warm up", seen, MODES[mode][2])
    batch = sizes.step_batches[0]
    step = make_step(sizes, "eager", batch)
    images, labels = (part.to(sizes.device) for part in make_images(sizes, batch))
    for _ in range(sizes.warm_steps):
        step(images, labels)
    synchronize()
    kind = torch.profiler.ProfilerActivity.CUDA if sizes.is_cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind]) as profile:
        for _ in range(3):
            step(images, labels)
        synchronize()
    make_step.cache_clear()
    if not sizes.is_cuda:
        report.inform("operations a step", len(list(profile.events())) // 3, "kernels are a GPU's")
        return
    kernels = [event for event in profile.events() if event.device_type.name == "CUDA"]
    busy_ms = sum(event.device_time_total for event in kernels) / 3 / 1000
    report.inform(
        f"eager, batch {batch}: kernels a step, ms of all of them",
        f"{len(kernels) / 3:.0f}, {busy_ms:.1f}",
        "700 to 1,000; 11 to 16 ms",
    )


def measure_graph(report: Report, _folder: Path) -> None:
    """Replay the whole step as a CUDA graph, without augmentation."""
    from physiq_ray.model import build_model, normalise

    sizes = report.sizes
    if not sizes.is_cuda:
        report.inform("captured step", "needs CUDA")
        return
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    for batch in sizes.step_batches:
        model = build_model(len(POSES)).to(sizes.device, memory_format=torch.channels_last).train()
        adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True, capturable=True)
        images, labels = (part.to(sizes.device) for part in make_images(sizes, batch))

        def step(model=model, adam=adam, images=images, labels=labels) -> None:
            adam.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                logits = model(normalise(images))
            functional.cross_entropy(logits.float(), labels).backward()
            adam.step()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(4):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        adam.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            step()
        graph.replay()
        synchronize()
        started_s, num_steps = time.perf_counter(), 60
        for _ in range(num_steps):
            graph.replay()
        synchronize()
        per_s = num_steps * batch / (time.perf_counter() - started_s)
        bare = measure_step(sizes, "eager", batch)[0]
        report.inform(
            f"captured step, batch {batch}: img/s, times the bare one",
            f"{per_s:,.0f}, {per_s / bare:.2f}",
            "2,200 to 3,000; 1.3 and more at 32 would pay",
        )
        del graph, model, adam, step


def measure_decoding(report: Report, _folder: Path) -> None:
    """Decode 12-megapixel photos by one thread, by all cores, and by nvJPEG."""
    from physiq_ray.images import decode_square

    sizes = report.sizes
    photos = make_phone_photos(sizes.different_phones)
    decode = functools.partial(decode_square, size_px=sizes.side_px)
    started_s = time.perf_counter()
    for photo in photos[:4]:
        decode(photo)
    report.inform("12 MP, one thread: img/s", len(photos[:4]) / (time.perf_counter() - started_s), "25 to 45")
    num_threads = usable_cpus()
    with ThreadPoolExecutor(num_threads) as threads:
        many = list(itertools.islice(itertools.cycle(photos), num_threads * (8 if sizes.is_cuda else 1)))
        started_s = time.perf_counter()
        list(threads.map(decode, many))
        per_s = len(many) / (time.perf_counter() - started_s)
    report.inform(f"12 MP, {num_threads} threads: img/s", per_s, "400 to 600")
    if not sizes.is_cuda:
        report.inform("12 MP by nvJPEG", "needs CUDA")
        return
    from torchvision.io import decode_jpeg

    files = [torch.frombuffer(bytearray(photo), dtype=torch.uint8) for photo in photos]
    square = {"size": (sizes.side_px, sizes.side_px), "mode": "bilinear", "antialias": True}

    def decode_all() -> list[torch.Tensor]:
        found = decode_jpeg(files, device=sizes.device)
        return [functional.interpolate(image[None].float(), **square)[0] for image in found]

    small = decode_all()
    synchronize()
    started_s = time.perf_counter()
    for _ in range(5):
        decode_all()
    synchronize()
    per_s = 5 * len(files) / (time.perf_counter() - started_s)
    report.inform("12 MP by nvJPEG, resized on the GPU: img/s", per_s, "300 to 1,500")
    turned = torch.rot90(small[0], -1, (1, 2)).permute(1, 2, 0).cpu()  # EXIF orientation 6
    off = (turned - torch.from_numpy(decode(photos[0])).float()).abs().mean().item()
    report.inform("nvJPEG and ours, mean difference of 255", off, "under 2, else training and serving differ")


@dataclass(frozen=True)
class ArrayBlocks:
    """Images in this process's memory, as training maps them from Ray's."""

    images: tuple[np.ndarray, ...]

    def resolve(self) -> list[np.ndarray]:
        """Give each block's images."""
        return list(self.images)

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()


def measure_feed(report: Report, _folder: Path) -> None:
    """Feed kept photos to the device, alone and next to the bare step."""
    from physiq_ray.ingest import KeptPhotos
    from physiq_ray.training.feed import Feed, Worker

    sizes, num_blocks = report.sizes, 16
    per_block = sizes.kept // num_blocks
    rng = np.random.default_rng(0)
    shape = (per_block, sizes.side_px, sizes.side_px, 3)
    blocks = ArrayBlocks(tuple(rng.integers(0, 256, shape, np.uint8) for _ in range(num_blocks)))
    places = np.stack(np.divmod(np.arange(sizes.kept), per_block), axis=1)
    photos = KeptPhotos(blocks, np.arange(sizes.kept) % len(POSES), places, sizes.side_px)
    worker = Worker(0, 1, sizes.device)
    for is_resident, batch in itertools.product((False, True), sizes.train_batches):
        feed = Feed({"train": photos}, worker, batch_size=batch)
        if is_resident:
            feed.load_all()

        def batches(feed: Feed = feed, batch: int = batch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            rows = np.random.default_rng(1).permutation(sizes.kept)
            feed.begin(1, {"train": rows[: len(rows) // batch * batch]})
            return feed.batches("train")

        name = f"{'on the GPU' if is_resident else 'in memory'}, batch {batch}"
        for _ in batches():  # maps pages and pins memory
            pass
        alone = _photos_a_second(batches(), lambda _images, _labels: None)
        report.inform(f"{name}, alone: img/s", alone, "over 1,000,000" if is_resident else "over 15,000")
        bare = measure_step(sizes, "eager", batch)[0]
        step = make_step(sizes, "eager", batch)
        images, labels = (part.to(sizes.device) for part in make_images(sizes, batch))
        for _ in range(sizes.warm_steps):
            step(images, labels)
        beside = _photos_a_second(batches(), step)
        report.require(
            f"{name}, next to the step: share of the bare step's {bare:,.0f} img/s",
            beside / bare,
            f"at least {REQUIRED_SHARE}",
            holds=beside / bare >= REQUIRED_SHARE,
        )
        make_step.cache_clear()


def _photos_a_second(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]], use: Callable[[torch.Tensor, torch.Tensor], None]
) -> float:
    synchronize()
    started_s, num_photos = time.perf_counter(), 0
    for images, labels in batches:
        use(images, labels)
        num_photos += len(labels)
    synchronize()
    return num_photos / (time.perf_counter() - started_s)


def write_photos(sizes: Sizes, folder: Path, kind: str) -> Path:
    """Write thumbnails or phone photos once, in a folder for each pose; give the folder of all."""
    source = folder / kind
    if source.exists():
        return source
    photos = list(make_phone_photos(sizes.different_phones))
    if kind == "thumbnails":
        photos = [make_thumbnail(photo) for photo in photos]
    for pose_id in POSES:
        (source / str(pose_id)).mkdir(parents=True)
    for number in range(sizes.thumbnails if kind == "thumbnails" else sizes.phones):
        # Bytes behind a JPEG's end make another file of it, and no other picture.
        path = source / str(POSES[number % len(POSES)]) / f"{number:06d}.jpeg"
        path.write_bytes(photos[number % len(photos)] + number.to_bytes(4, "big"))
    return source


@dataclass(frozen=True)
class Run:
    """What one training gave: its epochs, and how busy the GPU was in the second."""

    history: list[dict[str, Any]]
    busy: list[float]

    @property
    def per_s(self) -> float:
        """Photos a second in training, of the epochs after the first."""
        later = self.history[1:] or self.history
        return statistics.median(epoch["train_photos"] / epoch["train_seconds"] for epoch in later)

    @property
    def between_s(self) -> float:
        """The longest time from an epoch's end to the next one's start; 0 where there is one epoch only."""
        gaps = [
            after["time"] - after["seconds"] - before["time"]
            for before, after in itertools.pairwise(self.history)
        ]
        return max(gaps, default=0.0)

    @property
    def busy_percent(self) -> float:
        """The mean over the second epoch; 0 without samples."""
        return statistics.fmean(self.busy) if self.busy else 0.0


def run_training(
    sizes: Sizes, folder: Path, name: str, kind: str, *, resume: bool = False, **values: Any
) -> Run:
    """Train through Ray on this machine."""
    from rich.console import Console

    from physiq_ray.config import Settings
    from physiq_ray.training.progress import Display
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
    with GpuUse(sizes) as use:
        result = train(settings, Display(Console(stderr=True)), local=True, resume=resume)
    history = [dict(epoch) for epoch in result.history]
    second = history[min(1, len(history) - 1)]
    return Run(history, use.between(second["time"] - second["seconds"], second["time"]))


def measure_training(report: Report, folder: Path) -> None:
    """Train through Ray on kept photos; the bare step of the same mode and batch is the limit."""
    sizes = report.sizes
    for cache, batch in itertools.product(sizes.caches, sizes.train_batches):
        bare = measure_step(sizes, "eager", batch)[0]
        name = f"cache {cache}, batch {batch}"
        run = run_training(
            sizes, folder, f"train-{cache}-{batch}", "thumbnails", cache=cache, batch_size=batch, epochs=3
        )
        first = run.history[0]
        report.inform(f"{name}: img/s, first epoch", first["train_photos"] / first["train_seconds"])
        report.inform(
            f"{name}: img/s, later epochs", run.per_s, "1,200 to 2,000 at 32; 1,900 to 2,800 at 256"
        )
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
    straight = run_training(sizes, folder, "straight", "thumbnails", epochs=3, **values)
    cut = run_training(sizes, folder, "cut", "thumbnails", epochs=2, **values)
    resumed = run_training(sizes, folder, "cut", "thumbnails", resume=True, epochs=3, **values)
    seen = _tables(straight.history[:2]), _tables(cut.history)
    report.check("reproducible=yes: two runs' epochs", _losses(*seen), "equal", holds=seen[0] == seen[1])
    seen = _tables(straight.history[2:]), _tables(resumed.history[2:])
    report.check(
        "reproducible=yes: third epoch, straight and resumed",
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
        report.inform(f"{name}: GPU busy in it, % of {len(run.busy)} samples", run.busy_percent)
        report.inform(f"{name}: s between epochs", run.between_s, "about 1: Ray Data starts")


def measure_prediction(report: Report, _folder: Path) -> None:
    """Answer by the network that is made ready for it."""
    from physiq_ray.checkpoint import ModelState
    from physiq_ray.labels import ClassMapping
    from physiq_ray.model import build_model
    from physiq_ray.prediction.network import Network

    sizes = report.sizes
    torch.manual_seed(0)
    names = {pose_id: str(pose_id) for pose_id in POSES}
    weights = build_model(len(POSES)).state_dict()
    state = ModelState(weights, ClassMapping.of_poses(POSES), names, image_size=sizes.side_px)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, False  # as in a service
    network = Network(state, use_gpu=sizes.is_cuda)
    images, _ = make_images(sizes, max(*sizes.predict_batches, 16))
    network.logits(images[:1])
    firsts = []
    for batch in range(1, 17):
        synchronize()
        started_s = time.perf_counter()
        network.logits(images[:batch])
        synchronize()
        firsts.append((time.perf_counter() - started_s) * 1000)
    slowest = firsts.index(max(firsts)) + 1
    report.inform(f"first pass of batch 1 to 16: ms, slowest ({slowest})", max(firsts), "under 100")
    for batch in sizes.predict_batches:
        num_passes = 20 if sizes.is_cuda else 2
        network.logits(images[:batch])
        synchronize()
        started_s = time.perf_counter()
        for _ in range(num_passes):
            network.logits(images[:batch])
        synchronize()
        pass_s = (time.perf_counter() - started_s) / num_passes
        report.inform(
            f"batch {batch}: ms, img/s",
            f"{pass_s * 1000:.2f}, {batch / pass_s:,.0f}",
            {1: "3 to 5 ms", 16: "4,000", 32: "6,000", 256: "8,000 to 15,000"}.get(batch, "–"),
        )


PARTS: dict[str, Callable[[Report, Path], None]] = {
    "env": look_at_the_machine,
    "tests": run_tests,
    "step": measure_steps,
    "graph": measure_graph,
    "decode": measure_decoding,
    "feed": measure_feed,
    "train": measure_training,
    "stream": measure_streaming,
    "predict": measure_prediction,
}


def run_part(report: Report, name: str, folder: Path) -> None:
    """Run one part; if it raises, the next ones may still tell something."""
    report.part = name
    try:
        PARTS[name](report, folder)
    except Exception as error:
        traceback.print_exc()
        first_line = f"{type(error).__name__}: {error}".splitlines()[0]
        report.check("raised", first_line[:300], "nothing", holds=False)
    make_step.cache_clear()
    if report.sizes.is_cuda:
        torch.cuda.empty_cache()


def main() -> None:
    """Run the parts that are asked for, print their table, and write it as gpu.json."""
    started_s = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for gpu.json; default: a temporary one, which stays")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which no part starts")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU, to try the script")
    args = parser.parse_args()
    if not (args.smoke or torch.cuda.is_available()):
        raise SystemExit("torch finds no CUDA device here; --smoke tries the script on the CPU")
    sizes = SMOKE if args.smoke else FULL
    out = args.out or Path(tempfile.mkdtemp(prefix="physiq-gpu-"))
    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine("ray", "torch", "torchvision", "pillow", "pyarrow", "numpy")
    gpu = torch.cuda.get_device_name() if sizes.is_cuda else "no GPU"
    print(f"{machine}, {gpu}\n\n| part | figure | seen | expected | |\n|---|---|---|---|---|", flush=True)
    report = Report(sizes)
    with tempfile.TemporaryDirectory(prefix="physiq-gpu-", ignore_cleanup_errors=True) as folder:
        for name, value in {
            "RAY_USAGE_STATS_ENABLED": "0",
            "NCCL_SOCKET_IFNAME": "lo",
            "GLOO_SOCKET_IFNAME": "lo",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        }.items():
            os.environ.setdefault(name, value)
        for name in args.only:
            before_s = time.monotonic()
            if before_s - started_s > args.budget:
                report.part = name
                report.inform("left out", f"{args.budget:g} s are over")
            else:
                run_part(report, name, Path(folder))
                report.inform("s for this part", time.monotonic() - before_s)
            rows = [asdict(row) for row in report.rows]
            found = {"machine": machine, "gpu": gpu, "smoke": args.smoke, "rows": rows}
            (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    failed = [row for row in report.rows if row.word == "FAIL"]
    print(
        f"\n{len(failed)} FAIL of {len(report.rows)} in {time.monotonic() - started_s:.0f} s; {out / 'gpu.json'}"
    )
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
