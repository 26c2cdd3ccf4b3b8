"""Where the network looked: which places of a photo speak for a pose, and a picture of them.

Grad-CAM (Selvaraju et al. 2017) weighs each channel of the last block by its gradient of the pose's logit,
averaged over all places, and keeps the positive part of the sum. After the last block, a ResNet only averages
over all places and applies one linear layer. So the gradient is the same at each place: the linear layer's
weight, divided by the number of places. Therefore Grad-CAM is the positive part of the class activation map
(Zhou et al. 2016) up to a constant factor, and needs no gradient. It costs a second forward pass.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from physiq_ray.images import UInt8Array
from physiq_ray.prediction.network import Network

FloatArray = npt.NDArray[np.floating]

STRIDE_PX = 32  # pixels of the network's input between two cells of the last block
COLOURS = "inferno"  # from dark to bright, so that it is read without seeing hues, and in print


@dataclass(frozen=True)
class Explanation:
    """How much each place of a photo speaks for a pose.

    cells: float (h, w), 0 … 1; the strongest cell has 1, and all have 0 if no place speaks for the pose.
    size_px: the side of the network's square input, to which the whole photo was resized.
    """

    cells: FloatArray
    size_px: int

    def stretch(self, height: int, width: int) -> FloatArray:
        """Stretch the cells over the whole upright photo: float (height, width), 0 … 1."""
        rows, columns = (
            _shares_of_cells(length, self.size_px, num_cells)
            for length, num_cells in zip((height, width), self.cells.shape, strict=True)
        )
        return rows @ self.cells @ columns.T


def explain(network: Network, image: UInt8Array, class_index: int) -> Explanation:
    """Compute which places of an image speak for a class; image: uint8 (S, S, 3), the network's input.

    No place does if the network's output is not a number.
    """
    cells = network.class_maps(torch.from_numpy(image)[None])[0, class_index].clamp(min=0).double().numpy()
    highest = cells.max()
    is_scaled = 0 < highest < math.inf  # false for NaN too
    return Explanation(cells / highest if is_scaled else np.zeros_like(cells), image.shape[0])


def paint(image: UInt8Array, explanation: Explanation) -> UInt8Array:
    """Colour a grey copy of a photo by where the network looked; image: uint8 (H, W, 3), the whole photo."""
    from matplotlib import colormaps  # the import takes half a second

    shares = explanation.stretch(*image.shape[:2])
    colours = colormaps[COLOURS](shares)[..., :3] * 255
    grey = image.mean(axis=2, keepdims=True)
    painted: UInt8Array = (0.4 * grey + 0.6 * colours).round().astype(np.uint8)
    return painted


def _shares_of_cells(length_px: int, size_px: int, num_cells: int) -> FloatArray:
    """Interpolate linearly between the cells along a side: float (length_px, num_cells), rows have the sum 1.

    All paddings are half a kernel, so a stride keeps the first pixel: the centre of cell j is pixel 32 j of
    the input, and not the middle of 32 pixels, where most programs draw it.
    """
    places_px = (np.arange(length_px) + 0.5) * size_px / length_px - 0.5  # of the photo's pixels in the input
    cells = np.arange(num_cells)
    return np.stack([np.interp(places_px / STRIDE_PX, cells, cells == cell) for cell in cells], axis=1)
