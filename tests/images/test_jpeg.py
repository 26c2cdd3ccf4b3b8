import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from physiq_ray.errors import FormatError, PhotoError, TooLargeError
from physiq_ray.images import decode_image, decode_square, read_size

MakePhoto = Callable[..., bytes]

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "baseline with its own tables": {"optimize": True},
    "baseline with restarts": {"restart_marker_blocks": 3},
    "full chroma": {"subsampling": 0},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "progressive": {"progressive": True},
    "progressive with restarts": {"progressive": True, "restart_marker_blocks": 3},
    "progressive grey": {"mode": "L", "progressive": True},
}


def place_of_frame(data: bytes) -> int:
    return max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))


def claiming(data: bytes, *, width: int | None = None, height: int | None = None) -> bytes:
    """Replace the size in the header of a JPEG."""
    place = place_of_frame(data) + 5
    size = [int.from_bytes(data[place + i : place + i + 2], "big") for i in (0, 2)]
    new = [height or size[0], width or size[1]]
    return data[:place] + b"".join(number.to_bytes(2, "big") for number in new) + data[place + 4 :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("height", [340, 600, 3024])
def test_a_photo_with_fewer_lines_than_its_header_claims_is_truncated(
    make_photo: MakePhoto, kind: str, height: int
) -> None:
    data = claiming(make_photo(3, size=(400, 300), **KINDS[kind]), height=height)

    with pytest.raises(PhotoError, match=f"truncated: its data end before the last of the {height} lines"):
        decode_square(data, size_px=64)
    with pytest.raises(PhotoError, match="truncated"):
        decode_image(data, min_side_px=200)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "progressive" not in kind])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_photo_with_an_end_marker_is_refused(
    make_photo: MakePhoto, kind: str, share: float
) -> None:
    data = make_photo(3, size=(400, 300), **KINDS[kind])

    with pytest.raises(PhotoError, match="truncated"):
        decode_square(data[: int(len(data) * share)] + b"\xff\xd9", size_px=64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 33), (400, 300)])
@pytest.mark.parametrize("grey_from", [0.0, 0.4, 0.8])
def test_a_complete_photo_that_ends_in_grey_is_not_truncated(
    make_photo: MakePhoto, kind: str, size: tuple[int, int], grey_from: float
) -> None:
    options = dict(KINDS[kind])
    mode = options.pop("mode", "RGB")
    image = Image.open(io.BytesIO(make_photo(3, size=size, format="PNG")))
    image.paste((128, 128, 128), (0, int(size[1] * grey_from), *size))
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", **options)

    assert decode_square(file.getvalue(), size_px=32).shape == (32, 32, 3)


def test_bytes_after_the_end_marker_are_ignored(make_photo: MakePhoto) -> None:
    grey = make_photo(3, size=(400, 300), mode="L")
    plain = io.BytesIO()
    Image.new("L", (400, 300), 128).save(plain, "JPEG")

    for data in (grey, plain.getvalue()):
        alone = decode_square(data, size_px=64)
        assert np.array_equal(decode_square(data + b"\0" * 500 + make_photo(4), size_px=64), alone)


@pytest.mark.parametrize("marker", [0xC9, 0xCA, 0xCB])
def test_a_marker_of_arithmetic_coding_is_refused(make_photo: MakePhoto, marker: int) -> None:
    data = bytearray(make_photo(3))
    data[place_of_frame(bytes(data)) + 1] = marker

    with pytest.raises(FormatError, match="an arithmetic-coded JPEG"):
        decode_square(bytes(data), size_px=64)


@pytest.mark.parametrize(("progressive", "marker"), [(True, 0xC0), (True, 0xC1), (False, 0xC2)])
def test_a_marker_of_another_kind_of_jpeg_is_refused(
    make_photo: MakePhoto, progressive: bool, marker: int
) -> None:
    data = bytearray(make_photo(3, progressive=progressive))
    data[place_of_frame(bytes(data)) + 1] = marker

    with pytest.raises(PhotoError, match=r"^cannot be decoded"):
        decode_square(bytes(data), size_px=64)


MEASURE = """
import resource, sys
from physiq_ray.images import decode_square
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode_square(data, size_px=224)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_jpeg_of_108_megapixels_is_decoded_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (12_000, 9_000), (200, 30, 40)).save(path, "JPEG")

    square = decode_square(path.read_bytes(), size_px=224)

    assert np.abs(square.astype(int) - (200, 30, 40)).max() <= 2
    assert read_size(path.read_bytes()) == (12_000, 9_000)
    done = subprocess.run([sys.executable, "-c", MEASURE, path], check=True, capture_output=True, text=True)
    assert done.stderr == ""  # Pillow does not warn about its size
    assert int(done.stdout) < 100_000  # KiB; a full decode would need 432 MB


def test_the_pixel_limit_of_a_jpeg_applies_to_the_decoded_size(make_photo: MakePhoto) -> None:
    data = make_photo(3, size=(400, 400))  # decoded at a quarter of its size, 100 × 100

    assert decode_square(data, size_px=64, max_pixels=30_000).shape == (64, 64, 3)
    with pytest.raises(TooLargeError, match=r"^400 × 400 is more than 9999 pixels$"):
        decode_square(data, size_px=64, max_pixels=9_999)
    with pytest.raises(TooLargeError, match=r"^400 × 400 is more than 120000 pixels, the limit for JPEGs$"):
        decode_square(data, size_px=64, max_pixels=20_000)


def test_a_header_that_claims_gigapixels_is_refused(make_photo: MakePhoto) -> None:
    data = claiming(make_photo(3), width=60_000, height=60_000)

    with pytest.raises(
        TooLargeError, match=r"^60000 × 60000 is more than 536870910 pixels, the limit for JPEGs$"
    ):
        decode_square(data, size_px=64)


def test_a_progressive_jpeg_is_limited_by_the_memory_that_it_needs(make_photo: MakePhoto) -> None:
    data = claiming(make_photo(3, progressive=True), width=16_320, height=12_240)

    with pytest.raises(
        TooLargeError,
        match=r"in several scans needs 599270400 bytes to decode, more than 536870910",
    ):
        decode_square(data, size_px=64)


def test_a_jpeg_with_too_many_scans_is_refused(make_photo: MakePhoto) -> None:
    data = claiming(make_photo(3, mode="L", progressive=True), width=8_000, height=8_000)
    last = data.rindex(b"\xff\xda")

    with pytest.raises(TooLargeError, match=r"^8000 × 8000 in 1006 scans takes too long to decode$"):
        decode_square(data[:last] + data[last:-2] * 1001 + data[-2:], size_px=64)
