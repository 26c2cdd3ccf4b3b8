"""Decode a photo within the limits of the service."""

from physiq_ray.config import ServingSettings
from physiq_ray.errors import PhotoError
from physiq_ray.images import BASE_FORMATS, UInt8Array, decode_square


def decode(data: bytes, size_px: int, settings: ServingSettings) -> UInt8Array:
    """Decode a photo to uint8 (size_px, size_px, 3).

    Raises PhotoError: it cannot be decoded, has more than max_pixels, or is of a format that is not allowed.
    """
    formats = (*BASE_FORMATS, *(name.upper() for name in settings.extra_formats))
    try:
        return decode_square(data, size_px=size_px, max_pixels=settings.max_pixels, formats=formats)
    except MemoryError as error:
        raise PhotoError("too large to be decoded here") from error
