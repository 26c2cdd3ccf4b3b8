"""Random changes of training photos, by batch, on the device that trains."""

import math

import torch
from torch import Tensor
from torch.nn import functional

MAX_TURN = math.radians(8)
MAX_SHIFT = 0.08  # of the side
ZOOM = (0.85, 1.15)
LIGHT = 0.25  # brightness and contrast, ± this share


def augment_light(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half the photos, turn, shift and zoom a little, and change brightness and contrast.

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
    contrast = uniform(1 - LIGHT, 1 + LIGHT)[:, None, None, None]
    brightness = uniform(-LIGHT, LIGHT)[:, None, None, None]
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    light = (moved - mean) * contrast + mean + brightness
    return light.contiguous(memory_format=torch.channels_last)
