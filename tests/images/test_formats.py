import io
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import icc
import numpy as np
import pillow_heif
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from pixels import difference

from physiq_ray.errors import FormatError, PhotoError
from physiq_ray.images import BASE_FORMATS, decode_image, decode_square, formats, read_size

MakePhoto = Callable[..., bytes]


def heic(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95, chroma=444, **options)
    return file.getvalue()


def drawn(make_photo: MakePhoto, size: tuple[int, int] = (240, 180)) -> Image.Image:
    return Image.open(io.BytesIO(make_photo(3, size=size, format="PNG"))).convert("RGB")


def test_heic_and_avif_are_read_by_their_content(make_photo: MakePhoto) -> None:
    image = drawn(make_photo)

    for data in (heic(image), make_photo(3, size=(240, 180), format="AVIF", quality=95)):
        assert read_size(data) == (240, 180)
        assert difference(decode_image(data, min_side_px=500), image) < 2
        assert decode_square(data, size_px=64).shape == (64, 64, 3)


def test_heic_in_display_p3_is_converted_to_srgb(make_photo: MakePhoto) -> None:
    pixels = np.asarray(drawn(make_photo))
    numbers = icc.encode_from_srgb(pixels, "Display P3")
    image = Image.fromarray(numbers)
    image.info["icc_profile"] = icc.make_rgb_profile("Display P3")

    decoded = decode_image(heic(image), min_side_px=500)

    assert difference(numbers, pixels) > 3
    assert difference(decoded, pixels) < 1.5


def test_heic_of_ten_bits_is_decoded_to_eight_bits() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    pixels = np.stack([np.tile(ramp, (64, 1))] * 3, axis=-1)
    file = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (64, 64), pixels.tobytes()).save(file, quality=100, chroma=444)

    np.testing.assert_allclose(decode_image(file.getvalue(), min_side_px=64), pixels / 257, atol=3)


def test_heic_without_the_extra_is_refused_with_the_remedy(
    make_photo: MakePhoto, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = heic(drawn(make_photo))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(formats, "why_no_heic", formats.why_no_heic.__wrapped__)

    with pytest.raises(
        FormatError, match=r"TIFF, AVIF\): it is HEIC: not read here; pip install 'physiq-ray\[heic\]'"
    ):
        decode_square(data, size_px=64)


@pytest.mark.parametrize(
    ("libheif", "libde265", "reason"),
    [
        ("1.23.3", "1.1.3", "libheif 1.23.3 has known vulnerabilities, 1.23.4 or newer is needed"),
        ("1.23.4", "1.1.2", "libde265 1.1.2 has known vulnerabilities, 1.1.3 or newer is needed"),
        ("1.23.4", "1.1.3", ""),
        ("1.24.0", "1.2.0", ""),
    ],
)
def test_libraries_with_known_vulnerabilities_are_not_used(
    monkeypatch: pytest.MonkeyPatch, libheif: str, libde265: str, reason: str
) -> None:
    info = {"libheif": libheif, "decoders": {"libde265": f"libde265 HEVC decoder, version {libde265}"}}
    monkeypatch.setattr(pillow_heif, "libheif_info", lambda: info)
    monkeypatch.setattr(pillow_heif, "libheif_version", lambda: libheif)

    assert formats.why_no_heic.__wrapped__().partition(";")[0] == reason


def test_the_installed_libraries_are_used() -> None:
    assert formats.why_no_heic.__wrapped__() == ""


@pytest.mark.parametrize("format", ["HEIC", "AVIF"])
def test_a_format_that_is_not_allowed_is_refused_by_its_name(make_photo: MakePhoto, format: str) -> None:
    data = heic(drawn(make_photo)) if format == "HEIC" else make_photo(3, format="AVIF")

    with pytest.raises(FormatError, match=rf"\(JPEG, PNG, WEBP, GIF, BMP, TIFF\): it is {format}$"):
        decode_square(data, size_px=64, formats=BASE_FORMATS)


def raw_tiff(tag: int, value: int) -> bytes:
    """Give a TIFF whose first image is marked as a preview, as in raw files based on TIFF."""
    directory = ImageFileDirectory_v2()
    directory[tag] = bytes([1, 4, 0, 0]) if tag == 50706 else value
    directory.tagtype[tag] = 1 if tag == 50706 else 4
    file = io.BytesIO()
    Image.new("RGB", (16, 12), "red").save(file, "TIFF", tiffinfo=directory)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (raw_tiff(50706, 0), "a camera's raw file; export it as JPEG"),
        (raw_tiff(254, 1), "a camera's raw file; export it as JPEG"),
        (b"FUJIFILMCCD-RAW 0201", "a camera's raw file; export it as JPEG"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file; export it as JPEG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000; convert it to JPEG"),
        (b"\xff\x0a" + bytes(40), "JPEG XL; convert it to JPEG"),
    ],
)
def test_unsupported_camera_formats_are_named_with_the_remedy(data: bytes, what: str) -> None:
    with pytest.raises(FormatError, match=rf": it is {what}$"):
        decode_square(data, size_px=64)


