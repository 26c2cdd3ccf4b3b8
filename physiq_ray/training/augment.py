"""Random changes of training photos, by batch, on the device that trains."""

import math

import torch
from torch import Tensor
from torch.nn import functional

MAX_TURN = math.radians(3)
MAX_SHIFT = 0.03  # of the side
ZOOM = (0.94, 1.06)
CONTRAST = (0.7, 1.35)
SATURATION = (0.4, 1.3)
BRIGHTNESS = 0.3  # ±, in standard deviations of ImageNet's pixels


def augment_light(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half the photos, turn, shift and zoom a little, and change brightness, contrast and saturation.

    images: float (B, 3, H, W) after normalisation, any memory layout; the result has the same. Poses have
    no handedness: a mirrored Side Chest is a Side Chest. The generator lives on the CPU, so that CPU and
    GPU runs draw the same changes.
    """

    def uniform(low: float, high: float) -> Tensor:
        draw = torch.rand(len(images), generator=generator)
        return (low + (high - low) * draw).to(images.device)

    turn, zoom = uniform(-MAX_TURN, MAX_TURN), uniform(*ZOOM)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(turn) / zoom, torch.sin(turn) / zoom
    theta = torch.stack(  # (B, 2, 3), output → input coordinates, in halves of the side
        [
            torch.stack([cos * mirror, -sin, uniform(-2 * MAX_SHIFT, 2 * MAX_SHIFT)], dim=1),
            torch.stack([sin * mirror, cos, uniform(-2 * MAX_SHIFT, 2 * MAX_SHIFT)], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast, saturation, brightness = (
        uniform(*limits)[:, None, None, None] for limits in (CONTRAST, SATURATION, (-BRIGHTNESS, BRIGHTNESS))
    )
    grey = moved.mean(dim=1, keepdim=True)
    coloured = grey + (moved - grey) * saturation
    mean = coloured.mean(dim=(1, 2, 3), keepdim=True)
    lit = (coloured - mean) * contrast + mean + brightness
    return lit.contiguous(memory_format=torch.channels_last)
