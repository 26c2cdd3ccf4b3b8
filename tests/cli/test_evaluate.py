from physiq_ray.cli import evaluate as evaluate_command


def test_the_same_splits_can_be_evaluated_as_the_flag_offers():
    from physiq_ray.evaluation.candidates import SCORED_SPLITS

    assert set(evaluate_command.SPLITS) == set(SCORED_SPLITS)
