"""A measure of how much two images differ."""

import numpy as np
import numpy.typing as npt
from PIL import Image


def difference(one: npt.ArrayLike, other: npt.ArrayLike | Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())
