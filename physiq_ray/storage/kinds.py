"""Which objects are photos, which of them cannot be decoded here, and which wait for a label.

This module looks at names only, because a listing contains nothing else; decoding looks at the content. A
file that a camera or phone writes is a photo even if it cannot be decoded: a report must name it, and it must
not be deleted as unlabelled. Arrow is imported where it is used, because `is_photo` needs none.
"""

from typing import TYPE_CHECKING

from physiq_ray.constants import WAITING_FOLDER

if TYPE_CHECKING:
    import pyarrow as pa

HEIC_EXTENSIONS = (".heic", ".heif", ".hif")
UNREAD_EXTENSIONS = (
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".srw", ".raf", ".orf", ".rw2"),
    *(".rwl", ".pef", ".3fr", ".iiq", ".x3f", ".gpr"),  # raw files, which a program must develop first
    *(".jp2", ".j2k", ".jpx", ".jxl"),
)
PHOTO_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo"),  # all of these are JPEG files
    *(".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *HEIC_EXTENSIONS,
    *UNREAD_EXTENSIONS,
)
REMEDY = "for HEIC pip install 'physiq-ray[heic]', others must be exported as JPEG"


def is_photo(key: str) -> bool:
    """Tell by the extension whether a key is a photo; case does not matter."""
    stem, _, extension = key.rpartition("/")[2].rpartition(".")
    return bool(stem) and f".{extension.lower()}" in PHOTO_EXTENSIONS


def are_undecodable(keys: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Tell for each photo's key whether its extension is that of a format that cannot be decoded here."""
    import pyarrow.compute as pc

    may_be = _end_in(keys, (*HEIC_EXTENSIONS, *UNREAD_EXTENSIONS))
    if not pc.any(may_be).as_py() or not reads_heic():
        return may_be
    return _end_in(keys, UNREAD_EXTENSIONS)


def are_waiting(keys: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Tell for each photo's key whether the service stored it for a label (setting `feedback`)."""
    import pyarrow.compute as pc

    return pc.match_substring_regex(keys, rf"(^|/){WAITING_FOLDER}/[0-9a-f]{{32}}\.jpg$")


def _end_in(keys: "pa.ChunkedArray", extensions: tuple[str, ...]) -> "pa.ChunkedArray":
    import pyarrow.compute as pc

    endings = "|".join(extension.removeprefix(".") for extension in extensions)
    return pc.match_substring_regex(keys, rf"(?i)\.({endings})$")


def reads_heic() -> bool:
    """Tell whether the extra that decodes HEIC is installed, in a version that may be used."""
    from physiq_ray.images import why_no_heic  # imported here: without HEIC photos, Pillow is not needed

    return not why_no_heic()
