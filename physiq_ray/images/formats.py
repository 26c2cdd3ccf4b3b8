"""Find the format of a photo by its content, and open it.

File names are ignored: phones and converters write JPEGs named .heic, and the reverse. Each format adds code
that hostile bytes can reach, so no other formats are opened. HEIC and AVIF are read from the user's own
data; the service reads them only if a setting allows it.
"""

import functools
import io
import logging
import re
import warnings
from collections.abc import Callable

from PIL import (  # imported here, because Pillow's own search for plugins is not thread-safe
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from physiq_ray.errors import FormatError, PhotoError, TooLargeError
from physiq_ray.images.jpeg import JpegFile

MAX_BYTES = 100 * 2**20

INSTALL_HEIC = "pip install 'physiq-ray[heic]'"
MIN_LIBHEIF = (1, 23, 4)  # older versions, also of libde265, are exploited through uploaded photos
MIN_LIBDE265 = (1, 1, 3)

_TIFF_PREFIXES = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": _TIFF_PREFIXES,
}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_RAW = "a camera's raw file; export it as JPEG"
_NOT_READ = {  # first bytes of unsupported formats of cameras and phones → name, and what to do
    b"\0\0\0\x0cjP  ": "JPEG 2000; convert it to JPEG",
    b"\xff\x4f\xff\x51": "JPEG 2000; convert it to JPEG",
    b"\0\0\0\x0cJXL ": "JPEG XL; convert it to JPEG",
    b"\xff\x0a": "JPEG XL; convert it to JPEG",
    b"FUJIFILMCCD-RAW": _RAW,
    b"IIU\0": _RAW,
    b"IIRO": _RAW,
    b"IIRS": _RAW,
    b"MMOR": _RAW,
    b"FOVb": _RAW,
}
_DNG_VERSION, _NEW_SUBFILE_TYPE = 50706, 254  # TIFF tags
_FILES: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}


def find_format(data: bytes) -> str | None:
    """Return the format of these bytes (one of FORMATS) by their beginning, or None."""
    for name, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        length = min(int.from_bytes(data[:4], "big"), 1024)
        brands = {data[8:12], *(data[start : start + 4] for start in range(16, length, 4))}
        if brands & _AVIF_BRANDS and data[8:12] not in _HEIC_BRANDS - {b"mif1", b"msf1"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    return None


def open_photo(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Read a photo's header (size, mode, embedded data); the pixels are decoded on demand.

    Raises PhotoError if the data is empty or damaged; FormatError if it has none of the formats, with
    advice if there is any; TooLargeError if it has more than MAX_BYTES. The caller limits the pixels.
    """
    if not data:
        raise PhotoError("empty: no bytes at all")
    if len(data) > MAX_BYTES:
        raise TooLargeError(f"{len(data)} bytes; at most {MAX_BYTES} are read")
    format = find_format(data)
    if format not in formats:
        raise FormatError(_not_supported(formats, f"it is {format}" if format else _remedy(data)))
    if format == "HEIC":
        reason = why_no_heic()
        if reason:
            raise FormatError(_not_supported(formats, f"it is HEIC: {reason}"))
    elif format != "JPEG":
        _silence_pillow()
    try:
        # Image.open is not used: it warns about sizes that we refuse, and refuses JPEGs that we can read.
        image = _heif_file(data) if format == "HEIC" else _FILES[format](io.BytesIO(data))
    except SyntaxError as error:  # Pillow's plugins raise it for a damaged header
        raise FormatError(_not_supported(formats, f"the header of this {format} is damaged")) from error
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_raw(image, data):
        raise FormatError(_not_supported(formats, f"it is {_RAW}"))
    return image


def _not_supported(formats: tuple[str, ...], reason: str) -> str:
    readable = [name for name in formats if name != "HEIC" or not why_no_heic()]
    return f"not an image of a supported format ({', '.join(readable)}){': ' if reason else ''}{reason}"


def _remedy(data: bytes) -> str:
    if data[4:12] == b"ftypcrx ":
        return f"it is {_RAW}"
    return next((f"it is {what}" for start, what in _NOT_READ.items() if data.startswith(start)), "")


def _is_raw(image: TiffImagePlugin.TiffImageFile, data: bytes) -> bool:
    """Tell whether a TIFF is a camera's raw file, whose first picture is a small preview."""
    tags = image.tag_v2
    return data[8:10] == b"CR" or _DNG_VERSION in tags or tags.get(_NEW_SUBFILE_TYPE) == 1


@functools.cache
def why_no_heic() -> str:
    """Say why HEIC cannot be read here and what to do; "" if it can be read."""
    try:
        import pillow_heif
    except ImportError:
        return f"not read here; {INSTALL_HEIC}, or convert it to JPEG"
    info = pillow_heif.libheif_info()
    decoder = re.search(r"version ([\d.]+)", str(info["decoders"].get("libde265", "")))
    for name, version, least in (
        ("libheif", pillow_heif.libheif_version(), MIN_LIBHEIF),
        ("libde265", decoder[1] if decoder else None, MIN_LIBDE265),
    ):
        if version is not None and tuple(int(part) for part in version.split(".")[:3]) < least:
            wanted = ".".join(map(str, least))
            return f"{name} {version} has known vulnerabilities, {wanted} or newer is needed; {INSTALL_HEIC}"
    return ""


def _heif_file(data: bytes) -> Image.Image:
    import pillow_heif

    image: Image.Image = pillow_heif.HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return image


@functools.cache
def _silence_pillow() -> None:
    """Hide Pillow's warnings about damaged tags: they do not name the photo, and its pixels are fine.

    The filter covers these plugins only, but the whole process, because threads share filters.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Tiff|Png|Avif)ImagePlugin$")
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # without a handler, errors go to stderr
