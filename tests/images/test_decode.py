import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pixels import difference

from physiq_ray.errors import PhotoError
from physiq_ray.images import (
    MAX_BYTES,
    decode_image,
    decode_square,
    mean_brightness,
    read_size,
    to_square,
)

MakePhoto = Callable[..., bytes]
FORMATS: dict[str, dict[str, Any]] = {
    "baseline JPEG": {"quality": 92},
    "JPEG of full chroma": {"quality": 100, "subsampling": 0},
    "progressive JPEG": {"progressive": True},
    "CMYK JPEG": {"mode": "CMYK"},
    "grey JPEG": {"mode": "L"},
    "PNG": {"format": "PNG"},
    "palette PNG": {"format": "PNG", "mode": "P"},
    "transparent PNG": {"format": "PNG", "mode": "RGBA"},
    "transparent grey PNG": {"format": "PNG", "mode": "LA"},
    "grey PNG of 16 bits": {"format": "PNG", "mode": "I;16"},
    "WebP": {"format": "WEBP"},
    "transparent WebP": {"format": "WEBP", "mode": "RGBA"},
    "GIF": {"format": "GIF", "mode": "P"},
    "BMP": {"format": "BMP"},
    "TIFF": {"format": "TIFF"},
    "compressed TIFF": {"format": "TIFF", "compression": "tiff_lzw"},
    "grey TIFF of 16 bits": {"format": "TIFF", "mode": "I;16"},
    "CMYK TIFF": {"format": "TIFF", "mode": "CMYK"},
}


def decoded_in_full(data: bytes) -> Image.Image:
    """Decode with Pillow at full size, and put transparent pixels on white."""
    image: Image.Image = Image.open(io.BytesIO(data))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_square_equals_the_photo_decoded_in_full_and_resized(make_photo: MakePhoto, kind: str) -> None:
    data = make_photo(3, size=(1200, 900), **FORMATS[kind])

    square = decode_square(data, size_px=224)

    assert (square.shape, square.dtype) == ((224, 224, 3), np.uint8)
    assert square.flags.writeable  # torch warns about arrays that are not writeable
    assert difference(square, decoded_in_full(data).resize((224, 224), Image.Resampling.BILINEAR)) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1000, 800), (2000, 1600)])
def test_a_jpeg_decoded_at_a_quarter_or_an_eighth_looks_the_same(
    make_photo: MakePhoto, size: tuple[int, int]
) -> None:
    data = make_photo(4, size=size)

    square = decode_square(data, size_px=128)

    assert difference(square, decoded_in_full(data).resize((128, 128), Image.Resampling.BILINEAR)) < 0.5


@pytest.mark.parametrize("size", [(300, 200), (225, 900), (100, 80), (1, 1), (2000, 3)])
def test_small_and_narrow_photos_become_squares_too(make_photo: MakePhoto, size: tuple[int, int]) -> None:
    data = make_photo(3, size=size)

    square = decode_square(data, size_px=224)

    assert difference(square, decoded_in_full(data).resize((224, 224), Image.Resampling.BILINEAR)) < 0.5


def test_transparent_pixels_are_white_whatever_their_colour() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(file, "PNG")

    assert np.unique(decode_square(file.getvalue(), size_px=64)).tolist() == [255]


def test_pixels_of_sixteen_bits_keep_their_high_eight_bits() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 40), 0x80FF, np.uint16)).save(file, "PNG")

    assert np.unique(decode_square(file.getvalue(), size_px=64)).tolist() == [0x80]


def test_the_first_frame_of_an_animation_is_decoded() -> None:
    file = io.BytesIO()
    red, blue = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "blue")
    red.save(file, "GIF", save_all=True, append_images=[blue])

    assert decode_square(file.getvalue(), size_px=64)[0, 0].tolist() == [255, 0, 0]


def test_the_first_image_of_a_multi_picture_jpeg_is_decoded(make_photo: MakePhoto) -> None:
    first, second = (Image.open(io.BytesIO(make_photo(seed, format="PNG"))) for seed in (1, 2))
    file = io.BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[second], quality=95)

    assert difference(decode_image(file.getvalue(), min_side_px=500), first) < 2


@pytest.mark.parametrize(
    ("size", "min_side_px", "shape"),
    [
        ((1600, 1200), 224, (224, 299, 3)),
        ((1200, 1600), 224, (299, 224, 3)),
        ((1000, 1000), 100, (100, 100, 3)),
        ((300, 200), 200, (200, 300, 3)),
        ((300, 200), 500, (200, 300, 3)),  # not enlarged
        ((3000, 2), 1, (1, 1500, 3)),
    ],
)
def test_the_shorter_side_has_the_requested_length_but_photos_are_never_enlarged(
    make_photo: MakePhoto, size: tuple[int, int], min_side_px: int, shape: tuple[int, ...]
) -> None:
    data = make_photo(3, size=size)

    image = decode_image(data, min_side_px=min_side_px)

    assert image.shape == shape
    assert image.dtype == np.uint8
    resized = decoded_in_full(data).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    assert difference(image, resized) < 0.5


