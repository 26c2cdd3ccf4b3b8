"""Read the orientation of a photo from its EXIF data or XMP.

Pillow's own reader writes warnings about damaged EXIF data to stderr, without the photo's name, and the
warnings module cannot hide them in one thread only. This short reader is enough for one tag.
"""

import re
import struct

from PIL import Image

UPRIGHT = {  # EXIF 2.3, tag 274: the transposition that undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TAG = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}  # TIFF's types: byte, short, long, signed ones
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def read_orientation(image: Image.Image) -> int:
    """Return 1 … 8; 1 is upright, and is also returned for damaged data."""
    if image.format in {"TIFF", "HEIF"}:  # their decoders already rotate the pixels and the size
        return 1
    if image.format == "PNG" and "exif" not in image.info:
        try:
            image.load()  # the EXIF data may come after the pixels
        except Exception:  # the error is reported when the pixels are decoded
            return 1
    orientation = _from_exif(_exif(image))
    if orientation is None:
        match = _XMP.search(_xmp(image))
        orientation = int(match[1]) if match else 1
    return orientation if orientation in UPRIGHT else 1


def _exif(image: Image.Image) -> bytes:
    exif = image.info.get("exif")
    if exif is None and "Raw profile type exif" in image.info:  # as ImageMagick writes it into PNGs
        try:
            exif = bytes.fromhex("".join(str(image.info["Raw profile type exif"]).split("\n")[3:]))
        except ValueError:
            return b""
    return exif if isinstance(exif, bytes) else b""


def _xmp(image: Image.Image) -> bytes:
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    return xmp.encode(errors="replace") if isinstance(xmp, str) else bytes(xmp)


def _from_exif(exif: bytes) -> int | None:
    """Return the tag's value, or None if it is missing or cannot be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * num_entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHL", exif, entry)
            if tag == _TAG and count == 1 and kind in _INTEGERS:
                return int(struct.unpack_from(f"{order}{_INTEGERS[kind]}", exif, entry + 8)[0])
    except struct.error:
        return None
    return None
