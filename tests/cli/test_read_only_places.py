import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

MakeDisk = Callable[[int], tuple[Path, Callable[[str], None]]]
RunCli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def read_only(make_disk: MakeDisk, tmp_path: Path) -> Path:
    """Give the folder of a read-only disk; a poses file and a label file are in the working folder."""
    disk, remount = make_disk(100_000)
    remount("ro")
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}]')
    (tmp_path / "labels.json").write_text("[]")
    return disk


@pytest.mark.parametrize(
    ("command", "name", "deeper"),
    [
        ("train --sources photos --storage runs --output {place}", "output", "/a"),
        ("train --sources photos --output model --storage {place}", "storage", "/a"),
        ("audit --sources s3://unreachable --sheet {place}", "--sheet", "/a.png"),
        ("audit --sources s3://unreachable --manifest {place}", "--manifest", "/a.parquet"),
        ("cleanse --sources s3://unreachable --delete --journals {place}", "--journals", ""),
        ("cleanse --sources s3://unreachable --sheet {place}", "--sheet", ""),
        ("cleanse --sources s3://unreachable --plan {place}", "--plan", "/a.jsonl"),
        ("evaluate --model nowhere --report {place}", "--report", "/a"),
        ("export nowhere --output {place}", "--output", "/a"),
        ("suspects --model nowhere --report {place}", "--report", "/a"),
        ("suspects --folds 5 --sources photos --storage {place}", "storage", "/a"),
        ("predict photos --model nowhere --output {place}", "--output", "/a"),
        ("demo --folder {place}", "--folder", "/a"),
        ("sync {place} --sources s3://unreachable", "FOLDER", "/a"),
    ],
)
def test_a_read_only_place_is_named_before_any_work(
    run_here: RunCli, read_only: Path, command: str, name: str, deeper: str
) -> None:
    place = f"{read_only}{deeper}"
    words = command.format(place=place).split()
    if words[0] in ("train", "audit", "cleanse"):
        words += ["--poses", "poses.json", "--labels", "labels.json"]
    started_s = time.monotonic()
    done = run_here(*words)
    attempt = f"write {place}: " if name == "FOLDER" else ""
    assert done.stderr == (
        f"physiq-ray {words[0]}: {attempt}{name}={place}: cannot be written: Read-only file system; "
        "give another folder\n"
    )
    assert done.returncode == 1
    assert time.monotonic() - started_s < 60  # a retry of the unreachable bucket would take longer
