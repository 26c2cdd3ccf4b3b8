import io
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

from physiq_ray.config import SplitSettings
from physiq_ray.errors import SettingError
from physiq_ray.images import decode_square
from physiq_ray.ingest import hashing
from physiq_ray.manifest import collect_manifest
from physiq_ray.near import HASH_PX, load_hash

POSES = {1: "Front Lat Spread", 2: "Front Double Biceps"}
YES = {"group_near_duplicates": "yes"}


def encoded(image, quality):
    """Encode a photo as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def changed(data):
    """Give a recompressed, a resized and a slightly brightened copy of a photo, by name."""
    image = Image.open(io.BytesIO(data))
    return {
        "recompressed": encoded(image, 40),
        "resized": encoded(image.resize((90, 120)), 90),
        "brightened": encoded(ImageEnhance.Brightness(image).enhance(1.08), 85),
    }


@pytest.fixture
def photos(make_photo):
    """Give 12 photos of each of two poses, key → bytes, with three changed copies of each in a folder."""
    files = {}
    for pose in (1, 2):
        for number in range(12):
            data = make_photo(seed=100 * pose + number)
            files[f"{pose}/{number:02d}.jpg"] = data
            files |= {f"{pose}/export/{word}-{number}.jpg": copy for word, copy in changed(data).items()}
    return files


def original(key):
    """Give the photo of which a photo is a copy."""
    pose, name = key[0], key.removesuffix(".jpg").rpartition("/")[2]
    return f"{pose}/{int(name.rpartition('-')[2])}"


def table_of(bucket, files):
    """Give uri, size and etag of the objects of a bucket."""
    return pa.table(
        {
            "uri": [f"s3://{bucket}/{key}" for key in files],
            "size": [len(data) for data in files.values()],
            "etag": [""] * len(files),
        }
    )


def test_copies_of_photos_end_on_one_side_with_the_setting_and_not_without_it(
    ray_local, make_bucket, photos, make_photo
):
    bucket = make_bucket({**photos, "1/cut.jpg": make_photo(seed=1)[:900], "2/cut too.jpg": b"no photo"})
    settings = SplitSettings(sources=(f"s3://{bucket}",), validation_share=0.3)
    progress = []

    def survey(chosen):
        read = hashing(chosen, lambda: None, on_progress=lambda done, total: progress.append((done, total)))
        manifest = collect_manifest(chosen, POSES, hash_photos=read)
        sides, groups = {}, {}
        for row in manifest.table.to_pylist():
            name = row["key"] if "cut" in row["key"] else original(row["key"])
            sides.setdefault(name, set()).add(row["split"])
            groups.setdefault(name, set()).add(row["group"])
        return manifest.report.alike, sides, groups

    alike, sides, _ = survey(settings)
    assert (alike, progress) == (None, [])
    assert sum(len(side) == 2 for side in sides.values()) > 12  # most of the 24 photos are on both sides

    alike, sides, groups = survey(settings.model_copy(update=YES))
    assert {len(side) for side in sides.values()} == {1}
    assert {side for (side,) in sides.values()} == {"train", "validation"}
    assert len(set.union(*groups.values())) == 26  # one for each original, and the unreadable ones alone
    assert (alike.num_photos, alike.num_groups, alike.largest, alike.total) == (96, 24, 4, 98)
    assert alike.not_fetched.count == 0
    assert progress[-1] == (98, 98)


def test_hashes_are_those_of_the_audit_and_photos_that_cannot_be_fetched_are_counted(
    ray_local, make_bucket, make_photo, deny
):
    files = {f"{number}.jpg": make_photo(seed=number) for number in range(5)}
    bucket = make_bucket(files)
    deny(bucket, "s3:GetObject", "2.jpg")
    table = table_of(bucket, files)

    found = hashing(SplitSettings(**YES), lambda: None)(table)

    image_hash = load_hash()
    expected = [image_hash(decode_square(data, size_px=HASH_PX)) for data in files.values()]
    assert found.is_known.tolist() == [True, True, False, True, True]
    assert np.delete(found.bits, 2).tolist() == expected[:2] + expected[3:]
    assert found.not_fetched.count == 1
    [example] = found.not_fetched.examples
    assert example.startswith(f"read s3://{bucket}/2.jpg: AccessDenied")


def test_the_missing_package_is_reported_before_the_listing(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(SettingError, match=r"near-duplicates need the ImageHash package"):
        hashing(SplitSettings(**YES), lambda: None)
    assert hashing(SplitSettings(), lambda: None) is None
