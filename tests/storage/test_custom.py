"""Custom sources: ZIP files, and classes that a Python caller writes."""

import io
import json
import zipfile
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from physiq_ray.config import Settings
from physiq_ray.errors import ChangedError, NotFoundError, SettingError, StorageError
from physiq_ray.images import decode_square
from physiq_ray.ingest import open_photos
from physiq_ray.labels import load_poses
from physiq_ray.manifest import collect_manifest
from physiq_ray.storage import LISTING_SCHEMA, ZipPhotos

SIZE = 64


def write_zip(path, photos):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in photos.items():
            archive.writestr(name, data)
    return ZipPhotos(path)


@pytest.fixture
def photos(make_photo):
    return {f"anna/{number:02d}.jpeg": make_photo(seed=number) for number in range(20)}


@pytest.fixture
def settings(tmp_path, photos):
    """Write poses, and labels that alternate between poses 1 and 2; give the settings that name the files."""
    labels = [{"poseId": n % 2 + 1, "s3Filename": name.split("/")[-1]} for n, name in enumerate(photos)]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}]')
    return {"labels": str(tmp_path / "labels.json"), "poses": str(tmp_path / "poses.json")}


def test_a_zip_file_is_listed_and_read(tmp_path):
    source = write_zip(tmp_path / "checkins.zip", {"a/é.jpg": b"photo", "notes.txt": b"not a photo"})
    [row] = source.list().to_pylist()
    assert row.pop("modified").year >= 2024
    assert row == {
        "uri": f"zip://{tmp_path}/checkins.zip/a/é.jpg",
        "bucket": "checkins",
        "key": "a/é.jpg",
        "size": 5,
        "etag": "crc-14b78418",
    }
    assert source.read(row["uri"], row["etag"]) == b"photo"


def test_photos_of_a_replaced_zip_file_are_not_read(tmp_path):
    source = write_zip(tmp_path / "a.zip", {"a.jpg": b"old", "b.jpg": b"old"})
    rows = source.list().to_pylist()
    write_zip(tmp_path / "a.zip", {"a.jpg": b"new"})
    with pytest.raises(ChangedError, match=r"a.zip/a.jpg: it changed since it was listed"):
        source.read(rows[0]["uri"], rows[0]["etag"])
    with pytest.raises(NotFoundError, match=r"a.zip/b.jpg: no such photo"):
        source.read(rows[1]["uri"], rows[1]["etag"])
    (tmp_path / "a.zip").write_bytes(b"not a ZIP file")
    with pytest.raises(StorageError, match="not a ZIP file"):
        source.list()


def test_a_manifest_can_be_collected_from_a_custom_source(tmp_path, photos, settings):
    source = write_zip(tmp_path / "checkins.zip", photos)
    manifest = collect_manifest(Settings(**settings), load_poses(tmp_path / "poses.json"), source)
    assert manifest.table.num_rows == 20
    assert set(manifest.table["bucket"].to_pylist()) == {"checkins"}
    assert manifest.report.sources[0].source == "checkins"
    with pytest.raises(SettingError, match="given together with the source checkins"):
        collect_manifest(Settings(sources=["photos"], **settings), {}, source)


def test_a_listing_with_wrong_columns_is_refused(tmp_path, settings):
    @dataclass(frozen=True)
    class Wrong:
        name: str = "wrong"

        def list(self):
            return pa.table({"uri": ["a"]})

        def read(self, uri, etag):
            return b""

    with pytest.raises(SettingError, match=r"source wrong: list\(\) gave the columns .*uri: string"):
        collect_manifest(Settings(**settings), {1: "One"}, Wrong())


@pytest.mark.parametrize("kind", ["memory", "none"])
def test_ray_s_processes_read_photos_with_the_custom_source(ray_local, tmp_path, photos, kind):
    source = write_zip(tmp_path / "checkins.zip", photos)
    listed = source.list()
    table = listed.append_column("class_index", pa.array(range(20), pa.int32()))
    changed = dict(photos) | {"anna/03.jpeg": photos["anna/04.jpeg"]}
    del changed["anna/07.jpeg"]
    write_zip(tmp_path / "checkins.zip", changed)
    opened = open_photos(table, image_size=SIZE, kind=kind, reader=source)
    [batch] = opened.batches(np.arange(20), 20)
    assert {row: item.step for row, item in batch.unreadable} == {3: "changed", 7: "gone"}
    assert batch.labels.tolist() == batch.rows.tolist()
    for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
        assert np.array_equal(image, decode_square(photos[f"anna/{row:02d}.jpeg"], size_px=SIZE))


def test_an_error_of_a_custom_source_makes_one_photo_unreadable(ray_local, make_photo):
    data = make_photo()

    @dataclass(frozen=True)
    class Odd:
        name: str = "odd"

        def list(self):
            rows = [
                {"uri": f"odd:{n}", "bucket": "odd", "key": f"{n}.jpg", "size": 1, "etag": "1", "modified": 0}
                for n in range(3)
            ]
            return pa.Table.from_pylist(rows, schema=LISTING_SCHEMA)

        def read(self, uri, etag):
            if uri == "odd:1":
                raise ValueError("out of order")
            return data

    source = Odd()
    table = source.list().append_column("class_index", pa.array(range(3), pa.int32()))
    [batch] = open_photos(table, image_size=SIZE, kind="none", reader=source).batches(np.arange(3), 3)
    assert batch.rows.tolist() == [0, 2]
    assert batch.unreadable[0][1].error == "read odd:1: ValueError: out of order"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_training_reads_a_custom_source(ray_local, tmp_path, photos, settings):
    from physiq_ray.progress import Display
    from physiq_ray.training.run import train

    source = write_zip(tmp_path / "checkins.zip", photos)
    quick = {"image_size": 64, "batch_size": 8, "epochs": 1, "weights": "random", "precision": "fp32"}
    folders = {"output": str(tmp_path / "model"), "storage": str(tmp_path / "runs"), "cache": "none"}
    result = train(
        Settings(**settings, **quick, **folders), Display(Console(file=io.StringIO())), source=source
    )
    assert sum(result.num_used.values()) == 20
    assert result.unreadable == ()
    assert (tmp_path / "model" / "pose_classifier.pth").exists()
