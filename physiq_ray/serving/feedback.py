"""Doubtful photos → a bucket, where they can be labelled. Off unless the setting `feedback` is given.

One thread writes. Photos that arrive faster than it writes are dropped, so that no answer waits for it. A
photo is stored upright and encoded again, so that none of its EXIF data (place, time, camera) is kept.
"""

import io
import json
import logging
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from physiq_ray.images import decode_image
from physiq_ray.storage import join_uri, write_bytes

LOGGER = logging.getLogger("ray.serve")

MAX_WAITING = 16  # photos, of megabytes each
SIDE_PX = 1024  # of the shorter side: enough for a person who labels it
JPEG_QUALITY = 92


class Feedback:
    """Keeps doubtful photos with their answer as `<address>/<day>/<name>.jpg` and `.json`."""

    def __init__(self, address: str, count: Callable[[str], None]) -> None:
        """address: a folder or s3:// prefix; count: receives "kept", "dropped" or "failed" for each photo."""
        self._address = address
        self._count = count
        self._waiting: queue.Queue[tuple[bytes, str, dict[str, Any]] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="feedback", daemon=True)
        self._thread.start()

    def offer(self, data: bytes, name: str, answer: dict[str, Any]) -> None:
        """Queue one photo, or drop it if too many wait; return at once."""
        try:
            self._waiting.put_nowait((data, name, answer))
        except queue.Full:
            self._count("dropped")

    def close(self) -> None:
        """Write the photos that wait, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            data, name, answer = item
            try:
                self._keep(data, name, answer)
            except Exception as error:  # of any kind: without this thread, no photo would be kept any more
                LOGGER.warning("feedback: %s", str(error) or type(error).__name__)
                self._count("failed")
            else:
                self._count("kept")

    def _keep(self, data: bytes, name: str, answer: dict[str, Any]) -> None:
        out = io.BytesIO()
        Image.fromarray(decode_image(data, min_side_px=SIDE_PX)).save(out, "JPEG", quality=JPEG_QUALITY)
        now = datetime.now(UTC)
        base = join_uri(self._address, now.strftime("%Y-%m-%d"), name)
        # The answer first: a photo without its answer would look like one that a person uploaded.
        write_bytes(
            json.dumps({**answer, "time": now.isoformat()}, ensure_ascii=False).encode(), f"{base}.json"
        )
        write_bytes(out.getvalue(), f"{base}.jpg")
