"""Random changes of training photos, by batch, on the training device."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from physiq_ray.config import Settings
from physiq_ray.model import normalise
from physiq_ray.training.plan import train_size

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Strength:
    """The largest changes of a photo.

    turn: radians. shift: share of the side. zoom, contrast, saturation: lowest and highest factor.
    brightness: ±, in standard deviations of ImageNet's pixels. erased: share of photos that lose a rectangle.
    """

    turn: float
    shift: float
    zoom: tuple[float, float]
    contrast: tuple[float, float]
    saturation: tuple[float, float]
    brightness: float
    erased: float = 0.0


STRENGTHS = {
    "light": Strength(math.radians(3), 0.03, (0.94, 1.06), (0.7, 1.35), (0.4, 1.3), 0.3),
    "strong": Strength(math.radians(10), 0.08, (0.8, 1.3), (0.5, 1.6), (0.0, 1.6), 0.6, erased=0.25),
}
ERASED_SIDE = (0.15, 0.4)  # of the photo's side


def make_change(settings: Settings, num_classes: int, *, epoch: int, rank: int, step: int) -> Change:
    """Give the function that turns the raw batches of a step into the network's inputs and targets.

    It takes uint8 images (B, H, W, 3) and class indices (B,). The targets are probabilities (B, num_classes)
    with mixup, and the class indices without. Its random numbers depend only on the seed, the epoch, the rank
    and the step, so an epoch that resumes in the middle draws the same ones.
    """
    seed = np.random.SeedSequence((settings.seed, epoch, rank, step))
    generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
    shares = np.random.default_rng(seed)
    # A strength that STRENGTHS lacks must not train without augmentation, so it raises here.
    strength = None if settings.augment == "none" else STRENGTHS[settings.augment]
    size = train_size(settings, epoch)

    def change(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = shrink(normalise(images), size), labels
        if strength is not None:
            inputs = augment(inputs, strength, generator)
        if settings.mixup:
            share = float(shares.beta(settings.mixup, settings.mixup))
            soft = functional.one_hot(labels, num_classes).float()
            # The photo's own share is the larger one, so accuracy is measured against its label.
            inputs, targets = mix(inputs, soft, max(share, 1 - share))
        return inputs, targets

    return change


def augment(images: Tensor, strength: Strength, generator: torch.Generator) -> Tensor:
    """Mirror half of the photos; turn, shift, zoom and relight all; erase rectangles if strength says so.

    images: float (B, 3, H, W) after normalisation, any memory layout; the result is channels_last. Poses
    have no handedness: a mirrored Side Chest is a Side Chest. The generator is on the CPU, so that CPU and
    GPU runs draw the same changes.
    """
    limits = [
        (-strength.turn, strength.turn),
        strength.zoom,
        (-1.0, 1.0),  # mirrored where negative
        *[(-2 * strength.shift, 2 * strength.shift)] * 2,
        strength.contrast,
        strength.saturation,
        (-strength.brightness, strength.brightness),
    ]
    if strength.erased:
        limits += [(0.0, 1.0), *[ERASED_SIDE] * 2, *[(0.0, 1.0)] * 2]
    turn, zoom, mirror, right, down, contrast, saturation, brightness, *erasing = _draw(
        limits, len(images), generator, images.device
    )
    mirror = torch.where(mirror < 0, -1.0, 1.0)
    cos, sin = torch.cos(turn) / zoom, torch.sin(turn) / zoom
    theta = torch.stack(  # (B, 2, 3), output → input coordinates, in halves of the side
        [torch.stack([cos * mirror, -sin, right], dim=1), torch.stack([sin * mirror, cos, down], dim=1)],
        dim=1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast, saturation, brightness = (
        value[:, None, None, None] for value in (contrast, saturation, brightness)
    )
    grey = moved.mean(dim=1, keepdim=True)
    coloured = grey + (moved - grey) * saturation
    mean = coloured.mean(dim=(1, 2, 3), keepdim=True)
    lit = (coloured - mean) * contrast + mean + brightness
    if erasing:
        chance, height, width, row, column = erasing
        is_erased = chance < strength.erased
        lit = lit * _outside(lit, [height * is_erased, width * is_erased], [row, column])
    changed: Tensor = lit.contiguous(memory_format=torch.channels_last)
    return changed


def _draw(
    limits: Sequence[tuple[float, float]], num_photos: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw uniformly between each pair of limits: float (len(limits), num_photos) on the device.

    One asynchronous copy sends all of them: each copy from pageable memory would stop the GPU.
    """
    low, high = torch.tensor(limits)[:, :, None].unbind(1)  # (len(limits), 1) each
    drawn: Tensor = low + (high - low) * torch.rand(len(limits), num_photos, generator=generator)
    if device.type == "cuda":
        drawn = drawn.pin_memory()
    return drawn.to(device, non_blocking=True)


def _outside(images: Tensor, sides: list[Tensor], centres: list[Tensor]) -> Tensor:
    """Give (B, 1, H, W), 0 inside each photo's rectangle and 1 outside; in shares of height and width."""
    inside = []
    for length, side, centre in zip(images.shape[2:], sides, centres, strict=True):
        place = (torch.arange(length, device=images.device) + 0.5) / length
        inside.append((place - centre[:, None]).abs() < side[:, None] / 2)
    rows, columns = inside
    return 1 - (rows[:, :, None] & columns[:, None, :]).to(images.dtype)[:, None]


def mix(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Mix each photo with its neighbour in the batch (mixup, Zhang et al. 2018).

    images: float (B, 3, H, W); targets: float (B, classes), probabilities; share: of the photo itself,
    0 … 1. Batches come in random order, so the neighbour is any photo.
    """
    return images.lerp(images.roll(1, 0), 1 - share), targets.lerp(targets.roll(1, 0), 1 - share)


def shrink(images: Tensor, size_px: int) -> Tensor:
    """Resize float (B, 3, H, W) to squares of size_px, with antialiasing."""
    if images.shape[-1] == size_px:
        return images
    return functional.interpolate(images, size=(size_px, size_px), mode="bilinear", antialias=True)
