"""Photos for the page: upright JPEGs at the size of a screen, encoded again without EXIF data."""

import io
import threading
from collections import OrderedDict

import pyarrow as pa
from PIL import Image

from physiq_ray.images import MAX_BYTES, decode_image
from physiq_ray.machine import usable_cpus
from physiq_ray.storage import read_bytes

SIDE_PX, ZOOM_PX = 800, 2400  # of the shorter side
JPEG_QUALITY = 85
CACHE_BYTES = 48 * 2**20


class Photos:
    """Reads and encodes photos, and keeps the last ones."""

    def __init__(self, table: pa.Table) -> None:
        """table: of LISTING_SCHEMA; a photo is named by its row."""
        self._table = table
        self._kept: OrderedDict[tuple[int, bool], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._decoding = threading.BoundedSemaphore(usable_cpus())  # each decoded photo has megabytes

    def jpeg(self, row: int, *, is_zoomed: bool) -> bytes:
        """Give a photo as a JPEG.

        Raises StorageError: it cannot be fetched, or is not the listed version. PhotoError: it cannot be
        decoded.
        """
        with self._lock:
            if (kept := self._kept.get((row, is_zoomed))) is not None:
                self._kept.move_to_end((row, is_zoomed))
                return kept
        uri, etag = self._table["uri"][row].as_py(), self._table["etag"][row].as_py()
        data = read_bytes(uri, max_bytes=MAX_BYTES, etag=etag or "")
        with self._decoding:
            image = Image.fromarray(decode_image(data, min_side_px=ZOOM_PX if is_zoomed else SIDE_PX))
            out = io.BytesIO()
            image.save(out, "JPEG", quality=JPEG_QUALITY)
        encoded = out.getvalue()
        with self._lock:
            if (row, is_zoomed) not in self._kept:
                self._kept[row, is_zoomed] = encoded
                self._kept_bytes += len(encoded)
            while self._kept_bytes > CACHE_BYTES and len(self._kept) > 1:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return encoded
