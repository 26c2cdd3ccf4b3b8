"""Retry a request after an error that may be temporary: no answer for a moment, or throttling.

Between the attempts it waits 0.5, 1, 2, 4, 8, 8 and 8 s, each shortened at random by up to a quarter. The
clients' own retries come in addition. So an endpoint that answers again within 23 seconds costs no photo and
no listing; one that stays away is reported after 45 s.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from physiq_ray.errors import UnreachableError

ATTEMPTS = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0

Result = TypeVar("Result")


def retry(call: Callable[[], Result]) -> Result:
    """Call until no UnreachableError is raised, at most ATTEMPTS times."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except UnreachableError:
            # Random waits: workers that failed at the same time must not all retry at the same time.
            time.sleep(min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) * random.uniform(0.75, 1))
    return call()
