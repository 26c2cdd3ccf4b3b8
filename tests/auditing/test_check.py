import json

import pyarrow as pa
import pytest
from PIL import Image

from physiq_ray.auditing import audit_manifest
from physiq_ray.auditing import check as check_module
from physiq_ray.config import Settings
from physiq_ray.errors import UnreachableError
from physiq_ray.ingest import checking
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest


@pytest.fixture
def read_without_a_response(ray_local, make_photo):
    """Give a function that reads photos for an audit; the storage does not respond to those of s3://."""
    photo = make_photo()

    class Reader:  # inside a function, Ray sends its code
        def read(self, uri, etag):
            if uri.startswith("s3://"):
                raise UnreachableError(f"read {uri}: no answer")
            return photo

    return checking(Settings(cache="none"), lambda: None, reader=Reader())


def manifest_of(uris):
    rows = [
        {
            **{"uri": uri, "bucket": "checkins", "key": uri, "size": 1, "etag": str(number), "group": uri},
            **{"pose_id": 1, "class_index": 0, "split": "train"},
        }
        for number, uri in enumerate(uris)
    ]
    return Manifest(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), ClassMapping(("1",)))


def test_the_check_gives_up_after_many_photos_in_a_row_without_a_response(
    read_without_a_response, monkeypatch
):
    monkeypatch.setattr(check_module, "OUTAGE_RUN", 5)
    uris = [f"s3://checkins/{number}.jpg" for number in range(200)]

    found = audit_manifest(manifest_of(uris), {}, read_photos=read_without_a_response, near_duplicates=True)

    assert found.check.num_checked == 5
    assert found.check.near_duplicates is None
    assert {photo.step for photo in found.check.unreadable} == {"fetch"}
    assert found.check.gave_up.startswith(
        "gave up after 5 of 200 photos: no answer for 5 in a row, the last read s3://checkins/4.jpg: "
    )
    assert found.not_looked_at[-1] == found.check.gave_up


def test_the_check_continues_after_single_photos_without_a_response(read_without_a_response, monkeypatch):
    monkeypatch.setattr(check_module, "OUTAGE_RUN", 2)
    uris = [f"s3://checkins/{number}.jpg" if number % 2 else f"/{number}.jpg" for number in range(10)]

    check = audit_manifest(manifest_of(uris), {}, read_photos=read_without_a_response).check

    assert (check.num_checked, check.gave_up, len(check.unreadable)) == (10, None, 5)


def test_copies_and_their_near_duplicate_are_one_pair(ray_local, audit, project, make_photo):
    photos = project / "photos" / "2"
    with Image.open(project / "photos" / "1" / "02.jpg") as image:
        image.resize((240, 320)).save(photos / "near-0.jpg", quality=70)
    for number in range(1, 5):
        (photos / f"near-{number}.jpg").write_bytes((photos / "near-0.jpg").read_bytes())
        (project / "photos" / "1" / f"02-{number}.jpg").write_bytes(
            (project / "photos" / "1" / "02.jpg").read_bytes()
        )
    found = json.loads(audit("--near-duplicates", "--json").stdout)
    pairs = [(a, b) for a, b, _ in found["check"]["near_duplicates"] if "/02" in a and "/near-" in b]
    assert pairs == [(f"{project}/photos/1/02-1.jpg", f"{photos}/near-0.jpg")]
