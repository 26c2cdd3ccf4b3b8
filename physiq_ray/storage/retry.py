"""Try again where the fault may pass: an endpoint that is briefly away, a throttled request.

Waits of 0.5, 1, 2, 4, 8, 8, 8 s between tries, or of three quarters of that, on top of the client's own
tries: an endpoint that is back within 23 seconds costs no photo and no listing. One that stays away is said
after 45 s.
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
    """Call until it raises no UnreachableError, ATTEMPTS times at most."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except UnreachableError:
            # Jitter: workers that failed together must not come back together.
            time.sleep(min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) * random.uniform(0.75, 1))
    return call()
