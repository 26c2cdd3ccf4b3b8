"""GPUs and precision, ImageNet's weights, and the model: what needs torch, in a process of its own."""

import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.request import Request, urlopen

from physiq_ray.config import Settings
from physiq_ray.doctor.finding import Finding, State, from_error
from physiq_ray.doctor.outside import ask, ask_probe
from physiq_ray.errors import CheckpointError

DRIVER_COMMAND = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
DRIVER_S = 4.0
DOWNLOAD_S = 4.0
_PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def check_devices(
    settings: Settings, model: str | None, *, on_cluster: bool, timeout_s: float
) -> Iterator[Finding]:
    """Look at GPUs and precision, at ImageNet's weights if the settings ask for them, and at a model."""
    end_s = time.monotonic() + timeout_s
    rows = [line.split(", ") for line in ask(DRIVER_COMMAND, DRIVER_S).splitlines() if ", " in line]
    models = [] if model is None else [model]
    facts = ask_probe("torch", *models, timeout_s=end_s - time.monotonic())
    yield judge_devices(facts, rows, needs_gpu=settings.use_gpu == "yes" and not on_cluster)
    if "torch" in facts and settings.weights == "imagenet":
        yield _check_weights(facts["torch"])
    if model is not None:
        yield judge_model(model, facts, timeout_s)


def judge_devices(facts: Mapping[str, Any], drivers: list[list[str]], *, needs_gpu: bool) -> Finding:
    """Say which devices a run has; drivers: name and driver version of each GPU that the driver shows."""

    def found(state: State, text: str, remedy: str = "") -> Finding:
        return Finding("machine", "GPU", state, text, remedy)

    if "torch" not in facts:
        if "broken" in facts:
            return found(
                State.WRONG,
                f"torch cannot be imported: {facts['broken']['reason']}",
                "pip install --upgrade --force-reinstall torch torchvision",
            )
        return found(
            State.WARNING, "torch was not imported in time", "try again when the machine is less busy"
        )
    torch = facts["torch"]
    if torch["gpus"]:
        driver = f", driver {drivers[0][1]}" if drivers else ""
        gpus = torch["gpus"]
        sizes = f"{gpus[0]['memory_bytes'] / 2**30:.0f} GiB"
        return found(
            State.OK,
            f"{len(gpus)} × {gpus[0]['name']}, {sizes}, {_PRECISIONS[gpus[0]['precision']]}{driver}",
        )
    at_worst = State.WRONG if needs_gpu else State.WARNING
    if drivers:
        reason = f": {torch['why_none']}" if torch["why_none"] else ""
        return found(
            at_worst,
            f"{len(drivers)} × {drivers[0][0]}, driver {drivers[0][1]}; torch {torch['version']} has none"
            f"{reason}",
            "unset CUDA_VISIBLE_DEVICES, update the driver, or install torch for its version of CUDA",
        )
    text = f"none; CPUs compute in {_PRECISIONS[torch['cpu_precision']]}"
    return found(at_worst, text, "leave out --use-gpu yes") if needs_gpu else found(State.OK, text)


def judge_model(address: str, facts: Mapping[str, Any], timeout_s: float) -> Finding:
    """Describe a model, or say what is wrong with it."""
    if "model" not in facts:
        if "broken" in facts and "torch" not in facts:
            return Finding(
                *("model", address, State.WARNING, "not checked, because torch cannot be imported"),
                "correct that first",
            )
        return Finding(
            *("model", address, State.WRONG, f"did not answer within {timeout_s:.0f} s"),
            "check the network, and try again when the machine is less busy",
        )
    model = facts["model"]
    if "error" in model:
        return from_error("model", address, CheckpointError(model["error"]))
    text = f"version {model['version']}, {len(model['poses'])} poses, {model['image_size']} px"
    return Finding("model", address, State.OK, text)


def _check_weights(torch: Mapping[str, Any]) -> Finding:
    """Check that ImageNet's weights are in torch's cache, or can be downloaded into it."""
    url = torch["weights_url"]
    if torch["has_weights"]:
        return Finding("weights", "imagenet", State.OK, "in torch's cache")
    try:
        urlopen(Request(url, method="HEAD"), timeout=DOWNLOAD_S).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding(
            *("weights", "imagenet", State.WARNING, f"{url} cannot be reached: {reason}"),
            "for a training, give a file or s3:// address by --weights, or --weights random",
        )
    return Finding("weights", "imagenet", State.OK, "will be downloaded from download.pytorch.org")
