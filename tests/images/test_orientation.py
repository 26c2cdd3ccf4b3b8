import io
from collections.abc import Callable
from typing import Any

import pillow_heif
import pytest
from PIL import Image
from pixels import difference

from physiq_ray.images import decode_image, decode_square, read_size

MakePhoto = Callable[..., bytes]


def drawn(make_photo: MakePhoto, size: tuple[int, int] = (240, 180)) -> Image.Image:
    return Image.open(io.BytesIO(make_photo(3, size=size, format="PNG"))).convert("RGB")


UPRIGHT = {  # orientation → the transposition that makes the stored pixels upright
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LOSSLESS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photos_of_every_orientation_are_decoded_upright(
    make_photo: MakePhoto, format: str, orientation: int
) -> None:
    stored = Image.open(io.BytesIO(make_photo(5, format="PNG")))
    turn = UPRIGHT[orientation]
    upright = stored if turn is None else stored.transpose(turn)
    data = make_photo(5, format=format, orientation=orientation, **LOSSLESS[format])

    image = decode_image(data, min_side_px=500)

    assert image.shape == (upright.height, upright.width, 3)
    assert difference(image, upright) < 1
    assert read_size(data) == upright.size
    square = decode_square(data, size_px=64)
    assert difference(square, upright.resize((64, 64), Image.Resampling.BILINEAR)) < 1


def test_the_corners_of_a_rotated_portrait_are_in_their_places() -> None:
    stored = Image.new("RGB", (80, 40), "black")
    stored.paste("red", (0, 0, 40, 40))  # left half; orientation 6 rotates clockwise, so left becomes top
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    stored.save(file, "JPEG", exif=exif, quality=95)

    image = decode_image(file.getvalue(), min_side_px=40)

    assert image.shape == (80, 40, 3)
    assert image[10, 20, 0] > 240
    assert image[70, 20, 0] < 15


@pytest.mark.parametrize("orientation", [0, 9, 99, 65535])
@pytest.mark.parametrize("format", LOSSLESS)
def test_an_invalid_orientation_is_ignored(make_photo: MakePhoto, format: str, orientation: int) -> None:
    data = make_photo(5, format=format, orientation=orientation)

    assert decode_image(data, min_side_px=500).shape == (160, 120, 3)
    assert read_size(data) == (120, 160)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_photo_with_damaged_exif_data_is_decoded(make_photo: MakePhoto, format: str, exif: bytes) -> None:
    data = make_photo(5, format=format, exif=exif)

    assert decode_square(data, size_px=64).shape == (64, 64, 3)
    assert read_size(data) == (120, 160)


@pytest.mark.slow
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["HEIC", "AVIF"])
def test_a_rotation_in_the_container_and_in_the_exif_data_is_applied_once(
    make_photo: MakePhoto, orientation: int, format: str
) -> None:
    # Phones write both. The encoders below write the EXIF orientation also as irot and imir boxes.
    image = drawn(make_photo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    if format == "HEIC":
        heif = pillow_heif.from_pillow(image)
        heif.save(file, quality=95, chroma=444, exif=exif.tobytes())
    else:
        image.save(file, "AVIF", quality=95, exif=exif)
    turn = UPRIGHT[orientation]
    upright = image if turn is None else image.transpose(turn)

    assert read_size(file.getvalue()) == upright.size
    assert difference(decode_image(file.getvalue(), min_side_px=500), upright) < 2
