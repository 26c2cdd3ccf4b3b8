"""Embedded colour profiles → sRGB, which the network is trained on.

Phones embed Display P3, cameras Adobe RGB, print shops CMYK: read as sRGB their colours are 4 to 16 of 255
off. A profile that is sRGB, under whatever name, is found out once and costs a look-up from then on; the
pixels stay as they are. A profile that is damaged, or not of the kind of the pixels, counts for nothing.
"""

import functools
import io
import threading
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20  # print profiles have up to 3 MB; what is larger would fill the cache
MAX_SRGB_DIFFERENCE = 3  # of 255: what the many makers' tables of the one sRGB curve differ by at most

_SPACES = {  # the data colour space in a profile's header → the modes of pixels that it describes
    b"RGB ": frozenset({"RGB", "RGBA", "RGBX", "P", "PA"}),
    b"GRAY": frozenset({"1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N"}),
    b"CMYK": frozenset({"CMYK"}),
}
_INPUT_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_CLASSES = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})  # the others describe no picture

# Relative colorimetric: a colour that sRGB has comes out as itself, where the perceptual tables of print
# profiles would pale it; white stays white. Black-point compensation keeps ink's black from becoming grey.
# It is what Photoshop shows by default, so what the photographer saw.
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION

ToSrgb = Callable[[Image.Image], Image.Image]


def find_conversion(image: Image.Image) -> ToSrgb | None:
    """Give what turns the photo's pixels to sRGB, None where they are to be taken as they are.

    It takes RGB pixels, or CMYK where the photo is CMYK, of any size, and gives RGB.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 132 <= len(profile) <= MAX_PROFILE_BYTES:
        return None
    space = profile[16:20]
    if profile[12:16] not in _CLASSES or image.mode not in _SPACES.get(space, ()):
        return None
    if not _is_needed(profile):
        return None
    # One for each thread: whether a transform may be shared depends on the build of Little CMS.
    transform = _build(profile, threading.get_ident())

    def convert(pixels: Image.Image) -> Image.Image:
        converted = transform.apply(pixels.getchannel(0) if space == b"GRAY" else pixels)
        assert converted is not None
        return converted

    return convert


@functools.lru_cache(maxsize=256)
def _is_needed(profile: bytes) -> bool:
    """Tell whether the profile is sound and not sRGB, by what it makes of colours from all over its space."""
    try:
        transform = _build(profile, threading.get_ident())
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return False
    space = profile[16:20]
    if space == b"CMYK":
        return True
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    if space == b"GRAY":
        pixels = levels[None]
    else:
        pixels = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    converted = transform.apply(Image.fromarray(pixels))
    expected = pixels if pixels.ndim == 3 else pixels[..., None]
    difference = np.abs(np.asarray(converted, np.int16) - expected.astype(np.int16))
    return int(difference.max()) > MAX_SRGB_DIFFERENCE


@functools.lru_cache(maxsize=32)
def _build(profile: bytes, _thread: int) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        _srgb(),
        _INPUT_MODES[profile[16:20]],
        "RGB",
        renderingIntent=_INTENT,
        flags=_FLAGS,
    )


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
