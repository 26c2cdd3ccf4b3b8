"""Compare `physiq-ray predict` of one photo with a plain script: time and memory of whole processes.

    python benchmarks/predict.py [--rounds 7] [--photo phone|thumbnail] [--precision fp32]

Both sides load the same complete model file, with the state of Adam (283 MB), and answer with the three
likeliest poses of the same photo, without a figure. The plain script (`rivals/plain_predict.py`) uses torch,
torchvision and Pillow. The sides alternate, and each run is a process of its own. Before the first round,
each side runs once, so that the files and compiled modules are in the page cache. The answers are compared.

Processor time is that of the process in user and system mode. Peak memory is its largest resident set.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from children import add_child_flags, report_to_parent, run_child

PLAIN = Path(__file__).parent / "rivals" / "plain_predict.py"
MOST_APART = 0.02  # of a probability: bfloat16 and another decoder


def main() -> None:
    """Measure both sides and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="runs of each side")
    parser.add_argument("--photo", choices=("phone", "thumbnail"), default="phone")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of our side")
    add_child_flags(parser)
    args = parser.parse_args()
    if args.child:
        report_to_parent({"files": _write_files, "run": _run}[args.child], args.work, args.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = run_child(__file__, "files", {"folder": folder, "photo": args.photo})
        ours = [sys.executable, "-m", "physiq_ray.cli", "predict", files["photo"], "--model", files["model"]]
        sides = {
            "plain script": [sys.executable, str(PLAIN), files["model"], files["photo"]],
            "`physiq-ray predict`": [
                *(*ours, "--no-figures", "--json", "--top", "3", "--precision", args.precision)
            ],
        }
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for number in range(args.rounds + 1):
            for name, command in sides.items():
                run = run_child(__file__, "run", {"command": command})
                if number:  # the first run of each side warms the page cache
                    runs[name].append(run)
        _check(*(side[0]["answer"] for side in runs.values()))
        print(f"{files['machine']}\n\nModel file: {Path(files['model']).stat().st_size / 1e6:.0f} MB\n")
    _print_table(runs)


def _write_files(work: dict[str, Any], _folder: str) -> dict[str, str]:
    """Write a model with the state of its optimizer and a photo, in a process that ends afterwards."""
    import torch
    from machine import describe_machine
    from photos import make_phone_photo, make_thumbnail

    from physiq_ray.checkpoint import ModelState, save_model_files
    from physiq_ray.constants import COMPLETE_FILE
    from physiq_ray.labels import ClassMapping
    from physiq_ray.model import build_model

    torch.manual_seed(0)
    mapping = ClassMapping.of_poses(range(1, 16))
    network = build_model(15)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    network(torch.zeros(2, 3, 224, 224)).sum().backward()
    optimizer.step()
    names = {pose_id: f"Pose {pose_id}" for pose_id in mapping.pose_ids}
    state = ModelState(
        network.state_dict(), mapping, names, optimizer_state_dict=optimizer.state_dict(), temperature=0.5
    )
    save_model_files(state, work["folder"])
    photo = make_phone_photo(0)
    path = Path(work["folder"], "photo.jpg")
    path.write_bytes(photo if work["photo"] == "phone" else make_thumbnail(photo))
    return {
        "machine": describe_machine("torch", "torchvision", "pillow"),
        "model": str(Path(work["folder"], COMPLETE_FILE)),
        "photo": str(path),
    }


def _run(work: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run one side as a child of this small process: a child's peak begins with that of its parent."""
    start = time.perf_counter()
    # An installed program is compiled, so neither side may compile its modules in each run.
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(work["command"], cwd=folder, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{work['command']}: exit {process.returncode}")
    return {
        "seconds": seconds,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "answer": json.loads(output),
    }


def _check(plain: list[dict[str, Any]], ours: Any) -> None:
    """Compare the three likeliest poses: the same poses with the same probabilities."""
    answered = {pose["id"]: pose["probability"] for pose in ours["predictions"][0]["probabilities"]}
    expected = {pose["id"]: pose["probability"] for pose in plain}
    assert answered.keys() == expected.keys(), (answered, expected)
    assert all(abs(answered[pose] - expected[pose]) < MOST_APART for pose in expected), (answered, expected)


def _print_table(runs: dict[str, list[dict[str, Any]]]) -> None:
    rounds = len(next(iter(runs.values())))
    print(
        f"| side | seconds (median of {rounds}) | range | processor seconds | range | peak memory | range |"
    )
    print("|---|---|---|---|---|---|---|")
    medians = []
    for name, side in runs.items():
        cells, middle = [], {}
        for key, form in (("seconds", "{:.2f} s"), ("cpu_s", "{:.2f} s"), ("peak_mib", "{:.0f} MiB")):
            values = [run[key] for run in side]
            middle[key] = statistics.median(values)
            low, high = form.split()[0].format(min(values)), form.split()[0].format(max(values))
            cells += [form.format(middle[key]), f"{low} to {high}"]
        medians.append(middle)
        print(f"| {name} | {' | '.join(cells)} |")
    plain, ours = medians
    ratios = [f"{ours[key] / plain[key]:.2f}" for key in plain]
    print(f"| ours, of the plain script | {ratios[0]} | | {ratios[1]} | | {ratios[2]} | |")


if __name__ == "__main__":
    main()
