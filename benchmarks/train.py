"""Compare training with a plain script: rates, the time of whole processes, and the time to an accuracy.

Every side trains the same ResNet50 from random weights on the same files of one folder, each in a process of
its own. The time is that of the whole process: imports, the start of Ray, decoding, training, validation and
checkpoints. The goal is a fifth of the time of a plain script, without a loss of accuracy.

plain-0   ImageFolder, DataLoader without workers, fp32: the loop of a tutorial
plain-2   the same with 2 DataLoader workers
bare      our step (precision, layout, fused Adam, augmentation) over pixels in memory: the upper limit
ours-1    physiq_ray, one worker
ours-2    physiq_ray, two workers, each with half of the batch
ours-grow physiq_ray, one worker, with growing sizes (--train-sizes) up to the size at which all sides are
          validated, for --grow-epochs with --grow-settings: for the time to an accuracy

--photos chooses the photos. thumbnails (200 × 250) and phones (4032 × 3024) have no meaning and serve to
measure rates. generated (drawn athletes in eight poses) and a folder of buckets with its labels serve to
measure the time to an accuracy. All sides use the GPU if there is one; ours-2 needs two.

    python benchmarks/train.py --photos thumbnails
    python benchmarks/train.py --photos phones --epochs 5
    python benchmarks/train.py --photos generated --size 128 --epochs 16
    python benchmarks/train.py --photos FOLDER --labels FOLDER/db_labels.json --size 128 --target 0.5
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from machine import describe_machine
from photos import make_phone_photo, make_thumbnail

SIDES = ("plain-0", "plain-2", "bare", "ours-1", "ours-2", "ours-grow")
POSES = (1, 2, 5, 6)
NUM_DIFFERENT = 4  # photos; each is stored under many names
TRAIN, VALIDATION = "train", "validation"
Result = dict[str, Any]


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"


def _clock_s() -> float:
    """Read the clock after the GPU, if there is one, has finished its work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


# --- The plain script ---------------------------------------------------------------------------------


