"""Photo bytes → upright sRGB pixels: open, look at the header, decode as small as will do, convert, turn."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from physiq_ray.errors import PhotoError, TooLargeError
from physiq_ray.images.colour import find_conversion
from physiq_ray.images.formats import FORMATS, open_photo
from physiq_ray.images.jpeg import JpegFile, check_body, check_header
from physiq_ray.images.orientation import UPRIGHT, read_orientation

UInt8Array = npt.NDArray[np.uint8]

MAX_PIXELS = 89_478_485  # Pillow's own bomb limit: a quarter of a GiB in RGB

# How many times the wanted size the DCT-scaled photo still has at least: at 1 the decoder's box filter
# is all there is, and sharp photos come out up to 0.9 of 255 off a full decode.
DCT_MARGIN = 1.5
# Part of what prepared photos are found by: raise it with every change that changes pixels.
DECODER_VERSION = 1


def decoder_version() -> str:
    """Give what the pixels depend on besides the photo: this decoder and Pillow's."""
    return f"{DECODER_VERSION}-pillow{PIL.__version__}"


def decode_square(
    data: bytes, *, size_px: int, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS
) -> UInt8Array:
    """Decode one photo to what the network sees: the whole photo, squeezed into a square.

    max_pixels: decoded at most; a JPEG's header may claim more, as it is decoded at a reduced scale.
    Returns uint8 (size_px, size_px, 3), sRGB, 0 … 255. The aspect ratio is given up, not the edges: a crop
    would cut heads and feet off portraits.
    Raises PhotoError: empty, truncated, or damaged; FormatError: none of the formats; TooLargeError.
    """
    return _decode(data, lambda _width, _height: (size_px, size_px), max_pixels, formats)


def decode_image(data: bytes, *, min_side_px: int) -> UInt8Array:
    """Decode one photo for looking at: upright, no larger than needed.

    Returns uint8 (H, W, 3), sRGB, 0 … 255; the shorter side has min_side_px where the photo has that many.
    Raises PhotoError as `decode_square`.
    """

    def fit(width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, min_side_px / min(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    return _decode(data, fit, MAX_PIXELS, FORMATS)


def read_size(data: bytes) -> tuple[int, int]:
    """Give (width, height) in pixels of the upright photo, from its header.

    Raises PhotoError as `decode_square`, but for truncation, which a header does not show, and for JPEGs of
    more than MAX_PIXELS, which are decoded at a smaller size.
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
            size = target_size(*image.size)  # of the photo as stored: squares and sides survive turning
            if isinstance(image, JpegFile):
                # The mode stays, so that CMYK is converted with its own profile bits.
                image.draft(None, (math.ceil(size[0] * DCT_MARGIN), math.ceil(size[1] * DCT_MARGIN)))
                check_header(data, image, max_pixels)
                image.load()
                check_body(data, image)
            else:
                _check_size(image, max_pixels)
            orientation = read_orientation(image)
            to_srgb = find_conversion(image)
            rgb = image if to_srgb and image.mode == "CMYK" else _to_rgb(image)
            rgb = rgb.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
            if to_srgb:
                rgb = to_srgb(
                    rgb
                )  # of the small photo: a transform takes as long as decoding, pixel for pixel
            if orientation in UPRIGHT:
                rgb = rgb.transpose(UPRIGHT[orientation])
            return np.array(rgb)  # a copy that may be written to, as torch asks for
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever their format's faults lead to
        raise PhotoError(f"cannot be decoded: {error}") from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise TooLargeError(f"{image.width} × {image.height} is more than {max_pixels} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 and so turns nearly everything white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        raise PhotoError(f"pixels of 32 bits (mode {image.mode}) have no agreed brightness")
    if image.has_transparency_data:
        # Onto white, as browsers show it; dropping alpha would bring out whatever colour lies beneath.
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        return canvas.convert("RGB")
    return image.convert("RGB")
