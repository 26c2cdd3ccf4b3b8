import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from physiq_ray.evaluation import calibration_error, fit_temperature
from physiq_ray.evaluation.calibration import reliability


def drawn(num_photos, seed=0):
    """Give logits, and labels that are drawn from the probabilities of these logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(num_photos, 5, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, dim=1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_logits_that_are_too_large_are_divided_by_as_much(factor):
    logits, labels = drawn(20_000)
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)


def test_a_few_correctly_predicted_photos_do_not_lower_the_temperature_to_its_limit():
    labels = torch.arange(12) % 3
    logits = 4.0 * torch.nn.functional.one_hot(labels).float()
    assert 0.5 < fit_temperature(logits, labels) < 1


def test_an_overconfident_model_s_error_falls():
    logits, labels = drawn(20_000)
    before = calibration_error(3 * logits, labels, 1.0)
    after = calibration_error(3 * logits, labels, fit_temperature(3 * logits, labels))
    assert before > 0.1
    assert after < 0.02


@pytest.mark.slow
@given(
    logits=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 30), st.just(4)), elements=st.floats(-50, 50, width=32)
    ),
    seed=st.integers(0, 5),
)
def test_the_fitted_temperature_never_worsens_the_error_and_stays_sane(logits, seed):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, len(logits)))
    values = torch.from_numpy(logits)
    temperature = fit_temperature(values, labels)
    assert 0.049 < temperature < 20.1
    after, before = (calibration_error(values, labels, value) for value in (temperature, 1.0))
    assert after <= before


def test_the_calibration_error_of_a_small_example_equals_the_mean_distance_by_hand():
    # Four photos have a confidence of 0.9 (three are right: off by 0.15) and one of 0.62 (wrong).
    shares = torch.tensor([[0.9, 0.1]] * 4 + [[0.62, 0.38]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    error = calibration_error(torch.log(shares), labels, 1.0)
    assert error == pytest.approx((4 * 0.15 + 1 * 0.62) / 5, abs=1e-6)
    bins = reliability(torch.log(shares), labels, 1.0)
    assert bins.counts.tolist() == [0] * 9 + [1] + [0] * 3 + [4, 0, 0]
    assert bins.accuracy[13] == pytest.approx(0.75)
    assert bins.confidence[13] == pytest.approx(0.9)


def error_of_the_bins(logits, labels, temperature=1.0):
    bins = reliability(logits, labels, temperature)
    assert bins.counts.sum() == len(labels)
    return float((np.abs(bins.accuracy - bins.confidence) * bins.counts).sum() / len(labels))


@given(seed=st.integers(0, 50), factor=st.sampled_from([0.1, 1.0, 12.0, 1000.0]))
def test_the_diagram_s_bins_give_the_error_again(seed, factor):
    logits, labels = drawn(200, seed)
    error = calibration_error(factor * logits, labels, 1.0)
    assert error_of_the_bins(factor * logits, labels) == pytest.approx(error, abs=1e-6)


@given(
    confidences=st.lists(
        st.sampled_from([0.5, 8 / 15, 0.6, 2 / 3, 0.8, 14 / 15, 0.95, 1 - 1e-8, 1.0]), min_size=1
    ),
    seed=st.integers(0, 9),
)
def test_confidences_on_the_bins_edges_fall_into_the_same_bins_as_the_error_s(confidences, seed):
    shares = torch.tensor(confidences, dtype=torch.float64)
    logits = torch.log(torch.stack([shares, 1 - shares], dim=1)).clamp(min=-700)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, len(confidences)))
    error = calibration_error(logits, labels, 1.0)
    assert error_of_the_bins(logits, labels) == pytest.approx(error, abs=1e-6)


def test_overconfident_and_underconfident_photos_do_not_cancel_out_in_the_last_bin():
    # 20 photos at 0.95, all right; 20 at 1.0, of which 19 are right.
    logits = torch.tensor([[np.log(0.95 / 0.05), 0.0]] * 20 + [[200.0, 0.0]] * 20)
    labels = torch.tensor([0] * 39 + [1])
    assert calibration_error(logits, labels, 1.0) == pytest.approx(0.05, abs=1e-6)
    assert error_of_the_bins(logits, labels) == pytest.approx(0.05, abs=1e-6)