def plain(work: dict[str, Any], *, num_workers: int) -> Iterator[dict[str, Any]]:
    """Train as a tutorial does, with one ImageFolder for each split."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, models, transforms

    size = work["size"]
    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    changes = {
        TRAIN: [transforms.Resize((size, size)), transforms.RandomHorizontalFlip()],
        VALIDATION: [transforms.Resize((size, size))],
    }
    torch.manual_seed(work["seed"])
    loaders = {
        split: DataLoader(
            datasets.ImageFolder(
                Path(work["folder"], split),
                transforms.Compose([*changes[split], transforms.ToTensor(), normalise]),
            ),
            batch_size=work["batch"],
            shuffle=split == TRAIN,
            num_workers=num_workers,
        )
        for split in (TRAIN, VALIDATION)
    }
    device = _device()
    model = models.resnet50(weights=None, num_classes=len(loaders[TRAIN].dataset.classes)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=work["rate"])
    criterion = nn.CrossEntropyLoss()
    for _ in range(work["epochs"]):
        started_s, num_photos = _clock_s(), 0
        model.train()
        for images, labels in loaders[TRAIN]:
            optimizer.zero_grad()
            loss = criterion(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            num_photos += len(labels)
        train_s = _clock_s() - started_s
        model.eval()
        correct = total = 0
        with torch.no_grad():
            for images, labels in loaders[VALIDATION]:
                correct += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
                total += len(labels)
        yield {"photos": num_photos, "train_s": train_s, "accuracy": correct / total}


# --- The limit ----------------------------------------------------------------------------------------


def bare(work: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Train over uint8 pixels in memory with our precision, layout, optimizer and augmentation."""
    import torch
    from torch.nn import functional
    from torchvision.models import resnet50

    from physiq_ray.images import decode_square
    from physiq_ray.model import choose_precision, normalise
    from physiq_ray.training.augment import STRENGTHS, augment

    device = _device()
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(work["seed"])
    dtype = choose_precision("auto", device)
    pixels, labels = {}, {}
    for split in (TRAIN, VALIDATION):
        files = sorted(Path(work["folder"], split).glob("*/*"))
        names = sorted({file.parent.name for file in files})
        cache: dict[Path, Any] = {}
        for file in files:
            real = file.resolve()
            if real not in cache:
                cache[real] = torch.from_numpy(decode_square(real.read_bytes(), size_px=work["size"]))
        pixels[split] = torch.stack([cache[file.resolve()] for file in files]).to(device)
        labels[split] = torch.tensor([names.index(file.parent.name) for file in files]).to(device)
    model = resnet50(weights=None, num_classes=len(names)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=work["rate"], fused=True)
    generator = torch.Generator().manual_seed(work["seed"])
    for _ in range(work["epochs"]):
        started_s, num_photos = _clock_s(), 0
        model.train()
        order = torch.randperm(len(labels[TRAIN]), generator=generator)
        for start in range(0, len(order) - work["batch"] + 1, work["batch"]):
            rows = order[start : start + work["batch"]].to(device)
            inputs = augment(normalise(pixels[TRAIN][rows]), STRENGTHS["light"], generator)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = model(inputs)
            functional.cross_entropy(logits.float(), labels[TRAIN][rows]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            num_photos += len(rows)
        train_s = _clock_s() - started_s
        model.eval()
        correct = 0
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for start in range(0, len(labels[VALIDATION]), work["batch"]):
                part = slice(start, start + work["batch"])
                answer = model(normalise(pixels[VALIDATION][part])).argmax(1)
                correct += int((answer == labels[VALIDATION][part]).sum())
        yield {"photos": num_photos, "train_s": train_s, "accuracy": correct / len(labels[VALIDATION])}


# --- Ours ---------------------------------------------------------------------------------------------


def ours(work: dict[str, Any], *, num_workers: int = 1, **changes: Any) -> Iterator[dict[str, Any]]:
    """Train with physiq_ray on the same split, given as a manifest."""
    from rich.console import Console

    from physiq_ray.config import Settings
    from physiq_ray.progress import Display
    from physiq_ray.training.run import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(
            Settings.model_validate(
                {
                    "manifest": work["manifest"],
                    "poses": work["poses"],
                    "output": f"{folder}/model",
                    "storage": f"{folder}/runs",
                    "weights": "random",
                    "image_size": work["size"],
                    "batch_size": work["batch"] // num_workers,
                    "learning_rate": work["rate"],
                    "epochs": work["epochs"],
                    "patience": work["epochs"],
                    "seed": work["seed"],
                    "num_workers": num_workers,
                    **changes,
                }
            ),
            Display(Console(stderr=True)),
            local=True,
        )
    for epoch in result.history:
        yield {
            "photos": epoch["train_photos"],
            "train_s": epoch["train_seconds"],
            "accuracy": epoch["validation_accuracy"],
            "at": epoch["time"],
        }


RUN: dict[str, Callable[[dict[str, Any]], Iterator[dict[str, Any]]]] = {
    "plain-0": lambda work: plain(work, num_workers=0),
    "plain-2": lambda work: plain(work, num_workers=2),
    "bare": bare,
    "ours-1": ours,
    "ours-2": lambda work: ours(work, num_workers=2),
    "ours-grow": lambda work: ours(work, **work["grow"]),
}


def run_side(work: dict[str, Any]) -> None:
    """Run one side in this process and print each epoch as a line of JSON."""
    for epoch in RUN[work["side"]](work):
        print(json.dumps({"at": time.time(), **epoch}), flush=True)


# --- Photos -------------------------------------------------------------------------------------------


def write_meaningless_photos(folder: Path, kind: str, count: int) -> None:
    """Write different photos without meaning, with one folder for each pose."""
    photos = [make_phone_photo(seed) for seed in range(NUM_DIFFERENT)]
    if kind == "thumbnails":
        photos = [make_thumbnail(photo) for photo in photos]
    for pose_id in POSES:
        (folder / str(pose_id)).mkdir(parents=True)
    for number in range(count):
        # Bytes after the end of a JPEG change the file, but not the picture.
        data = photos[number % NUM_DIFFERENT] + number.to_bytes(4, "big")
        (folder / str(POSES[number % len(POSES)]) / f"{number:05d}.jpeg").write_bytes(data)


def make_work(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write or find the photos, split them as physiq_ray does, and write a manifest and ImageFolders."""
    from physiq_ray.config import Settings
    from physiq_ray.demo import GENERATED
    from physiq_ray.errors import PhotoError
    from physiq_ray.images import decode_square
    from physiq_ray.labels import load_configured_poses
    from physiq_ray.manifest import collect_manifest
    from physiq_ray.sample.photos import write_sample_photos

    poses = Path(__file__).parents[1] / "mappings" / "poses.json"
    values: dict[str, Any] = {"validation_share": 0.2, "poses": str(poses)}
    photos = folder / "photos"
    if args.photos in ("thumbnails", "phones"):
        write_meaningless_photos(photos, args.photos, args.count)
        values |= {"sources": (str(photos),), "labels": str(folder / "none.json")}
        (folder / "none.json").write_text("[]")
    elif args.photos == "generated":
        sample = write_sample_photos(photos, **GENERATED)
        values |= {"sources": tuple(map(str, sample.buckets.values())), "labels": str(sample.labels)}
        values["group_pattern"] = r"athlete-\d+"
    else:
        buckets = [path for path in sorted(Path(args.photos).iterdir()) if path.is_dir()]
        values |= {"sources": tuple(str(path.absolute()) for path in buckets), "labels": args.labels}
    settings = Settings.model_validate(values)
    manifest = collect_manifest(settings, load_configured_poses(settings))
    (folder / "manifest.parquet").write_bytes(manifest.to_parquet())
    counts = {}
    for split in (TRAIN, VALIDATION):
        rows = manifest.split(split).select(["uri", "pose_id"]).to_pylist()
        counts[split] = len(rows)
        for number, row in enumerate(rows):
            path = Path(row["uri"])
            try:
                decode_square(path.read_bytes(), size_px=64)
            except PhotoError:  # a plain script would stop here
                continue
            link = folder / split / str(row["pose_id"]) / f"{number:05d}-{path.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    print(f"{counts[TRAIN]} training photos, {counts[VALIDATION]} validation photos", flush=True)
    return {
        **{"folder": str(folder), "manifest": str(folder / "manifest.parquet"), "poses": settings.poses},
        **{"size": args.size, "batch": args.batch, "rate": args.rate, "epochs": args.epochs},
        **{"seed": args.seed, "grow": _growing(args)},
    }


def _growing(args: argparse.Namespace) -> dict[str, Any]:
    epochs = args.grow_epochs or args.epochs
    sizes = f"{max(64, args.size * 4 // 7)},{max(64, args.size * 5 // 7)},{args.size}"
    return {
        **{"train_sizes": args.train_sizes or sizes, "epochs": epochs, "patience": epochs},
        **dict(setting.split("=") for setting in args.grow_settings),
    }


def measure(side: str, work: dict[str, Any]) -> Result:
    """Run one side in a process of its own; its start is part of the time."""
    started_s = time.time()
    command = [sys.executable, __file__, "--side", json.dumps({**work, "side": side})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    epochs = [json.loads(line) for line in process.stdout if line.startswith("{")]
    total_s = time.time() - started_s
    if process.wait() != 0 or not epochs:
        raise SystemExit(f"{side} failed with {process.returncode}")
    later = epochs[1:] or epochs  # the first epoch is a warm-up; in the plain script, it also reads from disk
    return {
        "rate": statistics.median(epoch["photos"] / epoch["train_s"] for epoch in later),
        "total_s": total_s,
        "overall": sum(epoch["photos"] for epoch in epochs) / total_s,
        "best": max(epoch["accuracy"] for epoch in epochs),
        "curve": [(round(epoch["at"] - started_s, 1), epoch["accuracy"]) for epoch in epochs],
    }


def reached_s(results: list[Result], target: float) -> float | None:
    """Give the median of the seconds until a side reached the target; None if a round did not reach it."""
    times = [next((at for at, accuracy in result["curve"] if accuracy >= target), None) for result in results]
    known = [time for time in times if time is not None]
    return statistics.median(known) if len(known) == len(times) else None


def show(side: str, results: list[Result], of: dict[str, Result], target: float | None) -> str:
    """Give a row of the table: medians of the rounds, and ratios to bare and to plain-0."""
    middle = of[side]
    seconds = reached_s(results, target) if target is not None else None
    reached = f"{seconds:.0f} s" if seconds is not None else "–"

    def ratio(key: str, other: str) -> str:
        return f"{middle[key] / of[other][key]:.2f}" if other in of else "–"

    return (
        f"| {side} | {middle['rate']:.1f} img/s | {ratio('rate', 'bare')} | {ratio('rate', 'plain-0')} "
        f"| {middle['total_s']:.0f} s | {ratio('overall', 'plain-0')} | {middle['best']:.1%} | {reached} |"
    )


def _medians(results: list[Result]) -> Result:
    return {key: statistics.median(result[key] for result in results) for key in results[0] if key != "curve"}


def main() -> None:
    """Measure the sides in turn and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", default="thumbnails", help="thumbnails, phones, generated, or a folder")
    parser.add_argument("--labels", help="the label file of a folder")
    parser.add_argument("--count", type=int, default=320, help="number of thumbnails or phone photos")
    parser.add_argument("--size", type=int, default=224, help="image size in pixels")
    parser.add_argument("--batch", type=int, default=16, help="photos of a step, of all workers together")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a run")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--train-sizes", help="training sizes of ours-grow; default: 4/7 and 5/7 of --size, then --size"
    )
    parser.add_argument("--grow-epochs", type=int, help="epochs of ours-grow; default: --epochs")
    parser.add_argument(
        "--grow-settings", nargs="+", default=(), metavar="NAME=VALUE", help="other settings of ours-grow"
    )
    parser.add_argument("--target", type=float, help="the accuracy to reach; default: the best of plain-0")
    parser.add_argument("--repeats", type=int, default=1, help="rounds")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--side", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run_side(args.side)
        return
    print(describe_machine("ray", "torch", "torchvision", "pillow"))
    print(f"on {_device_name()}")
    with tempfile.TemporaryDirectory() as folder:
        work = make_work(args, Path(folder))
        results: dict[str, list[Result]] = {side: [] for side in args.sides}
        for _ in range(args.repeats):
            for side in args.sides:
                results[side].append(measure(side, work))
                print(side, json.dumps(results[side][-1]), flush=True)
    print(
        "| side | training | of bare | of plain-0 | all epochs | of plain-0 | best accuracy | to target |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    medians = {side: _medians(of_side) for side, of_side in results.items()}
    target = args.target or (medians["plain-0"]["best"] if "plain-0" in medians else None)
    for side in args.sides:
        print(show(side, results[side], medians, target))


if __name__ == "__main__":
    main()
