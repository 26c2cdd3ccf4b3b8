from physiq_ray.cli import evaluate as evaluate_command


def test_the_flag_offers_the_splits_that_can_be_evaluated():
    from physiq_ray.evaluation.candidates import SCORED_SPLITS

    assert set(evaluate_command.SPLITS) == set(SCORED_SPLITS)
