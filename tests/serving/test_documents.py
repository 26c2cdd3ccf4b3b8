"""The examples of the documents, run against the service."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from replica import MakePhoto
from running import ALLOWED_BUCKET, POSES, RunningService

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CURL_LINES = sorted(set(re.findall(r"^(?:echo .*\| )?curl .*$", PAGE + README, re.MULTILINE)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_photo: MakePhoto, s3_direct: Any) -> Path:
    """Give a folder with the photos that the examples name, and fill the bucket."""
    folder = tmp_path_factory.mktemp("documents")
    for seed, name in enumerate(("photo.jpg", "first.jpg", "second.jpg")):
        (folder / name).write_bytes(make_photo(seed))
    if ALLOWED_BUCKET not in [bucket["Name"] for bucket in s3_direct.list_buckets()["Buckets"]]:
        s3_direct.create_bucket(Bucket=ALLOWED_BUCKET)
    s3_direct.put_object(Bucket=ALLOWED_BUCKET, Key="open/readme.jpg", Body=make_photo(0))
    return folder


def adapt(example: str, service: RunningService) -> str:
    """Replace the addresses of the service and of the bucket in an example, and the pose."""
    return (
        example.replace("http://127.0.0.1:8000", service.url)
        .replace("s3://checkin-poses/photo.jpg", f"s3://{ALLOWED_BUCKET}/open/readme.jpg")
        .replace('"pose_id": 7', f'"pose_id": {min(POSES)}')
    )


@pytest.mark.parametrize("line", CURL_LINES)
def test_the_curl_commands_of_the_documents_are_answered(
    service: RunningService, folder: Path, line: str
) -> None:
    done = subprocess.run(
        adapt(line, service).replace("curl ", "curl --silent --fail ", 1),
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if "/v1/feedback" in line:
        assert json.loads(done.stdout)["pose_id"] == min(POSES)
    else:
        assert done.stdout.count('"confidence"') == (2 if "second.jpg" in line else 1)


def test_the_python_example_of_the_serving_page_prints_a_pose(service: RunningService, folder: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", adapt(example, service)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert any(name in done.stdout for name in POSES.values()), done.stderr
