import io

import pytest
from rich.console import Console

from physiq_ray.config import Settings
from physiq_ray.errors import SettingError
from physiq_ray.labels import LABEL_SCHEMA, Labels
from physiq_ray.manifest import build_manifest
from physiq_ray.progress import Display
from physiq_ray.storage import list_sources, parse_sources
from physiq_ray.training.record import RunRecord
from physiq_ray.training.run import _read_manifest

POSES = {1: "Front Lat Spread", 2: "Front Double Biceps"}


@pytest.fixture
def start():
    """Give a function that starts a run's record and returns it with what was shown."""

    def call(**settings):
        out = io.StringIO()
        display = Display(Console(file=out, width=200))
        manifest = _read_manifest(Settings(**settings), display, None)
        return RunRecord.of_manifest(manifest, POSES), out.getvalue()

    return call


def test_a_saved_manifest_stands_for_the_listing(start, tmp_path):
    for pose_id in POSES:
        (tmp_path / "photos" / str(pose_id)).mkdir(parents=True)
        for number in range(5):
            (tmp_path / "photos" / str(pose_id) / f"{number}.jpg").write_bytes(b"%d-%d" % (pose_id, number))
    listings = list_sources(parse_sources([str(tmp_path / "photos")]))
    manifest = build_manifest(listings, Labels(LABEL_SCHEMA.empty_table()), POSES)
    (tmp_path / "m.parquet").write_bytes(manifest.to_parquet())

    record, shown = start(manifest=str(tmp_path / "m.parquet"), storage=str(tmp_path / "runs"))

    assert record.manifest.table.equals(manifest.table)
    assert (record.num_skipped, record.failed_sources) == (0, ())
    assert shown.strip() == f"{tmp_path}/m.parquet: 8 photos to train on, 2 to validate with"


def test_a_manifest_beside_sources_is_refused(start, tmp_path):
    with pytest.raises(SettingError) as caught:
        start(manifest="m.parquet", sources=["s3://checkins"], storage=str(tmp_path))
    assert str(caught.value) == (
        "manifest=m.parquet: given together with sources=s3://checkins; a manifest names its photos "
        "itself: give one of the two"
    )
