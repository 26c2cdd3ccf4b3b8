"""Choose a bounded number of photos, in an order that does not depend on the other photos."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from physiq_ray.manifest.split import IntArray


def choose_rows(uris: Sequence[str], most: int) -> IntArray:
    """Choose up to most photos by a hash of their uris, so that new photos change little of the choice.

    Returns int64 (at most most,), the rows in their order.
    """
    hashes = pd.util.hash_array(np.array(uris, object), categorize=False)
    return np.sort(np.argsort(hashes, kind="stable")[:most])
