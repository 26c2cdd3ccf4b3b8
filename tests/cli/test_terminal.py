"""Commands on terminals that are not UTF-8: no output is lost, and none is a traceback."""

import io
import json
import os
import pickle
import re
import subprocess
import sys

import pytest
from ray.util.queue import Empty
from rich.console import Console

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.cli.terminal import print_anywhere
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model
from physiq_ray.progress import Display
from physiq_ray.training.events import EpochDone, received
from physiq_ray.training.history import HistoryFiles
from physiq_ray.training.table import EpochTable

pytestmark = pytest.mark.slow

COMMANDS = ("train", "audit", "evaluate", "predict", "serve", "sync", "cleanse", "cache", "demo")
ASCII = {"PYTHONIOENCODING": "ascii"}
# The last two keep Python from using UTF-8 in the C locale.
C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
POSE = "Dóuble Bíceps ✓"


@pytest.fixture
def run(tmp_path):
    """Give a function that runs a command in an environment and returns (exit status, stdout, stderr)."""

    def call(*args, env, encoding="ascii", timeout=120):
        done = subprocess.run(
            [sys.executable, "-m", "physiq_ray.cli", *map(str, args)],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
        assert "Traceback" not in err
        assert "Error" not in err, err
        return done.returncode, out, err

    return call


@pytest.fixture
def project(tmp_path, make_bucket, make_photo):
    """Make a bucket with a labelled and an unlabelled photo of unusual names; give the flags for it."""
    bucket = make_bucket({"été ✓.jpg": make_photo(1), "größe.jpg": make_photo(2)})
    (tmp_path / "poses.json").write_text(json.dumps([{"id": 1, "name": POSE}]), encoding="utf-8")
    labels = json.dumps([{"poseId": 1, "s3Filename": "été ✓.jpg"}], ensure_ascii=False)
    (tmp_path / "labels.json").write_text(labels, encoding="utf-8")
    return ["--poses", "poses.json", "--labels", "labels.json", "--sources", f"s3://{bucket}"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_in_ascii(run, command):
    status, out, err = run(command, "--help", env=ASCII)
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: physiq-ray {command}")


@pytest.mark.parametrize(
    ("env", "encoding"),
    [(ASCII, "ascii"), (C_LOCALE, "ascii"), ({"PYTHONIOENCODING": "cp1252"}, "cp1252")],
)
def test_audit_cleanse_and_sync_print_any_photo_name(run, project, tmp_path, env, encoding):
    status, out, err = run("audit", *project, env=env, encoding=encoding)
    assert (status, err.count("\n")) == (1, 1)  # two poses are needed for a training
    assert "Bíceps" in out or r"B\xedceps" in out
    status, out, _ = run("cleanse", *project, "--min-age-hours", "0", env=env, encoding=encoding)
    assert status == 0
    assert "== OVERALL TOTALS" in out
    assert "größe.jpg" in out or r"gr\xf6\xdfe.jpg" in out
    sources = [*project[4:], "--folder", tmp_path / "photos"]
    status, out, err = run("sync", tmp_path / "photos", *sources[:2], env=env, encoding=encoding)
    if env == C_LOCALE:
        assert status == 1
        assert err.endswith("; set PYTHONUTF8=1 or a UTF-8 locale\n")
        return
    assert (status, "2 downloaded" in out) == (0, True)
    found = sorted(os.listdir(os.fsencode(tmp_path / "photos" / project[5].removeprefix("s3://"))))  # noqa: PTH208
    assert [name for name in found if name.endswith(b".jpg")] == [
        "größe.jpg".encode(),
        "été ✓.jpg".encode(),
    ]


def test_json_stays_json_in_ascii(run, project):
    status, out, _ = run("cleanse", *project, "--min-age-hours", "0", "--json", env=ASCII)
    assert status == 0
    assert json.loads(out)["buckets"][0]["samples"][0].endswith("/größe.jpg")


def test_predict_replaces_bars_and_letters_that_ascii_lacks(run, make_photo, tmp_path):
    state = ModelState(
        build_model(2).state_dict(), ClassMapping.of_poses([1, 2]), {1: POSE, 2: "Two"}, image_size=64
    )
    save_model_files(state, str(tmp_path / "model"))
    (tmp_path / "été.jpg").write_bytes(make_photo())
    status, out, err = run("predict", "--model", "model", "été.jpg", env=ASCII)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith(r"\xe9t\xe9.jpg")
    assert r"D\xf3uble B\xedceps *" in out
    assert any(line.startswith("  > ") and line.rstrip("#") != line for line in lines)
    assert "120 x 160 px, tensor 1 x 3 x 64 x 64" in lines[5]


def test_a_code_page_of_windows_keeps_the_characters_that_it_has(run, make_photo, tmp_path):
    state = ModelState(
        build_model(2).state_dict(), ClassMapping.of_poses([1, 2]), {1: POSE, 2: "Two"}, image_size=64
    )
    save_model_files(state, str(tmp_path / "model"))
    (tmp_path / "a.jpg").write_bytes(make_photo())
    status, out, _ = run(
        "predict", "--model", "model", "a.jpg", env={"PYTHONIOENCODING": "cp437"}, encoding="cp437"
    )
    assert status == 0
    assert "█" in out
    assert "Dóuble Bíceps *" in out


def ascii_stream():
    written = io.BytesIO()
    return io.TextIOWrapper(written, "ascii", write_through=True), written


METRICS = {
    **{"epoch": 1, "train_loss": 1.25, "train_accuracy": 0.5, "validation_loss": 0.75, "time": 1.7e9},
    **{"validation_accuracy": 0.625, "seconds": 12.34, "learning_rate": 1e-3, "status": "✓ Best Model"},
}


def test_the_epoch_table_is_printed_in_ascii(monkeypatch):
    stream, written = ascii_stream()
    monkeypatch.setattr(sys, "stdout", stream)
    print_anywhere()
    display = Display(Console(force_terminal=True, width=200))
    with display.live():
        display.count("decoding größe", 3, 10)
        EpochTable(display, 5).handle(EpochDone(METRICS))
    assert b"12.3 s  * Best Model" in written.getvalue()
    assert rb"decoding gr\xf6\xdfe photos --" in re.sub(rb"\x1b\[[\d;?]*[a-zA-Z]", b"", written.getvalue())


class QueueOfOne:
    """Replaces the queue actor: one event is in it."""

    def __init__(self, event):
        self.events = [pickle.dumps(event)]

    def get(self, timeout):
        del timeout
        if not self.events:
            raise Empty
        return self.events.pop()


def test_an_epoch_that_cannot_be_printed_is_still_written_to_the_history(tmp_path, caplog):
    handlers = [
        EpochTable(Display(Console(file=ascii_stream()[0])), 5).handle,
        HistoryFiles(str(tmp_path), "first").handle,
    ]
    with received(QueueOfOne(EpochDone(METRICS)), handlers):
        pass
    assert [row["epoch"] for row in json.loads((tmp_path / "history.json").read_text())] == [1]
    assert "EpochDone not shown or written: 'ascii' codec can't encode" in caplog.text


@pytest.mark.long
def test_train_and_evaluate_run_in_ascii(run, make_photo, tmp_path):
    (tmp_path / "poses.json").write_text(
        json.dumps([{"id": 1, "name": POSE}, {"id": 2, "name": "Two"}]), encoding="utf-8"
    )
    (tmp_path / "labels.json").write_text("[]")
    for number in range(16):
        photo = tmp_path / "photos" / str(1 + number % 2) / f"{number}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(make_photo(number))
    files = ["--poses", "poses.json", "--labels", "labels.json"]
    small = ["--image-size", "64", "--batch-size", "4", "--epochs", "2", "--weights", "random"]
    status, out, err = run(
        "train", *files, "--sources", "photos", *small, "--output", "modèle", env=ASCII, timeout=200
    )
    assert status == 0, err
    assert "* Best Model" in out
    history = json.loads((tmp_path / "modèle" / "history.json").read_text(encoding="utf-8"))
    assert [row["epoch"] for row in history] == [1, 2]
    status, out, err = run(
        "evaluate", "--model", "modèle", *files, "--report", "report", env=ASCII, timeout=200
    )
    assert status == 0, err
    assert r"D\xf3uble B\xedceps *" in out
