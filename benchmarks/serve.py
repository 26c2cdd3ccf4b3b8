"""Compare serving with the bare forward pass and with other services, and measure overload and memory.

Each side is a server on loopback with the same weights. wrk (hey for the overload) sends the requests from
the same machine. Both come from Debian (apt-get install wrk hey); the other services go into a folder of
their own:

    pip install --target rivals litserve bentoml

bare       only the forward pass in a process, without a server: the upper limit, in batches of 16 and of 1
plain      a FastAPI handler around the model as it was trained, fp32, one photo after the other
litserve   LitServe with our forward pass and torch, batches of at most 16 (base64 in JSON, as it documents)
bentoml    BentoML with the same forward pass and adaptive batches
ours       physiq-ray serve, with torch
openvino   physiq-ray serve, with OpenVINO; it is compared with OpenVINO's bare forward pass
proxy      as openvino, but through Serve's own proxy, the default on loopback; ours and openvino use HAProxy
kept       as ours; in addition, it keeps doubtful photos (all are), takes feedback, and watches for drift
before     as ours, with another version of physiq_ray, whose checkout --before names

    python benchmarks/serve.py --rivals rivals
    python benchmarks/serve.py --rivals rivals --photo phone
    python benchmarks/serve.py --sides ours kept --clients 4 --repeats 5
    python benchmarks/serve.py --sides before ours --clients 1 4 16 --repeats 5 --before ../physiq_ray-old
    python benchmarks/serve.py --burst
    python benchmarks/serve.py --memory 300
"""

import argparse
import base64
import contextlib
import csv
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import describe_machine
from photos import make_phone_photo, make_thumbnail

CLIENTS = (1, 4, 16, 64)
MAX_BATCH_SIZE, THREADS = 16, 2
START_TIMEOUT_S = 180
Result = dict[str, float]


# --- The servers --------------------------------------------------------------------------------------


