"""The bare training step on images that are on the device already: the upper limit of training."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_report import Report, Sizes
from torch.nn import functional

NUM_CLASSES = 8
# The settings of a mode, whether cuDNN is deterministic, and the img/s that are expected of an H100.
MODES: dict[str, tuple[dict[str, str], bool, str]] = {
    "eager": ({}, False, "1,200 to 2,000 at 32; 1,900 to 2,800 at 256"),
    "eager, reproducible": ({}, True, "as eager at 32; 5 to 25 % less at 256"),
    "fp16": ({"precision": "fp16"}, False, "as eager, less the scaler's few kernels"),
    "compiled": ({"compile": "yes"}, False, "1,800 to 2,800 at 32; 2,500 to 3,400 at 256"),
}


def synchronize() -> None:
    """Wait for the GPU, if there is one, so that the clock can be read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_images(sizes: Sizes, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give smooth uint8 images (count, side, side, 3) and labels, on the CPU."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = functional.interpolate(coarse, size=(sizes.side_px, sizes.side_px), mode="bilinear") * 255
    return images.to(torch.uint8).permute(0, 2, 3, 1).contiguous(), torch.arange(count) % NUM_CLASSES


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
    network = Network(settings, range(NUM_CLASSES), None, sizes.device)
    network.begin_epoch(1)
    generator = torch.Generator().manual_seed(0)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        logits = network.forward(augment(normalise(images), STRENGTHS["light"], generator))
        network.backward(functional.cross_entropy(logits, labels, reduction="sum") / len(labels))
        network.step(1e-3)

    return step


@functools.cache
def measure_step(sizes: Sizes, mode: str, batch: int) -> tuple[float, float, float]:
    """Give the img/s of the bare step, the host's ms for each step, and the seconds of the warm-up."""
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
        model = build_model(NUM_CLASSES).to(sizes.device, memory_format=torch.channels_last).train()
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
