"""The network of one rank: which layers train, in which precision, with which optimizer and averages.

In the first head_epochs only the head trains, on a frozen backbone; then all layers train. The inputs are
normalised images on the device. The loop computes losses and reads photos.
"""

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import ray.train.torch
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from physiq_ray.config import Settings
from physiq_ray.model import StartingWeights, StateDict, build_model, choose_precision
from physiq_ray.training.batchnorm import average_statistics, synchronise_batch_norms


class Network:
    """A ResNet50 in training; its weights are equal on all ranks."""

    def __init__(
        self,
        settings: Settings,
        pose_ids: Sequence[int],
        weights: StartingWeights | None,
        device: torch.device,
    ) -> None:
        """Build it from starting weights, or from random ones; the seed decides the random ones.

        pose_ids: in the order of the outputs.
        """
        self.device = device
        self.dtype = choose_precision(settings.precision, device)
        self.world_size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self._settings = settings
        torch.manual_seed(settings.seed)
        model = build_model(len(pose_ids)) if weights is None else weights.build(pose_ids)
        model = model.to(device).to(memory_format=torch.channels_last)
        self._syncs = settings.batch_norm == "sync" and self.world_size > 1
        self._model = synchronise_batch_norms(model, device) if self._syncs else model
        *backbone, (_, self._head) = self._model.named_children()
        self._backbone = nn.Sequential(*(layer for _, layer in backbone), nn.Flatten(1))
        self._optimizer = torch.optim.Adam(
            [{"params": list(part.parameters())} for part in (self._backbone, self._head)],
            lr=settings.learning_rate,
            fused=True,
        )
        # In float16, small gradients would become 0 and large ones infinite. So the loss is scaled, and a
        # step whose gradients are still infinite is skipped.
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self._average = _Average(self._model, settings.ema_decay) if settings.ema_decay else None
        if settings.compile == "yes":
            self._model.compile(dynamic=False)
        self._head_only: bool | None = None
        self._trained: nn.Module = self._model

    @property
    def to_evaluate(self) -> nn.Module:
        """The model that is validated and kept: the averaged one if ema_decay is set."""
        return self._average.model if self._average is not None else self._model

    def begin_epoch(self, epoch: int) -> None:
        """Choose the layers that train in this epoch, counted from 1."""
        head_only = epoch <= self._settings.head_epochs
        if head_only != self._head_only:
            self._head_only = head_only
            self._trained = self._model  # drop the last wrapper first: each adds hooks to the parameters
            self._trained = self._distributed(self._head if head_only else self._model)
        self._set_training()

    def average_buffers(self, num_photos: int) -> None:
        """Make the buffers of all ranks equal; num_photos: of this rank since they were equal."""
        if self.world_size > 1 and not self._syncs:
            for model in dict.fromkeys((self._model, self.to_evaluate)):  # in this order on all ranks
                average_statistics(model, num_photos, self.device)

    def forward(self, images: Tensor) -> Tensor:
        """Give logits, float32 (B, classes), for float (B, 3, H, W); gradients flow to layers that train."""
        with self._eager_if_odd(images), self._autocast():
            if self._head_only:
                with torch.no_grad():
                    images = self._backbone(images)  # (B, 2048) from here on
            logits: Tensor = self._trained(images)
        return logits.float()

    def evaluate(self, images: Tensor) -> Tensor:
        """Give the logits of the model that is kept, without gradients."""
        with torch.inference_mode(), self._eager_if_odd(images), self._autocast():
            logits: Tensor = self.to_evaluate.eval()(images)
        return logits.float()

    def zero_loss(self, size_px: int) -> Tensor:
        """Take part in a step without a photo: zero gradients, and unchanged batch norms."""
        if self._syncs and not self._head_only:  # each batch norm waits for this rank
            # No autocast: torch's SyncBatchNorm sends an empty rank's statistics in the input's dtype, and
            # the statistics of the other ranks in float32.
            logits: Tensor = self._trained(self._zeros(0, size_px))
            return logits.float().sum() * 0
        self._model.eval()
        loss = self.forward(self._zeros(1, size_px)).sum() * 0
        self._set_training()
        return loss

    def only_adding_up(self, adding: bool) -> contextlib.AbstractContextManager[None]:
        """Keep gradients on this rank while inside, if more batches of the same step follow."""
        if adding and isinstance(self._trained, DistributedDataParallel):
            context: contextlib.AbstractContextManager[None] = self._trained.no_sync()
            return context
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss to the gradients of the step."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> None:
        """Update the weights by the gradients, then clear the gradients."""
        rates = (learning_rate * self._settings.backbone_rate, learning_rate)
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        # There are no gradients if no photo of the step could be read.
        if any(parameter.grad is not None for parameter in self._model.parameters()):
            if self._settings.max_gradient_norm is not None:
                self._scaler.unscale_(self._optimizer)
                nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.max_gradient_norm)
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update()

    def state(self) -> dict[str, Any]:
        """Give everything that a checkpoint needs to resume exactly."""
        state: dict[str, Any] = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
        if self._scaler.is_enabled():
            state["scaler"] = self._scaler.state_dict()
        if self._average is not None:
            state["averaged"] = self._average.model.state_dict()
            state["num_averaged"] = self._average.num_updates
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state` gave; an average that is not in it starts here."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scaler.is_enabled() and "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.model.load_state_dict(state.get("averaged", state["model"]))
            self._average.num_updates = state.get("num_averaged", 0)

    def _distributed(self, module: nn.Module) -> nn.Module:
        if self.world_size == 1:
            return module
        # Batch norms are synchronised in each step or averaged once per epoch, not sent before each step.
        wrapped: nn.Module = ray.train.torch.prepare_model(
            module, parallel_strategy_kwargs={"broadcast_buffers": False, "gradient_as_bucket_view": True}
        )
        return wrapped

    def _set_training(self) -> None:
        """Keep the batch norms' statistics of a frozen backbone."""
        self._model.train(not self._head_only)

    def _zeros(self, num_photos: int, size_px: int) -> Tensor:
        return torch.zeros(num_photos, 3, size_px, size_px, device=self.device)

    def _eager_if_odd(self, images: Tensor) -> contextlib.AbstractContextManager[Any]:
        """Run a batch of another size eager: compiling for it would take longer than it saves."""
        if self._settings.compile == "no" or len(images) == self._settings.batch_size:
            return contextlib.nullcontext()
        eager: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return eager

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


class _Average:
    """A moving average of a model's weights and statistics, as a model of its own.

    The decay rises as (1 + n) / (10 + n) with the number of updates n up to its limit, as in TensorFlow's
    ExponentialMovingAverage with num_updates. Otherwise a run of few steps would keep its first weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.num_updates = 0
        self._decay = decay
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        # One call updates all floats in a few operations on a GPU. The other values count batches, which no
        # norm with a fixed momentum reads, and each would need an operation of its own.
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._own, self._current = (list(side) for side in zip(*floats, strict=True))

    def update(self) -> None:
        """Move towards the model's current weights."""
        decay = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        get_ema_multi_avg_fn(decay)(self._own, self._current, None)  # type: ignore[no-untyped-call]
        self.num_updates += 1


def weights_to_keep(state: Mapping[str, Any]) -> StateDict:
    """Give the weights that were validated, from what `Network.state` gave."""
    weights: StateDict = state.get("averaged", state["model"])
    return weights
