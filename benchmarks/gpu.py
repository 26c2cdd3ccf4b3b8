"""Check on one GPU that training and predicting give correct results, and measure their speed.

The goal is that training through Ray reaches 95 % of the speed of the bare step and keeps the GPU busy all
the time. The script needs one GPU, and neither a network nor S3: it generates its photos. Each row of the
table has a figure, what is expected or required of it, and PASS, FAIL or INFO. The expected figures are
estimates for one H100 with 16 cores (ResNet50, 224 px, bf16).

env      versions, GPU, precision, shared memory
tests    tests/gpu, if pytest is installed
step     img/s of the bare step (normalise, augment, forward, backward, Adam) on images that are on the GPU
train    through Ray on thumbnails that are prepared in memory or on the GPU; equal runs; a resumed run
feed     prepared photos from the feed to the device, alone and next to the step
predict  the network for prediction: ms and img/s by batch size, and the first pass of each batch size
graph    the whole step as a CUDA graph: shows whether the saved launches are worth it
stream   through Ray on photos that are decoded in each epoch
decode   photos of 12 megapixels with Pillow, in threads, and with nvJPEG

    python benchmarks/gpu.py --out results
    python benchmarks/gpu.py --only step train
    python benchmarks/gpu.py --smoke              # tiny sizes on the CPU, to test the script
"""

import argparse
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from gpu_report import FULL, SMOKE, Report
from gpu_runs import POSES, REQUIRED_SHARE, ROOT, make_phone_photos, measure_streaming, measure_training
from gpu_step import make_images, make_step, measure_graph, measure_step, measure_steps, synchronize
from machine import describe_machine
from torch.nn import functional

from physiq_ray.machine import usable_cpus

TESTS_LIMIT_S = 240.0


def describe_environment(report: Report, _folder: Path) -> None:
    """Report the GPU, the versions, the precision and the shared memory."""
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
    report.inform("/dev/shm, GB free", shared.f_bavail * shared.f_frsize / 1e9, "over 8: Ray's object store")


def run_tests(report: Report, folder: Path) -> None:
    """Run tests/gpu in a process of its own."""
    if importlib.util.find_spec("pytest") is None:
        report.inform("tests/gpu", "pytest is not installed")
        return
    options = ("--noconftest", "-c", os.devnull, "-q", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *options]
    # The other tests take minutes on a CPU.
    quick = ("tests/gpu/test_feed.py", "tests/gpu/test_prediction.py")
    paths = ("tests/gpu",) if report.sizes.is_cuda else quick
    modules = (str(ROOT / "tests" / "helpers"), str(ROOT), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(modules)}
    if not report.sizes.is_cuda:
        environment["TEST_DEVICE"] = "cpu"
    with (folder / "tests.txt").open("w+") as file:
        done = subprocess.run(
            [*command, f"--basetemp={folder / 'tests'}", *paths],
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


def measure_decoding(report: Report, _folder: Path) -> None:
    """Decode photos of 12 megapixels in one thread, on all cores, and with nvJPEG."""
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
        report.inform("12 MP with nvJPEG", "needs CUDA")
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
    report.inform("12 MP with nvJPEG, resized on the GPU: img/s", per_s, "300 to 1,500")
    turned = torch.rot90(small[0], -1, (1, 2)).permute(1, 2, 0).cpu()  # EXIF orientation 6
    off = (turned - torch.from_numpy(decode(photos[0])).float()).abs().mean().item()
    report.inform("nvJPEG and ours: mean difference of 255", off, "under 2, else training and serving differ")


@dataclass(frozen=True)
class ArrayBlocks:
    """Blocks of images in the memory of this process, in place of those that training maps from Ray."""

    images: tuple[np.ndarray, ...]

    def resolve(self) -> list[np.ndarray]:
        """Give the images of each block."""
        return list(self.images)

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing: the blocks stay in memory."""
        return contextlib.nullcontext()


def measure_feed(report: Report, _folder: Path) -> None:
    """Feed prepared photos to the device, alone and next to the bare step."""
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
        for _ in batches():  # warm-up: it maps pages and pins memory
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


def measure_prediction(report: Report, _folder: Path) -> None:
    """Measure the network for prediction by batch size."""
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
    network.outputs(images[:1])
    firsts = []
    for batch in range(1, 17):
        synchronize()
        started_s = time.perf_counter()
        network.outputs(images[:batch])
        synchronize()
        firsts.append((time.perf_counter() - started_s) * 1000)
    slowest = firsts.index(max(firsts)) + 1
    report.inform(f"first pass of batch 1 to 16: ms, slowest ({slowest})", max(firsts), "under 100")
    for batch in sizes.predict_batches:
        num_passes = 20 if sizes.is_cuda else 2
        network.outputs(images[:batch])
        synchronize()
        started_s = time.perf_counter()
        for _ in range(num_passes):
            network.outputs(images[:batch])
        synchronize()
        pass_s = (time.perf_counter() - started_s) / num_passes
        report.inform(
            f"batch {batch}: ms, img/s",
            f"{pass_s * 1000:.2f}, {batch / pass_s:,.0f}",
            {1: "3 to 5 ms", 16: "4,000", 32: "6,000", 256: "8,000 to 15,000"}.get(batch, "–"),
        )


PARTS: dict[str, Callable[[Report, Path], None]] = {
    "env": describe_environment,
    "tests": run_tests,
    "step": measure_steps,
    "train": measure_training,
    "feed": measure_feed,
    "predict": measure_prediction,
    "graph": measure_graph,
    "stream": measure_streaming,
    "decode": measure_decoding,
}


def run_part(report: Report, name: str, folder: Path) -> None:
    """Run one part; if it raises, report that and let the next parts run."""
    report.part = name
    try:
        PARTS[name](report, folder)
    except Exception as error:
        traceback.print_exc()
        first_line = f"{type(error).__name__}: {error}".splitlines()[0]
        report.check("exception", first_line[:300], "none", holds=False)
    make_step.cache_clear()
    if report.sizes.is_cuda:
        torch.cuda.empty_cache()


def main() -> None:
    """Run the chosen parts, print their table, and write it to gpu.json."""
    started_s = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, help="folder for gpu.json; default: a temporary folder, which is kept"
    )
    parser.add_argument("--budget", type=float, default=480, help="seconds after which no part starts")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU, to test the script")
    args = parser.parse_args()
    if not (args.smoke or torch.cuda.is_available()):
        raise SystemExit("torch finds no CUDA device here; --smoke tests the script on the CPU")
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
                report.inform("left out", f"the budget of {args.budget:g} s is used up")
            else:
                run_part(report, name, Path(folder))
                report.inform("s for this part", time.monotonic() - before_s)
            rows = [asdict(row) for row in report.rows]
            found = {"machine": machine, "gpu": gpu, "smoke": args.smoke, "rows": rows}
            (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    num_failed = sum(row.verdict == "FAIL" for row in report.rows)
    total_s = time.monotonic() - started_s
    print(f"\n{num_failed} FAIL of {len(report.rows)} figures in {total_s:.0f} s; {out / 'gpu.json'}")
    raise SystemExit(1 if num_failed else 0)


if __name__ == "__main__":
    main()
