"""Batch norms of several ranks: computed over the photos of all ranks, or averaged once per epoch."""

import torch
import torch.distributed
import torch.distributed.nn.functional
from torch import Tensor, nn


class SyncBatchNorm2d(nn.BatchNorm2d):
    """A batch norm over the photos of all ranks, for CPUs: torch's own SyncBatchNorm computes on GPUs only.

    One reduction, through which gradients flow, adds up sum, sum of squares and count over the ranks. So a
    rank without a photo takes part with a batch of 0. Evaluation does not change.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W), B ≥ 0."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        count = torch.tensor([float(values.numel() // self.num_features)], device=values.device)
        sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
        sums = torch.distributed.nn.functional.all_reduce(sums)  # type: ignore[no-untyped-call]
        total = sums[-1].clamp(min=1)
        mean, square = (sums[:-1] / total).chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        self._update(mean.detach(), variance.detach() * total / (total - 1).clamp(min=1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        # Round once, at the end: the two terms almost cancel out if the mean is far from 0.
        normalised: Tensor = values * _by_channel(scale) + _by_channel(shift)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        momentum = self.momentum or 0.1
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased_variance)):
            if running is not None:
                running.lerp_(new, momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


def _by_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None]


def synchronise_batch_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace all batch norms by batch norms over the photos of all ranks; names and values stay."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            synchronised = SyncBatchNorm2d(child.num_features, child.eps, child.momentum)
            synchronised.load_state_dict(child.state_dict())
            setattr(model, name, synchronised)
        else:
            synchronise_batch_norms(child, device)
    return model


def average_statistics(model: nn.Module, num_photos: int, device: torch.device) -> None:
    """Make running statistics equal on all ranks: a mean weighted by the photos of each rank."""
    statistics = [
        buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))
    ]
    weight = torch.tensor([float(num_photos)], device=device)
    flat = torch.cat([*(buffer.flatten() * weight for buffer in statistics), weight])
    torch.distributed.all_reduce(flat)
    if flat[-1] == 0:  # no rank has seen a photo
        return
    flat, start = flat[:-1] / flat[-1], 0
    for buffer in statistics:
        buffer.copy_(flat[start : start + buffer.numel()].view_as(buffer))
        start += buffer.numel()