def test_a_tiff_that_is_not_a_raw_file_is_read() -> None:
    assert decode_square(raw_tiff(254, 0), size_px=8)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("cut", [0.2, 0.9])
def test_truncated_heic_and_avif_are_refused(make_photo: MakePhoto, cut: float) -> None:
    for data in (heic(drawn(make_photo)), make_photo(3, format="AVIF")):
        with pytest.raises(PhotoError):
            decode_square(data[: int(len(data) * cut)], size_px=64)


DECODE = """
import sys
from physiq_ray.images import decode_square, read_size
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    decode_square(data, size_px=64), read_size(data)
"""


@pytest.mark.slow
def test_damaged_metadata_writes_nothing_to_stderr(make_photo: MakePhoto, tmp_path: Path) -> None:
    damaged = {
        "nothing": b"Exif\0\0",
        "no directory": b"Exif\0\0MM\0*\xff\xff\xff\xff",
        "short": b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\0\x01\0\x06\0\0",
        "tag outside": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\xff\xff\0\xff\0\0",
    }
    paths = []
    for name, exif in damaged.items():
        for format in ("JPEG", "PNG", "WEBP"):
            path = tmp_path / f"{name}.{format}"
            path.write_bytes(make_photo(3, format=format, exif=exif))
            paths.append(path)
    # Without a resolution in the JFIF header, Pillow reads the EXIF data when it opens the file.
    data = make_photo(3, exif=damaged["short"])
    start = data.index(b"\xff\xe0")
    path = tmp_path / "no JFIF.jpg"
    path.write_bytes(data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :])
    # An MPO with a damaged index, a TIFF with a tag that is too long, and an APNG without frames.
    path_mpo = tmp_path / "bad.mpo"
    app2 = b"MPF\0MM\0*\0\0\0\x08\xff\xff"
    path_mpo.write_bytes(data[:2] + b"\xff\xe2" + (len(app2) + 2).to_bytes(2, "big") + app2 + data[2:])
    path_tiff = tmp_path / "bad.tif"
    tiff = bytearray(make_photo(3, format="TIFF"))
    directory = int.from_bytes(tiff[4:8], "little")
    for entry in range(directory + 2, directory + 2 + 12 * tiff[directory], 12):
        if int.from_bytes(tiff[entry : entry + 2], "little") == 284:  # planar configuration, one number
            tiff[entry + 4 : entry + 8] = (60_000).to_bytes(4, "little")
    path_tiff.write_bytes(tiff)
    png = make_photo(3, format="PNG")
    path_png = tmp_path / "bad.png"
    frames = b"acTL" + bytes(8)
    path_png.write_bytes(png[:33] + b"\0\0\0\x08" + frames + zlib.crc32(frames).to_bytes(4, "big") + png[33:])

    done = subprocess.run(
        [sys.executable, "-c", DECODE, *paths, path, path_mpo, path_tiff, path_png],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
