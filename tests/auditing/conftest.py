"""A folder with photos and a poses file, and the command that audits it."""

import json

import pytest
from PIL import Image


@pytest.fixture
def project(tmp_path, make_photo):
    """Make folders of two poses with 12 and 3 photos, a copy, a near-duplicate and a truncated photo."""
    for pose_id, count in ((1, 12), (2, 3)):
        (tmp_path / "photos" / str(pose_id)).mkdir(parents=True)
        for number in range(count):
            data = make_photo(seed=100 * pose_id + number)
            (tmp_path / "photos" / str(pose_id) / f"{number:02d}.jpg").write_bytes(data)
    photos = tmp_path / "photos"
    (photos / "1" / "copy of 00.jpg").write_bytes((photos / "1" / "00.jpg").read_bytes())
    with Image.open(photos / "1" / "01.jpg") as image:
        image.resize((240, 320)).save(photos / "1" / "resized.jpg", quality=70)
    (photos / "2" / "cut.jpg").write_bytes(make_photo(seed=9)[:900])
    (photos / "unlabelled.jpg").write_bytes(make_photo(seed=10))
    (tmp_path / "poses.json").write_text(
        json.dumps([{"id": 1, "name": "Front Lat Spread"}, {"id": 2, "name": "Side Chest"}])
    )
    return tmp_path


@pytest.fixture
def audit(run_here, project):
    """Give a function that runs `audit` on the folder of photos; with `ray_local`, it can read the photos."""

    def run(*args):
        return run_here("audit", "--sources", project / "photos", "--poses", project / "poses.json", *args)

    return run