def png_header(width: int, height: int) -> bytes:
    """Give the beginning of a PNG whose header claims this size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT"
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)),
            struct.pack(">I", 0) + data + struct.pack(">I", zlib.crc32(data)),
        ]
    )


NO_PHOTOS = {
    "text": b"not a photo, though its name ends in .jpg",
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    "PDF": b"%PDF-1.7\n",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "PPM": b"P6 2 2 255\n" + bytes(12),
    "zeros": bytes(1000),
    "first bytes of a JPEG": b"\xff\xd8\xff",
}


@pytest.mark.parametrize("kind", NO_PHOTOS)
def test_data_that_are_not_a_photo_are_refused(kind: str) -> None:
    with pytest.raises(PhotoError, match=r"^not an image of a supported format \(JPEG, PNG, WEBP, GIF, BMP"):
        decode_square(NO_PHOTOS[kind], size_px=64)
    with pytest.raises(PhotoError, match=r"^not an image of a supported format"):
        read_size(NO_PHOTOS[kind])


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(PhotoError, match=r"^empty: no bytes at all$"):
        decode_square(b"", size_px=64)
    with pytest.raises(PhotoError, match=r"^empty: no bytes at all$"):
        read_size(b"")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (9_500, 9_500), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header(width: int, height: int) -> None:
    with pytest.raises(PhotoError, match="more than 89478485 pixels"):
        decode_square(png_header(width, height), size_px=64)
    with pytest.raises(PhotoError, match="more than 89478485 pixels"):
        read_size(png_header(width, height))


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(PhotoError, match=r"^104857601 bytes; at most 104857600 are read$"):
        decode_square(bytes(MAX_BYTES + 1), size_px=64)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize(
    "kind", ["baseline JPEG", "progressive JPEG", "PNG", "palette PNG", "WebP", "GIF", "BMP", "TIFF"]
)
def test_a_truncated_photo_is_refused(make_photo: MakePhoto, kind: str, share: float) -> None:
    data = make_photo(3, size=(400, 300), **FORMATS[kind])

    with pytest.raises(PhotoError, match=r"^(cannot be decoded: |not an image)"):
        decode_square(data[: int(len(data) * share)], size_px=64)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_32_bits_are_refused(dtype: type[np.generic]) -> None:
    file = io.BytesIO()
    Image.fromarray(np.ones((20, 20), dtype)).save(file, "TIFF")

    with pytest.raises(PhotoError, match=r"^pixels of 32 bits \(mode [IF]\) have no defined brightness$"):
        decode_square(file.getvalue(), size_px=64)


@pytest.mark.slow
@given(st.data())
def test_any_bytes_give_an_image_or_a_photo_error(make_photo: MakePhoto, data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]))
    photo = bytearray(make_photo(1, size=(40, 30), format=format, mode="P" if format == "GIF" else "RGB"))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6)):
        photo[place % len(photo)] = value

    for decode in (
        lambda: decode_square(bytes(photo), size_px=32).shape == (32, 32, 3),
        lambda: decode_image(bytes(photo), min_side_px=16).ndim == 3,
        lambda: len(read_size(bytes(photo))) == 2,
    ):
        with contextlib.suppress(PhotoError):
            assert decode()


@pytest.mark.slow
def test_eight_threads_decode_the_same_pixels(make_photo: MakePhoto) -> None:
    photos = [make_photo(seed, size=(300, 200), **kind) for seed, kind in enumerate(FORMATS.values())] * 4
    alone = [decode_square(photo, size_px=96) for photo in photos]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda photo: decode_square(photo, size_px=96), photos))

    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_decoded_photo_becomes_the_same_square_as_its_file(make_photo: MakePhoto) -> None:
    data = make_photo(size=(300, 200), format="PNG")
    photo = decode_image(data, min_side_px=1000)
    assert photo.shape == (200, 300, 3)
    assert (to_square(photo, size_px=64) == decode_square(data, size_px=64)).all()


def test_the_brightness_is_the_mean_luma() -> None:
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = np.stack([np.full((9, 9, 3), colour, np.uint8) for colour in colours])
    images[1, :, 4:] = 0  # of nine columns, the first and the second of every four are white: 0 and 4, 8
    assert mean_brightness(images).tolist() == pytest.approx([0, 1 / 3, 0.299, 0.587, 0.114])
