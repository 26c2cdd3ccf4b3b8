"""Convert embedded colour profiles to sRGB, the colour space that the network is trained on.

Phones embed Display P3, cameras Adobe RGB, print shops CMYK. If their pixels are read as sRGB, the colours
are wrong by 4 to 16 of 255. A profile that equals sRGB under another name is detected once and cached; its
pixels are not converted. A profile that is damaged or does not fit the pixels is ignored.
"""

import functools
import io
import threading
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20  # print profiles have up to 3 MB; larger ones would fill the cache
MAX_SRGB_DIFFERENCE = 3  # of 255: the largest difference between different makers' sRGB profiles

_SPACES = {  # colour space in the profile's header → pixel modes that it describes
    b"RGB ": frozenset({"RGB", "RGBA", "RGBX", "P", "PA"}),
    b"GRAY": frozenset({"1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N"}),
    b"CMYK": frozenset({"CMYK"}),
}
_INPUT_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_CLASSES = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})  # the other classes do not describe pictures

# Relative colorimetric keeps colours that sRGB contains; the perceptual tables of print profiles would make
# them paler. White stays white. Black-point compensation keeps black ink from becoming grey. Photoshop uses
# both by default, so this is what the photographer saw.
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION

ToSrgb = Callable[[Image.Image], Image.Image]


def find_conversion(image: Image.Image) -> ToSrgb | None:
    """Return the function that converts the photo's pixels to sRGB, or None if no conversion is needed.

    The function takes RGB pixels (CMYK pixels if the photo is CMYK) of any size, and returns RGB.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 132 <= len(profile) <= MAX_PROFILE_BYTES:
        return None
    space = profile[16:20]
    if profile[12:16] not in _CLASSES or image.mode not in _SPACES.get(space, ()):
        return None
    if not _is_needed(profile):
        return None
    # Each thread has its own: whether threads can share a transform depends on the build of Little CMS.
    transform = _build(profile, threading.get_ident())

    def convert(pixels: Image.Image) -> Image.Image:
        converted = transform.apply(pixels.getchannel(0) if space == b"GRAY" else pixels)
        assert converted is not None
        return converted

    return convert


@functools.lru_cache(maxsize=256)
def _is_needed(profile: bytes) -> bool:
    """Tell whether the profile is valid and not sRGB, by converting colours from its whole space."""
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
