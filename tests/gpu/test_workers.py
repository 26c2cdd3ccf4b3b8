"""Two workers on one GPU, over gloo, train what one worker does on the photos of both."""

import datetime
import json
from pathlib import Path

import pytest
import ray.train.torch
import torch
from device import DEVICE, IS_CUDA, SIZE, gpu, make_network, make_photos
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from physiq_ray.model import normalise
from physiq_ray.training.loop import set_up_cudnn

pytestmark = gpu

NUM_STEPS, NUM_PHOTOS = 5, 8
PATIENCE = datetime.timedelta(seconds=60)


def wrap(module, *, parallel_strategy_kwargs):
    """Replace ray.train.torch.prepare_model, which needs a GPU for each worker."""
    return DistributedDataParallel(module, device_ids=[0] if IS_CUDA else None, **parallel_strategy_kwargs)


def train(rank, world_size, **settings):
    """Train the head for two steps and all layers for three, in the last of which only rank 0 has photos.

    Gives the steps' losses over all ranks, and the first norm's statistics.
    """
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    set_up_cudnn("yes")
    network = make_network(
        **{"precision": "fp32", "batch_norm": "sync", "head_epochs": 1, "epochs": 2, **settings}
    )
    losses = []
    for step in range(NUM_STEPS):
        network.begin_epoch(1 if step < 2 else 2)  # the second epoch wraps other layers
        images, labels = (part.to(DEVICE) for part in make_photos(NUM_PHOTOS, seed=step))
        total = NUM_PHOTOS // 2 if step == NUM_STEPS - 1 else NUM_PHOTOS
        share = slice(0, total) if world_size == 1 or total < NUM_PHOTOS else slice(rank * 4, rank * 4 + 4)
        if total < NUM_PHOTOS and rank == 1:
            part = network.zero_loss(SIZE)
        else:
            logits = network.forward(normalise(images[share]))
            part = functional.cross_entropy(logits, labels[share], reduction="sum")
        network.backward(part * (world_size / total))
        network.step(1e-3)
        summed = part.detach().cpu() / total
        if world_size > 1:
            torch.distributed.all_reduce(summed)
        losses.append(float(summed))
    torch.backends.cudnn.allow_tf32 = tf32
    network.average_buffers(NUM_PHOTOS)
    return {"losses": losses, "variances": network.state()["model"]["bn1.running_var"].tolist()}


def work(rank, folder, settings):
    """Be one of two workers."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=PATIENCE
    )
    ray.train.torch.prepare_model = wrap
    Path(folder, f"{rank}.json").write_text(json.dumps(train(rank, 2, **settings)))
    torch.distributed.destroy_process_group()


def train_on_two(folder, **settings):
    torch.multiprocessing.spawn(work, (str(folder), settings), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_workers_with_synchronised_batch_norms_train_as_one_does(tmp_path):
    alone = train(0, 1)
    both = train_on_two(tmp_path)
    for found in both:
        assert found["losses"] == pytest.approx(alone["losses"], rel=5e-3)
        assert found["variances"] == pytest.approx(alone["variances"], rel=5e-3)
    assert both[0] == both[1]
