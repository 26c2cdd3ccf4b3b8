"""Decode photo bytes to upright sRGB pixels, with one decoder for training, predictions and the server.

Training and predictions must see the same pixels, so no other package opens a photo. JPEGs are decoded at
the smallest DCT scale that still covers the wanted size, which is several times faster for 12-megapixel
phone photos. This package does not import Ray. Threads can decode in parallel, as Pillow releases the GIL.

decode       the public functions: size, transparency, bit depth
formats      the format of the bytes, by their content, and advice for unsupported formats
jpeg         the limits of a JPEG, and the check that its body is as complete as its header says
orientation  the orientation that EXIF or XMP gives
colour       embedded colour profiles → sRGB
"""

from physiq_ray.constants import BASE_FORMATS, FORMATS, MAX_PIXELS
from physiq_ray.images.decode import (
    UInt8Array,
    decode_image,
    decode_square,
    decoder_version,
    mean_brightness,
    read_size,
    to_square,
)
from physiq_ray.images.formats import MAX_BYTES, why_no_heic

__all__ = [
    "BASE_FORMATS",
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "UInt8Array",
    "decode_image",
    "decode_square",
    "decoder_version",
    "mean_brightness",
    "read_size",
    "to_square",
    "why_no_heic",
]