def serve_plain(model: str, port: int) -> None:
    """Serve as a tutorial does: decode, resize, normalise and compute in the handler.

    It computes in one thread next to the event loop, because FastAPI's many threads would compete for cores.
    """
    import asyncio
    import io
    from concurrent.futures import ThreadPoolExecutor

    import torch
    import uvicorn
    from fastapi import FastAPI, Request
    from PIL import Image
    from torchvision import transforms

    from physiq_ray.checkpoint import load_model_state

    state = replace(load_model_state(model), floor=None)  # logits only
    network = state.build()
    change = transforms.Compose(
        [
            transforms.Resize((state.image_size, state.image_size)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    app, thread = FastAPI(), ThreadPoolExecutor(1)

    def compute(data: bytes) -> list[float]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        with torch.no_grad():
            probabilities: list[float] = network(change(image)[None]).softmax(1)[0].tolist()
        return probabilities

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict[str, Any]:
        data = await request.body()
        return {"probabilities": await asyncio.get_running_loop().run_in_executor(thread, compute, data)}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def runtime_of(side: str) -> str:
    """Give the runtime of one of our sides, or the runtime that another side is compared with."""
    return "openvino" if side in ("openvino", "proxy") else "torch"


def server_command(side: str, model: str, port: int) -> list[str]:
    """Give the command that starts a side's server."""
    here, python = Path(__file__).parent / "rivals", sys.executable
    if side == "plain":
        return [python, __file__, "--serve-plain", "--model", model, "--port", str(port)]
    if side == "litserve":
        return [python, str(here / "litserve_side.py"), model, str(port)]
    if side == "bentoml":
        return [
            *(python, "-m", "bentoml", "serve", "bentoml_side:Poses", "--working-dir", str(here)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
    return [
        *(python, "-m", "physiq_ray.cli", "serve", "--port", str(port)),
        *("--model", f"{model}/{KEPT}" if side == KEPT else model),
        *("--runtime", runtime_of(side)),
        *("--ingress", "proxy" if side == "proxy" else "haproxy"),
        *(("--feedback", tempfile.mkdtemp(dir=model), "--feedback-below", "1") if side == KEPT else ()),
    ]


def request_of(side: str, photo: bytes) -> tuple[str, bytes]:
    """Give the Content-Type and the body of the request for one photo."""
    if side == "litserve":
        return "application/json", json.dumps({"photo": base64.b64encode(photo).decode()}).encode()
    if side == "bentoml":
        head = (
            '--limit\r\nContent-Disposition: form-data; name="photos"; filename="photo.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        return "multipart/form-data; boundary=limit", head.encode() + photo + b"\r\n--limit--\r\n"
    return "image/jpeg", photo


@contextlib.contextmanager
def running(
    side: str, model: str, photo: bytes, rivals: str | None, before: str | None = None
) -> Iterator[tuple[str, int]]:
    """Run a side's server while the block runs; give its address and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "POSE_MODEL": model, "BENTOML_DO_NOT_TRACK": "True"}
    if rivals and side in ("litserve", "bentoml"):
        environment["PYTHONPATH"] = str(Path(rivals).absolute())
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            server_command(side, model, port),
            env=environment,
            cwd=before if side == BEFORE else None,  # `python -m` looks there first, then in PYTHONPATH
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}/v1/predict"
            content_type, body = request_of(side, photo)
            end_s = time.monotonic() + START_TIMEOUT_S
            while True:
                request = urllib.request.Request(url, body, {"Content-Type": content_type})
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        check_answer(side, json.load(answer))
                        break
                except OSError as error:
                    if process.poll() is not None or time.monotonic() > end_s:
                        log.seek(0)
                        raise SystemExit(f"{side}: {error}\n{log.read().decode()[-3000:]}") from error
                    time.sleep(0.5)
            yield url, process.pid
        finally:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                process.send_signal(signal.SIGTERM)
                process.wait(30)
            # Workers that outlive their server would use the cores of the next sides.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# The probabilities that the first side gives; all other sides must give the same.
_expected: list[float] = []


def check_answer(side: str, answer: Any) -> None:
    """Check that a side gives the same probabilities as the others."""
    values = answer if isinstance(answer, list) else answer["probabilities"]
    values = values[0] if isinstance(values[0], list) else values
    found = sorted(value["probability"] if isinstance(value, dict) else value for value in values)
    if not _expected:
        _expected.extend(found)
    if max(abs(a - b) for a, b in zip(found, _expected, strict=True)) > 0.02:
        raise SystemExit(f"{side} answers {found}, not {_expected}")


# --- The load -----------------------------------------------------------------------------------------


def load(side: str, url: str, photo: bytes, clients: int, seconds: int) -> Result:
    """Send requests with wrk; give the answers per second, latencies in ms, and the number of failures."""
    content_type, body = request_of(side, photo)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "body").write_bytes(body)
        Path(folder, "post.lua").write_text(
            f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "{content_type}"\n'
            f'wrk.body = io.open("{folder}/body", "rb"):read("*a")\n'
            "done = function(summary, latency)\n"
            "  local e = summary.errors\n"
            '  io.write(string.format("%d %d %d %d %d %d %d\\n", summary.requests, summary.duration,\n'
            "    latency:percentile(50), latency:percentile(95), latency:percentile(99),\n"
            "    e.status, e.connect + e.read + e.write + e.timeout))\n"
            "end\n",
            encoding="utf-8",
        )
        words = subprocess.run(
            [
                *("wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s"),
                *("-s", f"{folder}/post.lua", url),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
    requests, microseconds, p50, p95, p99, refused, broken = map(int, words.split())
    return {
        "rate": (requests - refused) / microseconds * 1e6,
        "p50": p50 / 1e3,
        "p95": p95 / 1e3,
        "p99": p99 / 1e3,
        "failed": refused + broken,
    }


def measure_bare(model: str, runtime: str, seconds: float = 5) -> tuple[float, float]:
    """Give the photos per second in batches of MAX_BATCH_SIZE, and in batches of one."""
    import torch

    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.prediction.network import Network
    from physiq_ray.prediction.openvino import OpenVinoNetwork

    torch.set_num_threads(THREADS)
    state = load_model_state(model)
    network = Network(state) if runtime == "torch" else OpenVinoNetwork(state, threads=THREADS)
    rates = []
    for batch_size in (MAX_BATCH_SIZE, 1):
        images = torch.randint(0, 256, (batch_size, state.image_size, state.image_size, 3), dtype=torch.uint8)
        network.outputs(images)
        times = []
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            started_s = time.perf_counter()
            network.outputs(images)
            times.append(time.perf_counter() - started_s)
        rates.append(batch_size / statistics.median(times))
    return rates[0], rates[1]


def bare_rates(runtime: str, model: str) -> tuple[float, float]:
    """Measure the forward pass in a process of its own, with the environment of a replica."""
    from physiq_ray.model import KEEP_MEMORY

    out = subprocess.run(
        [sys.executable, __file__, "--bare", runtime, "--model", model],
        env={**os.environ, **KEEP_MEMORY},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    first, second = json.loads(out.splitlines()[-1])
    return first, second


def compare(args: argparse.Namespace, model: str, photo: bytes) -> None:
    """Measure all sides in turn, and the bare forward pass before and after them; print a table."""
    results: dict[tuple[str, int], list[Result]] = {}
    bare: dict[str, list[tuple[float, float]]] = {"torch": [], "openvino": []}
    runtimes = sorted({"torch", *map(runtime_of, args.sides)}, reverse=True)
    for _ in range(args.repeats):
        for runtime in runtimes:
            bare[runtime].append(bare_rates(runtime, model))
        for side in args.sides:
            with running(side, model, photo, args.rivals, args.before) as (url, _pid):
                load(side, url, photo, 16, 3)  # warm-up
                for clients in args.clients:
                    found = load(side, url, photo, clients, args.seconds)
                    results.setdefault((side, clients), []).append(found)
                    print(side, clients, json.dumps(found), flush=True)
        for runtime in runtimes:
            bare[runtime].append(bare_rates(runtime, model))
    limits = {
        runtime: [statistics.median(rates) for rates in zip(*found, strict=True)]
        for runtime, found in bare.items()
        if found
    }
    for runtime, (full, one) in limits.items():
        print(
            f"bare forward pass, {runtime}: {full:.1f} img/s in batches of {MAX_BATCH_SIZE}, "
            f"{1000 / one:.1f} ms for one photo"
        )
    print("| side | clients | requests/s | of plain | of bare | p50 | p95 | p99 | failed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (side, clients), found in results.items():
        middle = {key: statistics.median(result[key] for result in found) for key in found[0]}
        plain = results.get(("plain", clients))
        of_plain = f"{middle['rate'] / statistics.median(r['rate'] for r in plain):.2f}" if plain else "–"
        of_bare = middle["rate"] / limits[runtime_of(side)][0]
        print(
            f"| {side} | {clients} | {middle['rate']:.1f} | {of_plain} | {of_bare:.2f} "
            f"| {middle['p50']:.0f} ms | {middle['p95']:.0f} ms | {middle['p99']:.0f} ms "
            f"| {middle['failed']:.0f} |"
        )


def measure_overload(args: argparse.Namespace, model: str, photo: bytes) -> None:
    """Send ten times the capacity for ten seconds; five seconds later, measure the capacity again."""
    with running("ours", model, photo, None) as (url, _pid), tempfile.NamedTemporaryFile() as body:
        Path(body.name).write_bytes(photo)
        before = load("ours", url, photo, 16, 5)
        wanted = round(10 * before["rate"])
        workers = 800  # enough to keep the rate while many wait for an answer
        out = subprocess.run(
            [
                *("hey", "-z", "10s", "-c", str(workers), "-q", str(wanted / workers), "-t", "30"),
                *("-m", "POST", "-T", "image/jpeg", "-D", body.name, "-o", "csv", url),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        answered: dict[str, list[float]] = {}
        for row in csv.DictReader(out.splitlines()):
            answered.setdefault(row["status-code"], []).append(float(row["response-time"]))
        time.sleep(5)
        after = load("ours", url, photo, 16, 5)
    print(f"capacity {before['rate']:.1f} requests/s, {wanted} requests/s sent for 10 s")
    for status, seconds in sorted(answered.items()):
        seconds.sort()
        print(
            f"status {status}: {len(seconds)}, p50 {seconds[len(seconds) // 2]:.2f} s, "
            f"p99 {seconds[int(len(seconds) * 0.99)]:.2f} s, longest {seconds[-1]:.2f} s"
        )
    print(
        f"five seconds later: {after['rate']:.1f} requests/s, p50 {after['p50']:.0f} ms, "
        f"{after['failed']} failed"
    )


def measure_memory(args: argparse.Namespace, model: str, photo: bytes) -> None:
    """Sample the memory of the replica while it answers requests."""
    import psutil

    with running("ours", model, photo, None) as (url, pid):
        (replica,) = (
            process
            for process in psutil.Process(pid).children(recursive=True)
            if "ServeReplica" in " ".join(process.cmdline())
        )
        done = threading.Event()
        sizes: list[int] = []

        def watch() -> None:
            while not done.wait(args.memory / 10):
                sizes.append(replica.memory_info().rss // 2**20)

        thread = threading.Thread(target=watch)
        thread.start()
        found = load("ours", url, photo, 16, args.memory)
        done.set()
        thread.join()
    print(f"{found['rate'] * args.memory:.0f} requests in {args.memory} s; MiB: {' '.join(map(str, sizes))}")


SIDES = ("plain", "litserve", "bentoml", "ours", "openvino", "proxy")
KEPT, BEFORE = "kept", "before"


def make_model(folder: str) -> str:
    """Write a model with random weights, on which no time depends, and one that watches for drift."""
    import numpy as np
    import torch

    from physiq_ray.checkpoint import ModelState, save_model_files
    from physiq_ray.labels import ClassMapping
    from physiq_ray.model import build_model
    from physiq_ray.reference import Histogram, Reference

    torch.manual_seed(0)
    names = {number: f"Pose {number}" for number in range(1, 9)}
    random = Histogram.of_values(np.random.default_rng(0).random(500))
    state = ModelState(
        build_model(len(names)).state_dict(),
        ClassMapping.of_poses(names),
        names,
    )
    save_model_files(state, folder)
    reference = Reference(Histogram.of_classes([0] * 500, len(names)), random, random, random)
    save_model_files(replace(state, reference=reference), f"{folder}/{KEPT}")
    return folder


def main() -> None:
    """Measure the chosen part and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photo", choices=("thumbnail", "phone"), default="thumbnail")
    parser.add_argument("--sides", nargs="+", choices=(*SIDES, KEPT, BEFORE), default=SIDES)
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS, help="connections of wrk")
    parser.add_argument("--seconds", type=int, default=10, help="duration of each measurement")
    parser.add_argument("--repeats", type=int, default=1, help="rounds")
    parser.add_argument(
        "--rivals", help="the folder with litserve and bentoml; default: import them from this environment"
    )
    parser.add_argument("--before", help="a checkout of another version, for the side of this name")
    parser.add_argument("--burst", action="store_true", help="measure overload only")
    parser.add_argument(
        "--memory", type=int, metavar="SECONDS", help="measure the replica's memory for this time only"
    )
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--serve-plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if BEFORE in args.sides and not args.before:
        parser.error("the side before needs --before")
    if args.serve_plain:
        serve_plain(args.model, args.port)
        return
    if args.bare:
        print(json.dumps(measure_bare(args.model, args.bare)))
        return
    print(describe_machine("ray", "torch", "fastapi", "openvino"))
    photo = make_phone_photo(0) if args.photo == "phone" else make_thumbnail(make_phone_photo(0))
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or make_model(folder)
        if args.burst:
            measure_overload(args, model, photo)
        elif args.memory:
            measure_memory(args, model, photo)
        else:
            compare(args, model, photo)


if __name__ == "__main__":
    main()
