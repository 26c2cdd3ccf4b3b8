"""Reviews without a page, and a `physiq-ray review` in its own process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from physiq_ray.review.candidates import Candidates
from physiq_ray.review.catalogue import Catalogue
from physiq_ray.review.journal import Journal
from physiq_ray.review.session import Session

POSES = {1: "Front Lat Spread", 5: "Back Double Biceps", 7: "Back Lat Spread"}
KEYS = {"1": 1, "2": 5, "3": 7, "0": None}  # of the page, for POSES


@dataclass
class Reviewer:
    """A review without a page."""

    catalogue: Catalogue
    candidates: Candidates
    journal: Journal
    session: Session
    clock: dict[str, float]  # s: the time that the session sees

    def row(self, key: str) -> int:
        """Find a photo by its key."""
        return int(self.catalogue.photos["key"].to_pylist().index(key))

    def decide(self, key: str, pose_id: int | None) -> dict[str, Any]:
        """Decide about a photo."""
        return self.session.decide(self.row(key), pose_id)

    def shown(self) -> list[str]:
        """Give the keys of the photos in the order in which they are shown."""
        items, start = [], 0
        while found := self.session.items(start, 50):
            items += found
            start += len(found)
        return [item["key"] for item in items]

    def close(self) -> Path:
        """End the review; give its journal."""
        self.journal.__exit__(None, None, None)
        return self.journal.path


@dataclass
class Page:
    """A `physiq-ray review` in its own process."""

    url: str
    process: subprocess.Popen[str]
    review: str | None = None

    def get(self, path: str, **options: Any) -> requests.Response:
        """Get one of its paths."""
        return requests.get(f"{self.url}{path}", timeout=30, **options)

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        """Post JSON to one of its paths, as the page of this start of the review does."""
        headers = dict(options.pop("headers", {}))
        if self.review is None:
            authorization = {name: headers[name] for name in headers if name == "Authorization"}
            self.review = self.get("/session", headers=authorization).json().get("review")
        headers.setdefault("X-Review", self.review)
        return requests.post(f"{self.url}{path}", json=body, headers=headers, timeout=30, **options)


@contextlib.contextmanager
def running_review(folder: Path, *flags: str | Path, port: int = 0) -> Iterator[Page]:
    """Start a review in a folder with labels.json and poses.json; end it by SIGINT if it still runs."""
    files = ("--labels", "labels.json", "--poses", "poses.json", "--port", str(port))
    command = [sys.executable, "-m", "physiq_ray.cli", "review", *files, *map(str, flags)]
    with (folder / "review.log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ.copy()
        )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
        assert line.startswith("http://"), line + (folder / "review.log").read_text()
        try:
            yield Page(line.split()[0].rstrip("/"), process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(60)


def labels_in(path: Path) -> dict[str, int | None]:
    """Read a label file: the last part of the name → pose id."""
    return {
        record["s3Filename"].rpartition("/")[2]: record["poseId"] for record in json.loads(path.read_text())
    }


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a journal."""
    return [json.loads(line) for line in path.read_text().splitlines()]
