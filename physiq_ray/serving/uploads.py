"""Uploads in progress: how many, how long, and which one is ended if there are too many.

A request is an upload until its body is complete; only then it counts as inside the replica (see `pace`). So
a slow upload takes no place from other requests, and needs nothing but the memory for what it has sent.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from physiq_ray.serving.refusals import RequestError

MAX_SLOW_SHARE = 0.5  # of all uploads, over all clients


class _Upload:
    def __init__(self, client: str, timeout: asyncio.Timeout, started_s: float) -> None:
        self.client = client
        self.timeout = timeout
        self.started_s = started_s
        self.is_slow = False
        self.refusal: RequestError | None = None


class Uploads:
    """The uploads of one replica; its methods are called from one event loop."""

    def __init__(self, *, max_uploads: int, max_slow_per_client: int, slow_after_s: float) -> None:
        """slow_after_s: seconds after which an upload is slow."""
        self._max_uploads = max_uploads
        self._max_slow = max(1, int(max_uploads * MAX_SLOW_SHARE))
        self._max_slow_per_client = max_slow_per_client
        self._slow_after_s = slow_after_s
        self._by_client: dict[str, dict[_Upload, None]] = {}  # the oldest of each first
        self._num_uploads = 0
        self._num_slow: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def receiving(self, client: str, *, timeout_s: float) -> AsyncIterator[None]:
        """Receive one upload in the block, which is interrupted if the upload must end.

        Raises RequestError: 408 the upload takes longer than timeout_s, or there are too many slow ones; 503
        it was ended to make room for another.
        """
        loop = asyncio.get_running_loop()
        if self._num_uploads >= self._max_uploads:
            self._end_one(loop.time())
        upload = _Upload(client, asyncio.timeout(timeout_s), loop.time())
        self._by_client.setdefault(client, {})[upload] = None
        self._num_uploads += 1
        timer = loop.call_later(self._slow_after_s, self._turn_slow, upload)
        try:
            async with upload.timeout:
                yield
        except TimeoutError:
            raise upload.refusal or RequestError(
                408, "upload_timeout", f"the upload took more than {timeout_s:g} s"
            ) from None
        finally:
            timer.cancel()
            self._remove(upload)

    def _turn_slow(self, upload: _Upload) -> None:
        """Count an upload as slow, or end it if there are too many slow ones."""
        if upload.refusal is not None:
            return
        if (
            self._num_slow[upload.client] >= self._max_slow_per_client
            or self._num_slow.total() >= self._max_slow
        ):
            self._end(upload, _too_slow(self._slow_after_s))
            return
        upload.is_slow = True
        self._num_slow[upload.client] += 1

    def _end_one(self, now_s: float) -> None:
        """Make room: end the oldest upload of the client that has the most uploads.

        The newest is never ended: the body of most requests is complete when they arrive.
        """
        client = max(self._by_client, key=lambda name: len(self._by_client[name]))
        oldest = next(iter(self._by_client[client]))
        if now_s - oldest.started_s >= self._slow_after_s:
            self._end(oldest, _too_slow(self._slow_after_s))
        else:
            self._end(oldest, RequestError(503, "busy", "too many uploads at once", retry_after_s=1))

    def _end(self, upload: _Upload, refusal: RequestError) -> None:
        if not upload.timeout.expired():  # else it has timed out by itself
            upload.refusal = refusal
            upload.timeout.reschedule(asyncio.get_running_loop().time())
        self._remove(upload)

    def _remove(self, upload: _Upload) -> None:
        of_client = self._by_client.get(upload.client, {})
        if upload not in of_client:
            return  # it was ended before, to make room
        del of_client[upload]
        if not of_client:
            del self._by_client[upload.client]
        self._num_uploads -= 1
        if upload.is_slow:
            self._num_slow[upload.client] -= 1
            if not self._num_slow[upload.client]:
                del self._num_slow[upload.client]


def _too_slow(slow_after_s: float) -> RequestError:
    return RequestError(
        408,
        "upload_timeout",
        f"too many uploads take more than {slow_after_s:g} s; send smaller photos, or fewer at once",
    )
