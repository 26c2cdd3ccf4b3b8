"""A folder of photos with a label file, reviews of it, and their merges."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reviewing import POSES, Reviewer

from physiq_ray.config import Settings, load_settings
from physiq_ray.review.candidates import find_candidates
from physiq_ray.review.catalogue import Catalogue, load_catalogue, read_label_file
from physiq_ray.review.journal import Journal, find_journals, read_journal
from physiq_ray.review.session import Session

Label = Callable[..., Path]


@pytest.fixture
def label(tmp_path: Path) -> Label:
    """Give a function that writes the label file from records."""
    (tmp_path / "poses.json").write_text(
        json.dumps([{"id": key, "name": name} for key, name in POSES.items()])
    )

    def write(*records: dict[str, Any], name: str = "labels.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(list(records)))
        return path

    return write


@pytest.fixture
def settings_of(tmp_path: Path, label: Label) -> Callable[..., Settings]:
    """Give a function that makes the settings of a review; without labels.json, there is no label yet."""

    def make(*sources: str | Path, **more: Any) -> Settings:
        given = {
            "sources": tuple(map(str, sources)),
            "labels": (str(tmp_path / "labels.json"),),
            "poses": str(tmp_path / "poses.json"),
        }
        return load_settings(given | more, environment={})

    return make


@pytest.fixture
def open_review(tmp_path: Path) -> Iterator[Callable[..., Reviewer]]:
    """Give a function that opens a review of a catalogue, without a page."""
    opened_here: list[Reviewer] = []

    def make(settings: Settings, journal: str = "review-a.jsonl", **options: Any) -> Reviewer:
        catalogue: Catalogue = load_catalogue(settings, options.get("feedback"))
        labels, _ = catalogue.read_labels(read_label_file(catalogue.label_file))
        candidates = find_candidates(catalogue, catalogue.match(labels), **options)
        opened = Journal(tmp_path / journal)
        clock = {"s": 1000.0}
        earlier = [
            item for path in find_journals(tmp_path) if path != opened.path for item in read_journal(path)[0]
        ]
        session = Session(catalogue, candidates, opened, earlier=earlier, clock=lambda: clock["s"])
        opened_here.append(Reviewer(catalogue, candidates, opened, session, clock))
        return opened_here[-1]

    yield make
    for review in opened_here:
        review.close()
