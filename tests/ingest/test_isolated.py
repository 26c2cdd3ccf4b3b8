import os
import sys
from pathlib import Path

import crashing
import numpy as np
import pyarrow as pa
import pytest
from crashing import CrashingPhoto

from physiq_ray.errors import PhotoError
from physiq_ray.images import decode_square
from physiq_ray.ingest import build_dataset
from physiq_ray.ingest.isolated import IsolatedDecoder
from physiq_ray.ingest.tasks import read_in_tasks

SIZE = 32


@pytest.fixture
def files(tmp_path, make_photo):
    """Write eight photos, and give their table."""
    paths = [tmp_path / f"{number}.jpeg" for number in range(8)]
    for number, path in enumerate(paths):
        path.write_bytes(make_photo(seed=number))
    sizes = [path.stat().st_size for path in paths]
    return pa.table({"uri": [str(path) for path in paths], "size": sizes, "etag": ["v"] * 8})


def crashing_reader(name, *, crashes_itself=False):
    """Make a reader of files; the one of a name crashes the decoder, or the reader itself."""
    helpers = str(Path(crashing.__file__).parent)

    class Reader:
        def read(self, uri, etag):
            data = Path(uri).read_bytes()
            if Path(uri).name != name:
                return data
            if crashes_itself:
                os._exit(1)
            sys.path.append(helpers)  # this process is Ray's; the one that decodes gets its path
            from crashing import CrashingPhoto

            return CrashingPhoto(data)

    return Reader()


def test_a_photo_that_crashes_the_decoder_costs_no_other_photo(make_photo):
    photo = make_photo(seed=1)
    decoder = IsolatedDecoder()
    try:
        first = decoder(photo, size_px=SIZE)
        with pytest.raises(PhotoError, match="crashes the decoder"):
            decoder(CrashingPhoto(photo), size_px=SIZE)
        with pytest.raises(PhotoError, match="empty"):
            decoder(b"", size_px=SIZE)
        second = decoder(photo, size_px=SIZE)
    finally:
        decoder.close()
    assert np.array_equal(first, decode_square(photo, size_px=SIZE))
    assert np.array_equal(first, second)


@pytest.mark.slow
def test_a_photo_that_crashes_a_task_is_unreadable_and_the_others_are_read(ray_local, files):
    rows = build_dataset(files, image_size=SIZE, reader=crashing_reader("3.jpeg")).take_all()
    assert [row["uri"] for row in rows] == files["uri"].to_pylist()
    assert [(row["step"], row["error"]) for row in rows] == [
        ("decode", "crashes the decoder") if number == 3 else ("", "") for number in range(8)
    ]
    for row in rows[2], rows[4]:
        assert np.array_equal(row["image"], decode_square(Path(row["uri"]).read_bytes(), size_px=SIZE))


@pytest.mark.slow
def test_an_audit_names_a_photo_that_crashes_its_task(ray_local, files):
    (table,) = read_in_tasks(files, image_size=SIZE, reader=crashing_reader("3.jpeg"), with_hashes=True)
    assert table["error"].to_pylist() == ["", "", "", "crashes the decoder", "", "", "", ""]
    assert [bits > 0 for bits in table["bits"].to_pylist()] == [True] * 3 + [False] + [True] * 4


@pytest.mark.long
def test_the_photos_of_a_task_that_is_lost_again_and_again_are_unreadable(ray_local, files):
    reader = crashing_reader("3.jpeg", crashes_itself=True)
    rows = build_dataset(files, image_size=SIZE, reader=reader).take_all()
    assert [row["uri"] for row in rows] == files["uri"].to_pylist()
    error = "the process that reads it and 7 others ended 10 times"
    assert {(row["step"], row["error"], row["image"].max()) for row in rows} == {("decode", error, 0)}
