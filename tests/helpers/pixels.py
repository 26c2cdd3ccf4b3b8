"""A measure of how much two images differ."""

import numpy as np
import numpy.typing as npt


def difference(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())
