import pytest

from physiq_ray.config import Settings
from physiq_ray.training.several import count_at_once
from physiq_ray.training.workers import plan_workers

CPUS_2, CPUS_16 = {"CPU": 2.0}, {"CPU": 16.0}
GPUS_4 = {"CPU": 32.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "num_workers", "num_runs", "at_once"),
    [
        ([CPUS_2], 1, 5, 1),  # a small machine
        ([CPUS_16], 1, 5, 1),  # a worker computes on all CPUs of its node
        ([CPUS_2] * 4, 1, 5, 4),
        ([CPUS_2] * 4, 1, 3, 3),
        ([CPUS_2] * 4, 2, 5, 2),
        ([CPUS_2] * 4, 3, 5, 1),
        ([GPUS_4], 1, 5, 4),
        ([GPUS_4, GPUS_4], 4, 5, 2),
        ([GPUS_4, CPUS_16], 2, 5, 2),
        ([{"CPU": 4.0, "GPU": 4.0}], 1, 5, 2),  # each run needs a CPU to decode with
    ],
)
def test_so_many_runs_are_trained_at_the_same_time(nodes, num_workers, num_runs, at_once):
    plan = plan_workers(Settings(num_workers=num_workers), nodes)
    assert count_at_once(plan, num_workers, nodes, num_runs) == at_once
