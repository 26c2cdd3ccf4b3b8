"""Buckets with labelled and unlabelled photos, and the command run in this process."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cleansing import Outcome

from physiq_ray.cli import main

POSES = [{"id": 1, "name": "Front Lat Spread"}, {"id": 7, "name": "Back Lat Spread"}]


@pytest.fixture
def label(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes the label file from records, or from names, which get pose 7."""
    (tmp_path / "poses.json").write_text(json.dumps(POSES))

    def write(*records: Any) -> Path:
        path = tmp_path / "labels.json"
        path.write_text(
            json.dumps(
                [{"poseId": 7, "s3Filename": item} if isinstance(item, str) else item for item in records]
            )
        )
        return path

    return write


@pytest.fixture
def cleanse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Give a function that runs `physiq-ray cleanse` here; by default, it may delete new photos."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path, typed: str = "", min_age_hours: float | None = 0) -> Outcome:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        age = [] if min_age_hours is None else ["--min-age-hours", str(min_age_hours)]
        files = ["--poses", "poses.json", "--labels", "labels.json"]
        capsys.readouterr()
        status = main(["cleanse", *files, *age, *map(str, args)])
        out, err = capsys.readouterr()
        return Outcome(status, out, err)

    return run
