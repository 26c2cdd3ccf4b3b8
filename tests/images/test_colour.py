import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import icc
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms
from pixels import difference

from physiq_ray.images import decode_image, decode_square

MakePhoto = Callable[..., bytes]
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "PNG": {"format": "PNG"},
    "WEBP": {"format": "WEBP", "lossless": True},
    "TIFF": {"format": "TIFF"},
    "AVIF": {"format": "AVIF", "quality": 100, "subsampling": "4:4:4"},
}


def drawn(make_photo: MakePhoto, seed: int = 3) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(make_photo(seed, size=(240, 180), format="PNG"))))


def encoded(pixels: npt.NDArray[np.uint8], profile: bytes | None, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **(options | ({"icc_profile": profile} if profile else {})))
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize(("space", "tolerance"), [("Display P3", 1.0), ("Adobe RGB", 1.0), ("ProPhoto", 2.0)])
def test_photos_in_every_colour_space_are_decoded_to_the_same_colours(
    make_photo: MakePhoto, space: str, version: int, tolerance: float, format: str
) -> None:
    tolerance += 0.5 if format == "AVIF" else 0  # AVIF rounds colour differences
    pixels = drawn(make_photo)
    numbers = icc.encode_from_srgb(pixels, space)
    assert difference(numbers, pixels) > 3  # so a missing conversion would be noticed

    data = encoded(numbers, icc.make_rgb_profile(space, version=version), **FORMATS[format])

    assert difference(decode_image(data, min_side_px=500), pixels) < tolerance
    small = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR)
    assert difference(decode_square(data, size_px=64), small) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize(
    "profile",
    [
        icc.make_rgb_profile("sRGB", version=2),
        icc.make_rgb_profile("sRGB", version=4),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
)
@pytest.mark.parametrize("format", FORMATS)
def test_an_srgb_photo_keeps_its_pixels_with_any_srgb_profile(
    make_photo: MakePhoto, format: str, profile: bytes
) -> None:
    pixels = drawn(make_photo)

    with_profile = decode_square(encoded(pixels, profile, **FORMATS[format]), size_px=64)

    assert np.array_equal(with_profile, decode_square(encoded(pixels, None, **FORMATS[format]), size_px=64))


P3 = icc.make_rgb_profile("Display P3")


@pytest.mark.parametrize(
    "profile",
    {
        "no profile": b"not a profile at all" * 20,
        "truncated": P3[:200],
        "device link": P3[:12] + b"link" + P3[16:],
        "grey": icc.make_grey_profile(1.8),
        "tags outside the file": P3[:140] + b"\xff" * 40 + P3[180:],
    }.values(),
)
def test_a_damaged_or_unsuitable_profile_is_ignored(make_photo: MakePhoto, profile: bytes) -> None:
    pixels = drawn(make_photo)

    photo = decode_square(encoded(pixels, profile, format="PNG"), size_px=64)

    assert np.array_equal(photo, decode_square(encoded(pixels, None, format="PNG"), size_px=64))


def test_a_palette_and_a_half_transparent_photo_are_converted_too() -> None:
    green = icc.encode_from_srgb(np.full((40, 40, 3), (60, 200, 90), np.uint8), "Display P3")
    palette = io.BytesIO()
    Image.fromarray(green).quantize(2).save(palette, "PNG", icc_profile=P3)
    clear = Image.fromarray(green).convert("RGBA")
    clear.paste((0, 0, 0, 0), (0, 0, 40, 20))
    alpha = io.BytesIO()
    clear.save(alpha, "PNG", icc_profile=P3)

    np.testing.assert_allclose(decode_square(palette.getvalue(), size_px=40)[30, 5], (60, 200, 90), atol=1)
    image = decode_square(alpha.getvalue(), size_px=40)
    np.testing.assert_allclose(image[30, 5], (60, 200, 90), atol=1)
    assert image[5, 5].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("format", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "I;16")])
def test_grey_photos_are_converted_by_their_curve(format: str, mode: str) -> None:
    # Half of full brightness: 0.5 ** (1 / 1.8) is 173.5 of 255 there, and 187.5 by sRGB's curve.
    image = Image.new("L", (40, 40), 174)
    if mode == "I;16":
        image = Image.fromarray(np.full((40, 40), 174 * 257, np.uint16))
    file = io.BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(
        file, format, icc_profile=icc.make_grey_profile(1.8)
    )

    np.testing.assert_allclose(decode_square(file.getvalue(), size_px=16), 188, atol=1)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_photos_are_converted_by_their_profile(format: str) -> None:
    inks = np.ones((2, 2, 2, 2, 3))  # the colour of each mixture of inks; magenta is blue in this profile
    inks[1, ..., 0] *= 0.1
    inks[:, 1, ..., :] *= (0.05, 0.05, 1.0)
    inks[:, :, 1, :, 2] *= 0.1
    inks[..., 1, :] *= 0.02
    profile = icc.make_cmyk_profile(inks)
    file = io.BytesIO()
    Image.new("CMYK", (64, 64), (0, 255, 0, 0)).save(file, format, icc_profile=profile)

    middle = decode_square(file.getvalue(), size_px=16)[8, 8]

    # Linear 0.05 is 63 of 255 by sRGB's curve; without the profile it would be (255, 0, 255).
    np.testing.assert_allclose(middle, (63, 63, 255), atol=8)


@pytest.mark.slow
def test_eight_threads_convert_to_the_same_pixels(make_photo: MakePhoto) -> None:
    spaces = ["Display P3", "Adobe RGB", "ProPhoto"]
    photos = [
        encoded(drawn(make_photo, seed), icc.make_rgb_profile(spaces[seed % 3]), format="JPEG")
        for seed in range(9)
    ] * 8
    alone = [decode_square(photo, size_px=96) for photo in photos]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda photo: decode_square(photo, size_px=96), photos))

    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
