import io

import pytest
from rich.console import Console

from physiq_ray.config import Settings
from physiq_ray.errors import SettingError
from physiq_ray.labels import LABEL_SCHEMA, Labels
from physiq_ray.manifest import match_photos, read_manifest
from physiq_ray.progress import Display
from physiq_ray.storage import list_sources, parse_sources
from physiq_ray.training import run as run_module
from physiq_ray.training.record import RunRecord
from physiq_ray.training.run import train

POSES = {1: "Front Lat Spread", 2: "Front Double Biceps"}


class StartedError(Exception):
    """Ray would start now: the record of the run is complete."""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Give a function that trains up to the start of Ray, and returns what was shown."""

    def no_ray(**_):
        raise StartedError

    monkeypatch.setattr(run_module, "connect", no_ray)

    def call(**settings):
        out = io.StringIO()
        places = {"storage": str(tmp_path / "runs"), "output": str(tmp_path / "model")}
        with pytest.raises(StartedError):
            train(Settings(**places, weights="random", **settings), Display(Console(file=out, width=200)))
        return out.getvalue()

    return call


def test_a_saved_manifest_replaces_the_listing(start, tmp_path):
    for pose_id in POSES:
        (tmp_path / "photos" / str(pose_id)).mkdir(parents=True)
        for number in range(5):
            (tmp_path / "photos" / str(pose_id) / f"{number}.jpg").write_bytes(b"%d-%d" % (pose_id, number))
    listings = list_sources(parse_sources([str(tmp_path / "photos")]))
    manifest = match_photos(listings, Labels(LABEL_SCHEMA.empty_table()), POSES)
    (tmp_path / "m.parquet").write_bytes(manifest.to_parquet())

    shown = start(manifest=str(tmp_path / "m.parquet"))

    read = read_manifest(Settings(manifest=str(tmp_path / "m.parquet")))
    assert read.table.equals(manifest.table)
    record = RunRecord.of_manifest(read, POSES)
    assert (record.num_skipped, record.failed_sources) == (0, ())
    assert shown.strip() == f"{tmp_path}/m.parquet: 8 photos to train on, 2 to validate with"


def test_a_manifest_together_with_sources_is_refused():
    with pytest.raises(SettingError) as caught:
        read_manifest(Settings(manifest="m.parquet", sources=["s3://checkins"]))
    assert str(caught.value) == (
        "manifest=m.parquet: given together with sources=s3://checkins; a manifest names its photos "
        "itself: give one of the two"
    )
