"""Doubtful photos → a bucket, where they wait for a label. Off unless the setting `feedback` is given.

One thread writes. Photos that arrive faster than it writes are dropped, so that no answer waits for it. A
photo is stored upright and encoded again, so that none of its EXIF data (place, time, camera) is kept. Its
name is the MD5 of the bytes that the client sent, so that all replicas store the same content once.
"""

import hashlib
import io
import json
import logging
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from physiq_ray.config import ServingSettings
from physiq_ray.constants import WAITING_FOLDER
from physiq_ray.images import decode_image
from physiq_ray.storage import join_uri, write_bytes

LOGGER = logging.getLogger("ray.serve")

MAX_WAITING = 16  # photos, of megabytes each
MAX_REMEMBERED = 100_000  # photos that are known to be stored
SIDE_PX = 1024  # of the shorter side: enough for a person who labels it
JPEG_QUALITY = 92
HOUR_S, DAY_S = 3600, 86_400
Clock = Callable[[], float]


@dataclass(frozen=True)
class Doubtful:
    """A photo with a doubtful answer: the bytes from the client, the answer's JSON, the id of the request."""

    data: bytes
    answer: dict[str, Any]
    request_id: str


class Feedback:
    """Keeps doubtful photos with their answers as <feedback>/waiting-for-label/<MD5>.jpg and .json."""

    def __init__(
        self,
        settings: ServingSettings,
        address: str,
        count: Callable[[str], None],
        clock: Clock = time.time,
    ) -> None:
        """Start the thread.

        address: a folder or s3:// prefix. count: receives for each photo "kept", "dropped" (the thread is
        busy), "sampled" (left out by feedback_share), "known" (stored before), "capped" or "failed".
        clock: gives the seconds since 1970.
        """
        self._folder = join_uri(address, WAITING_FOLDER)
        self._count = count
        self._share = settings.feedback_share
        self._caps = Caps(settings, clock)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._waiting: queue.Queue[Doubtful | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="feedback", daemon=True)
        self._thread.start()

    def offer(self, photo: Doubtful) -> None:
        """Queue one photo, or drop it if too many wait; return at once."""
        try:
            self._waiting.put_nowait(photo)
        except queue.Full:
            self._count("dropped")

    def close(self) -> None:
        """Write the photos that wait, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (photo := self._waiting.get()) is not None:
            try:
                result = self._keep(photo)
            except Exception as error:  # of any kind: without this thread, no photo would be kept any more
                LOGGER.warning("feedback: %s", str(error) or type(error).__name__)
                result = "failed"
            self._count(result)

    def _keep(self, photo: Doubtful) -> str:
        md5 = hashlib.md5(photo.data, usedforsecurity=False).hexdigest()
        if int(md5[:8], 16) / 2**32 >= self._share:  # by content, so that all replicas choose the same photos
            return "sampled"
        if md5 in self._known:
            return "known"
        pose_id = max(photo.answer["probabilities"], key=lambda pose: pose["probability"])["id"]
        if not self._caps.take(pose_id):
            return "capped"
        out = io.BytesIO()
        Image.fromarray(decode_image(photo.data, min_side_px=SIDE_PX)).save(out, "JPEG", quality=JPEG_QUALITY)
        facts = {"time": datetime.now(UTC).isoformat(), "photo_md5": md5, "request_id": photo.request_id}
        base = join_uri(self._folder, md5)
        # The answer first: a photo without its answer would look like one that a person uploaded.
        write_bytes(json.dumps({**photo.answer, **facts}, ensure_ascii=False).encode(), f"{base}.json")
        write_bytes(out.getvalue(), f"{base}.jpg")
        self._known[md5] = None
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return "kept"


class Caps:
    """How many photos one replica keeps in an hour, in a day, and in a day of each predicted pose."""

    def __init__(self, settings: ServingSettings, clock: Clock) -> None:
        """clock: gives the seconds since 1970; hours and days are those of UTC."""
        self._settings = settings
        self._clock = clock
        self._taken: Counter[tuple[str, int]] = Counter()

    def take(self, pose_id: int) -> bool:
        """Count one photo if it may be kept, and say whether it may."""
        now_s, settings = self._clock(), self._settings
        hour, day = int(now_s // HOUR_S), int(now_s // DAY_S)
        caps = {
            ("hour", hour): settings.feedback_per_hour,
            ("day", day): settings.feedback_per_day,
            (f"pose {pose_id}", day): settings.feedback_per_pose,
        }
        if any(self._taken[window] >= cap for window, cap in caps.items()):
            return False
        for window in [window for window in self._taken if window[1] not in (hour, day)]:
            del self._taken[window]
        self._taken.update(caps.keys())
        return True
