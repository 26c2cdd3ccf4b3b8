"""Photo bytes → upright RGB pixels, with one decoder for training, single predictions and the server.

Training and answers must see the same pixels, so nobody else opens a photo. JPEGs are decoded at the
smallest DCT scale that still covers the wanted size: several times faster on 12-megapixel phone photos.
Ray is not imported here; threads may decode side by side, as Pillow releases the GIL.
"""

import io
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import (  # imported here, once: Pillow's own search for plugins is not safe among threads
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from physiq_ray.errors import FormatError, PhotoError, TooLargeError

UInt8Array = npt.NDArray[np.uint8]

# HEIC, PDF, EPS and the like stay out: each format opened is code that hostile bytes can reach.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 89_478_485  # Pillow's own bomb limit: a quarter of a GiB in RGB
MAX_BYTES = 100 * 2**20

# How many times the wanted size the DCT-scaled photo still has at least: at 1 the decoder's box filter
# is all there is, and sharp photos come out up to 0.9 of 255 off a full decode.
DCT_MARGIN = 1.5

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF 2.3, tag 274: what undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_square(data: bytes, *, size_px: int) -> UInt8Array:
    """Decode one photo to what the network sees: the whole photo, squeezed into a square.

    Returns uint8 (size_px, size_px, 3), RGB, 0 … 255. The aspect ratio is given up, not the edges: a crop
    would cut heads and feet off portraits.
    Raises PhotoError: empty, truncated, not a supported image, or more than MAX_PIXELS.
    """
    return _decode(data, lambda _width, _height: (size_px, size_px))


def decode_image(data: bytes, *, min_side_px: int) -> UInt8Array:
    """Decode one photo for looking at: upright, no larger than needed.

    Returns uint8 (H, W, 3), RGB, 0 … 255; the shorter side has min_side_px where the photo has that many.
    Raises PhotoError as `decode_square`.
    """

    def fit(width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, min_side_px / min(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    return _decode(data, fit)


def read_size(data: bytes) -> tuple[int, int]:
    """Give (width, height) in pixels of the upright photo, from its header.

    Raises PhotoError as `decode_square`, but for truncation, which a header does not show.
    """
    try:
        with _open(data) as image:
            width, height = image.size
            return (height, width) if _orientation(image) >= 5 else (width, height)
    except PhotoError:
        raise
    except Exception as error:
        raise PhotoError(f"cannot be read: {error}") from error


def _decode(data: bytes, target_size: Callable[[int, int], tuple[int, int]]) -> UInt8Array:
    try:
        with _open(data) as image:
            size = target_size(*image.size)  # of the photo as stored: squares and sides survive turning
            orientation = _orientation(image)
            # Does nothing but for JPEG; the mode stays, so that CMYK is converted with its own profile bits.
            image.draft(None, (math.ceil(size[0] * DCT_MARGIN), math.ceil(size[1] * DCT_MARGIN)))
            rgb = _to_rgb(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
            if orientation in _UPRIGHT:
                rgb = rgb.transpose(_UPRIGHT[orientation])
            return np.array(rgb)  # a copy that may be written to, as torch asks for
    except (PhotoError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever their format's faults lead to
        raise PhotoError(f"cannot be decoded: {error}") from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise PhotoError("empty: no bytes at all")
    if len(data) > MAX_BYTES:
        raise TooLargeError(f"{len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise FormatError(f"not an image of a supported format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"more than {MAX_PIXELS} pixels: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise TooLargeError(f"{image.width} × {image.height} is more than {MAX_PIXELS} pixels")
    return image


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow has turned these already, their size included
        return 1
    try:
        orientation = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF data is no reason to lose the photo
        return 1
    return orientation if orientation in _UPRIGHT else 1


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
