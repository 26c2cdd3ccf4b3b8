"""Buckets of several people's photos, and the command run in this process."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cleansing import Outcome

from physiq_ray.cli import main

RunErase = Callable[..., Outcome]


@pytest.fixture
def erase(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunErase:
    """Give a function that runs `physiq-ray erase` here, with caches and runs in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))

    def run(*args: str | Path, typed: str = "") -> Outcome:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        status = main(["erase", "--cache-dir", "cache", *map(str, args)])
        out, err = capsys.readouterr()
        return Outcome(status, out, err)

    return run


@pytest.fixture
def make_versioned(make_bucket: Callable[..., str], s3_direct: Any) -> Callable[[], str]:
    """Give a function that makes an empty bucket with versioning."""

    def make() -> str:
        bucket = make_bucket({})
        s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return bucket

    return make


@pytest.fixture
def read_history(s3_direct: Any) -> Callable[[str], set[tuple[str, str, str]]]:
    """Give a function that reads all versions and delete markers of a bucket: key, version, ETag or ""."""

    def read(bucket: str) -> set[tuple[str, str, str]]:
        answer = s3_direct.list_object_versions(Bucket=bucket)
        assert not answer["IsTruncated"]
        items = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]
        return {(item["Key"], item["VersionId"], item.get("ETag", "")) for item in items}

    return read


@pytest.fixture
def write_labels(tmp_path: Path) -> Callable[..., None]:
    """Give a function that writes the default label file from records of name, group and other keys."""

    def write(*records: tuple[str, str] | dict[str, Any]) -> None:
        (tmp_path / "mappings").mkdir(exist_ok=True)
        full = [
            item if isinstance(item, dict) else {"s3Filename": item[0], "athleteId": item[1]}
            for item in records
        ]
        text = json.dumps([{"poseId": 7, **item} for item in full])
        (tmp_path / "mappings/db_labels.json").write_text(text)

    return write
