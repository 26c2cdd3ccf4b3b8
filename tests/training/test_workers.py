import pytest

from physiq_ray.config import Settings, load_settings
from physiq_ray.errors import TrainingError
from physiq_ray.training.workers import plan_workers, wanted_bundles, with_gpu_defaults


def test_workers_leave_a_cpu_for_decoding():
    plan = plan_workers(Settings(num_workers=3), [{"CPU": 2}])
    assert plan.cpus * 3 <= 1
    assert (plan.use_gpu, plan.threads) == (False, 1)
    assert plan_workers(Settings(), [{"CPU": 8}]).threads == 8


def test_one_node_s_cpus_are_enough_for_all_workers_and_a_decoder():
    plan = plan_workers(Settings(num_workers=2), [{"CPU": 2}, {"CPU": 2}])
    assert (plan.cpus, plan.threads, plan.placement) == (0.5, 2, "SPREAD")
    plan = plan_workers(Settings(num_workers=2), [{"CPU": 1}, {"CPU": 1}, {"CPU": 1}])
    assert (plan.cpus, plan.threads) == (1.0, 1)
    plan = plan_workers(Settings(num_workers=2), [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}])
    assert (plan.cpus, plan.placement) == (1.0, "PACK")


def test_workers_with_gpus_find_their_cpus_on_the_same_node():
    mixed = [{"GPU": 4, "CPU": 1}, {"CPU": 16, "decode": 1000}]
    plan = plan_workers(Settings(num_workers=4, decode_resource="decode"), mixed)
    assert (plan.use_gpu, plan.cpus) == (True, 0.25)


@pytest.mark.parametrize(
    ("placement", "nodes", "word"),
    [
        ("auto", [{"CPU": 8}], "SPREAD"),
        ("pack", [{"CPU": 8}], "PACK"),
        ("spread", [{"CPU": 8, "GPU": 2}], "SPREAD"),
    ],
)
def test_the_setting_decides_the_placement_of_workers(placement, nodes, word):
    assert plan_workers(Settings(placement=placement), nodes).placement == word


def test_an_autoscaler_is_asked_for_workers_and_a_decoder():
    assert wanted_bundles(Settings(num_workers=2, use_gpu="yes", decode_resource="decode")) == [
        {"CPU": 1.0, "GPU": 1.0},
        {"CPU": 1.0, "GPU": 1.0},
        {"CPU": 1.0, "decode": 0.001},
    ]
    assert wanted_bundles(Settings(use_gpu="no")) == [{"CPU": 1.0}, {"CPU": 1.0}]


def test_gpus_are_used_where_each_worker_gets_one():
    assert plan_workers(Settings(num_workers=2), [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}]).use_gpu
    assert not plan_workers(Settings(num_workers=2, use_gpu="no"), [{"CPU": 8, "GPU": 4}]).use_gpu


@pytest.mark.parametrize(
    ("settings", "nodes", "message"),
    [
        (Settings(num_workers=4), [{"CPU": 8, "GPU": 2}], "num_workers=4 with a GPU each.*cluster has 2"),
        (Settings(use_gpu="yes"), [{"CPU": 8}], "cluster has 0.*use_gpu=no"),
        (Settings(), [{"CPU": 1}], "1 CPUs; training and decoding need one each"),
        (
            Settings(num_workers=2),
            [{"GPU": 2, "CPU": 0}, {"CPU": 8}],
            "nodes with GPUs have too few CPUs .8 in all",
        ),
        (
            Settings(decode_resource="decode"),
            [{"CPU": 8, "GPU": 1}, {"decode": 5, "CPU": 0}],
            "decode_resource=decode: no node with CPUs has it; start those that shall decode with",
        ),
    ],
)
def test_a_cluster_that_is_too_small_is_refused_with_the_missing_resource(settings, nodes, message):
    with pytest.raises(TrainingError, match=message):
        plan_workers(settings, nodes)


def test_gpus_have_larger_default_batches_and_learning_rates_unless_they_are_set():
    chosen = with_gpu_defaults(Settings(num_workers=2))
    assert chosen.batch_size == 64
    assert chosen.learning_rate == pytest.approx(2e-4)  # 128 photos a step: four times the usual 32
    assert chosen.model_fields_set == {"num_workers", "batch_size", "learning_rate"}
    chosen = with_gpu_defaults(Settings(batch_size=128, gradient_accumulation=4))
    assert (chosen.batch_size, chosen.learning_rate) == (128, pytest.approx(4e-4))
    given = Settings(batch_size=32, learning_rate=1e-4)  # the defaults, but asked for
    assert with_gpu_defaults(given) == given


def test_a_run_that_is_resumed_on_gpus_keeps_its_steps_and_its_rate():
    resumed = load_settings({}, environment={}, defaults={"batch_size": 32, "learning_rate": 1e-4})
    assert with_gpu_defaults(resumed) == resumed
