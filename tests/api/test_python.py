"""The commands as functions: what the documented example prints, and how they fail."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from models import save_constant_model
from PIL import Image

from physiq_ray import Settings, SyncSettings, audit, evaluate, predict, sync, train
from physiq_ray.errors import NotFoundError, PhotoError, SettingError

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.mark.slow
def test_the_documented_example_trains_and_prints_its_results(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for pose_id, colour in ((2, 60), (7, 200)):
        folder = tmp_path / "photos" / str(pose_id)
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(rng.normal(colour, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{pose_id}-{number}.jpeg")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(example, {})

    lines = printed.getvalue().splitlines()
    assert lines[:2] == ["Front Double Biceps 8 2", "Back Lat Spread 8 2"]
    assert re.fullmatch(r"epoch [12]: (0|25|50|75|100)%", lines[2])
    assert re.fullmatch(r"10 (Front Double Biceps|Back Lat Spread)", lines[3])
    accuracy = re.search(r"(\d+)%", lines[2])
    assert accuracy is not None
    assert lines[4] == f"{int(accuracy[1]) / 100} ()"  # the same photos, and no report
    assert (tmp_path / "output" / "pose_classifier_complete.pth").exists()


def test_the_names_are_functions_also_after_the_packages_were_imported() -> None:
    import physiq_ray.auditing
    import physiq_ray.syncing
    import physiq_ray.training.run

    for name in ("audit", "evaluate", "predict", "sync", "train"):
        assert callable(getattr(physiq_ray, name))
        assert not isinstance(getattr(physiq_ray, name), ModuleType)
    with pytest.raises(AttributeError, match="module 'physiq_ray' has no attribute 'fit'"):
        _ = physiq_ray.fit


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("Settings", {"ray", "torch"}),
        ("audit", {"ray", "torch"}),
        ("sync", {"ray", "torch"}),
        ("predict", {"ray"}),
    ],
)
def test_only_what_a_function_needs_is_imported(name: str, absent: set[str]) -> None:
    program = f"import sys\nfrom physiq_ray import {name}\nprint(*({absent!r} & sys.modules.keys()))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_predict_gives_answers_and_failures(tmp_path: Path, make_photo: Any) -> None:
    save_constant_model(tmp_path, [9.0, 1.0], str(tmp_path / "model"))
    photo, broken, gone = (tmp_path / name for name in ("a.jpeg", "b.jpeg", "c.jpeg"))
    photo.write_bytes(make_photo())
    broken.write_bytes(b"no photo")

    answers = predict([photo, str(broken), gone], model=tmp_path / "model")

    assert [(item.uri, item.likeliest.pose_id) for item in answers.predictions] == [(str(photo), 1)]
    assert [(uri, type(error)) for uri, error in answers.failures] == [
        (str(broken), PhotoError),
        (str(gone), NotFoundError),
    ]


def test_errors_are_raised_with_their_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHYSIQ_SOURCES", "photos")  # is not read

    with pytest.raises(SettingError, match="sources: "):
        train(Settings(), progress=False)
    with pytest.raises(SettingError, match="sources: "):
        audit(Settings(), progress=False)
    with pytest.raises(NotFoundError, match="no/model"):
        evaluate("no/model", progress=False)


def test_sync_downloads_a_bucket_without_a_word(
    make_bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = make_bucket({"anna/1.jpg": b"one", "2.jpg": b"two"})

    report = sync(SyncSettings(sources=(f"s3://{bucket}",)), tmp_path / "photos", progress=False)

    assert report.is_complete
    files = sorted(path for path in (tmp_path / "photos").rglob("*.jpg"))
    assert [path.read_bytes() for path in files] == [b"two", b"one"]
    assert capsys.readouterr() == ("", "")
