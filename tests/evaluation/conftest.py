import numpy as np
import pytest
import torch

from physiq_ray.evaluation import Answers


@pytest.fixture
def answers():
    """Give the answers for 63 photos of three poses, some of them wrong."""
    rng = np.random.default_rng(0)
    labels = torch.tensor([0] * 30 + [1] * 30 + [2] * 3)
    logits = torch.from_numpy(rng.normal(0, 1, (63, 3)).astype(np.float32))
    logits[torch.arange(63), labels] += 1.5
    return Answers(tuple(f"s3://b/{n}.jpg" for n in range(63)), labels, logits)
