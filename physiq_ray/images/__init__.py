"""Photo bytes → upright sRGB pixels, with one decoder for training, single predictions and the server.

Training and answers must see the same pixels, so nobody else opens a photo. JPEGs are decoded at the
smallest DCT scale that still covers the wanted size: several times faster on 12-megapixel phone photos.
Ray is not imported here; threads may decode side by side, as Pillow releases the GIL.

decode       the functions that others call
formats      which format the bytes are, by their content, and the remedy for those that are not read
jpeg         what a JPEG's own header promises, and whether its body holds that
orientation  what EXIF or XMP says of it
colour       embedded colour profiles → sRGB
"""

from physiq_ray.images.decode import (
    MAX_PIXELS,
    UInt8Array,
    decode_image,
    decode_square,
    decoder_version,
    read_size,
)
from physiq_ray.images.formats import BASE_FORMATS, FORMATS, MAX_BYTES, why_no_heic

__all__ = [
    "BASE_FORMATS",
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "UInt8Array",
    "decode_image",
    "decode_square",
    "decoder_version",
    "read_size",
    "why_no_heic",
]
