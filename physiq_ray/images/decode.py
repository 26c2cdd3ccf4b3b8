"""Photo bytes → upright sRGB pixels: open, check the header, decode at a small scale, convert, rotate."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from physiq_ray.constants import FORMATS, MAX_PIXELS
from physiq_ray.errors import PhotoError, TooLargeError
from physiq_ray.images.colour import find_conversion
from physiq_ray.images.formats import open_photo
from physiq_ray.images.jpeg import JpegFile, check_body, check_header
from physiq_ray.images.orientation import UPRIGHT, read_orientation

UInt8Array = npt.NDArray[np.uint8]

# The DCT-scaled photo has at least this many times the wanted size. At 1, only the decoder's box filter
# would reduce it, and sharp photos would differ by up to 0.9 of 255 from a full decode.
DCT_MARGIN = 1.5
# Part of the key of prepared photos: increase it with every change that changes pixels.
DECODER_VERSION = 1


def decoder_version() -> str:
    """Return the versions of this decoder and of Pillow, on which the pixels depend."""
    return f"{DECODER_VERSION}-pillow{PIL.__version__}"


def decode_square(
    data: bytes, *, size_px: int, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS
) -> UInt8Array:
    """Decode one photo for the network: the whole photo, resized to a square.

    max_pixels: the most pixels to decode; a JPEG may have more, because it is decoded at a reduced scale.
    Returns uint8 (size_px, size_px, 3), sRGB, 0 … 255. The aspect ratio changes, because a crop would cut
    heads and feet off portraits.
    Raises PhotoError if the data is empty, truncated or damaged, FormatError if it has none of the formats,
    and TooLargeError.
    """
    return _decode(data, lambda _width, _height: (size_px, size_px), max_pixels, formats)


def decode_image(data: bytes, *, min_side_px: int) -> UInt8Array:
    """Decode one photo for display: upright, no larger than needed.

    Returns uint8 (H, W, 3), sRGB, 0 … 255. The shorter side has min_side_px, or less if the photo is smaller.
    Raises PhotoError like `decode_square`.
    """

    def fit(width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, min_side_px / min(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    return _decode(data, fit, MAX_PIXELS, FORMATS)


def to_square(image: UInt8Array, *, size_px: int) -> UInt8Array:
    """Resize a decoded photo for the network as `decode_square` does.

    image: uint8 (H, W, 3), as from `decode_image`. Returns uint8 (size_px, size_px, 3).
    """
    return np.array(_resized(Image.fromarray(image), (size_px, size_px)))


def mean_brightness(images: UInt8Array) -> npt.NDArray[np.float64]:
    """Give the mean luma of decoded photos: float64 (B,), 0 … 1, from uint8 (B, H, W, 3).

    The weights of red, green and blue are those of ITU-R BT.601, as in Pillow's mode L. Every fourth row and
    column is enough for a mean, and costs a sixteenth.
    """
    colours = images[:, ::4, ::4].mean(axis=(1, 2), dtype=np.float64)  # (B, 3)
    luma: npt.NDArray[np.float64] = colours @ np.array([0.299, 0.587, 0.114]) / 255
    return luma


def read_size(data: bytes) -> tuple[int, int]:
    """Read (width, height) in pixels of the upright photo from its header.

    Raises PhotoError like `decode_square`, with two exceptions: the header does not show that a photo is
    truncated, and JPEGs may have more than MAX_PIXELS, because they are decoded at a reduced scale.
    """
    try:
        with open_photo(data, FORMATS) as image:
            if not isinstance(image, JpegFile):
                _check_size(image, MAX_PIXELS)
            width, height = image.size
            return (height, width) if read_orientation(image) >= 5 else (width, height)
    except PhotoError:
        raise
    except Exception as error:
        raise PhotoError(f"cannot be read: {error}") from error


def _decode(
    data: bytes,
    target_size: Callable[[int, int], tuple[int, int]],
    max_pixels: int,
    formats: tuple[str, ...],
) -> UInt8Array:
    try:
        with open_photo(data, formats) as image:
            size = target_size(*image.size)  # before the rotation, which keeps squares and shorter sides
            if isinstance(image, JpegFile):
                # None keeps the mode, so that CMYK is converted by its own profile.
                image.draft(None, (math.ceil(size[0] * DCT_MARGIN), math.ceil(size[1] * DCT_MARGIN)))
                check_header(data, image, max_pixels)
                image.load()
                check_body(data, image)
            else:
                _check_size(image, max_pixels)
            orientation = read_orientation(image)
            to_srgb = find_conversion(image)
            rgb = image if to_srgb and image.mode == "CMYK" else _to_rgb(image)
            rgb = _resized(rgb, size)
            if to_srgb:
                # Per pixel, a conversion takes as long as decoding, so it comes after the resize.
                rgb = to_srgb(rgb)
            if orientation in UPRIGHT:
                rgb = rgb.transpose(UPRIGHT[orientation])
            return np.array(rgb)  # a writable copy, which torch requires
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many types of errors for damaged data
        raise PhotoError(f"cannot be decoded: {error}") from error


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise TooLargeError(f"{image.width} × {image.height} is more than {max_pixels} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which makes almost all pixels white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        raise PhotoError(f"pixels of 32 bits (mode {image.mode}) have no defined brightness")
    if image.has_transparency_data:
        # The background is white, as in browsers. Without alpha, hidden colours would become visible.
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        return canvas.convert("RGB")
    return image.convert("RGB")
