"""Whether a replica has room for one more request: decided by the requests and photos that are inside it.

A request is inside once its body is complete. Each replica decides by itself, from what it sees.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from physiq_ray.config import ServingSettings
from physiq_ray.serving.refusals import RequestError


class Pace:
    """How long a photo takes while photos arrive without a break, and so how long a new one will wait.

    A moving average over photos. Photos leave in batches, and the whole time of a batch falls on its first
    photo: so the average varies by a third around the time per photo, which is accurate enough here.
    """

    WEIGHT = 0.04  # of the latest photo

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a measurement: no wait is expected."""
        self._clock = clock
        self._num_inside = 0
        self._photo_s = 0.0
        self._last_s = 0.0

    def enter(self) -> None:
        """Count a photo in, once its bytes are complete."""
        if not self._num_inside:
            self._last_s = self._clock()
        self._num_inside += 1

    def leave(self) -> None:
        """Count a photo out, whether or not it was predicted."""
        now_s = self._clock()
        self._num_inside -= 1
        self._photo_s += (now_s - self._last_s - self._photo_s) * self.WEIGHT
        self._last_s = now_s

    @property
    def num_inside(self) -> int:
        """Photos that have not left."""
        return self._num_inside

    @property
    def expected_wait_s(self) -> float:
        """Seconds until all photos that are inside now will have left."""
        return self._num_inside * self._photo_s


class Room:
    """The decision of one replica; its methods are called from one event loop."""

    def __init__(self, pace: Pace, settings: ServingSettings) -> None:
        """pace: of the photos of the same replica."""
        self._pace = pace
        self._settings = settings
        self._num_requests = 0

    @contextlib.contextmanager
    def occupied(self) -> Iterator[None]:
        """Count one request as inside while the block runs."""
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    def refusal(self) -> RequestError | None:
        """Give 503 if max_requests are inside, or if one more would wait longer than max_wait_s."""
        wait_s = self._pace.expected_wait_s
        # Photos that fit into the next batch do not wait, even if a pause made the average too high.
        fits_next_batch = self._pace.num_inside < self._settings.max_batch_size
        waits_briefly = fits_next_batch or wait_s <= self._settings.max_wait_s
        if self._num_requests < self._settings.max_requests and waits_briefly:
            return None
        return RequestError(
            503,
            "busy",
            "the service has no room for more requests at the moment; try again later",
            retry_after_s=max(1, math.ceil(wait_s)),
        )
