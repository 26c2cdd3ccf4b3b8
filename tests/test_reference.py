"""The distributions of the validation photos, and the distance of other photos from them."""

import math

import numpy as np
import pytest

from physiq_ray.reference import NAMES, Histogram, Reference


def make_reference(num_classes: int = 3) -> Reference:
    rng = np.random.default_rng(0)
    return Reference(
        Histogram.of_classes(rng.integers(0, num_classes, 300), num_classes),
        *(Histogram.of_values(rng.random(300)) for _ in range(3)),
    )


def test_the_psi_is_the_one_of_its_definition() -> None:
    histogram = Histogram(np.array([1.0, 2.0]), np.array([10, 20, 30]))
    p, q = np.array([6.5, 0.5, 4.5]) / 11.5, np.array([10.5, 20.5, 30.5]) / 61.5

    assert histogram.distance(np.array([6, 0, 4])) == pytest.approx(float(((p - q) * np.log(p / q)).sum()))
    assert histogram.distance(np.array([100, 200, 300])) == pytest.approx(0, abs=1e-3)


def test_the_limit_is_the_quantile_of_chi_squared_by_the_two_numbers_of_photos() -> None:
    # Quantiles 0.999 of tables: 13.82, 24.32 and 27.88 for 2, 7 and 9 degrees of freedom.
    for freedom, quantile in ((2, 13.82), (7, 24.32), (9, 27.88)):
        histogram = Histogram(np.arange(freedom, dtype=float), np.full(freedom + 1, 50))
        expected = quantile * (1 / 500 + 1 / (50 * (freedom + 1)))
        assert histogram.limit(500) == pytest.approx(expected, rel=0.025)


def test_values_are_divided_at_their_deciles_and_an_edge_belongs_to_the_bin_above() -> None:
    histogram = Histogram.of_values(np.arange(100))

    assert histogram.counts.tolist() == [10] * 10
    assert histogram.bin_of(-1e9) == 0
    assert histogram.bin_of(1e9) == 9
    edge = histogram.edges[3]
    assert (histogram.bin_of(np.nextafter(edge, 0)), histogram.bin_of(edge)) == (3, 4)


def test_equal_values_are_one_bin_of_their_own() -> None:
    histogram = Histogram.of_values([0.5] * 20)

    assert (histogram.edges.tolist(), histogram.counts.tolist()) == ([0.5], [0, 20])
    assert histogram.distance(np.array([0, 500])) < histogram.limit(500)
    assert histogram.distance(np.array([500, 0])) > histogram.limit(500)


def test_a_single_class_never_differs() -> None:
    histogram = Histogram.of_classes([0, 0, 0], 1)

    assert histogram.distance(np.array([500])) == 0
    assert histogram.limit(500) == math.inf


def test_what_is_stored_is_read_again() -> None:
    reference = make_reference()

    again = Reference.from_dict(reference.to_dict(), num_classes=3)

    for name in NAMES:
        one, other = reference.values()[name], again.values()[name]
        assert one.edges.tolist() == other.edges.tolist()
        assert one.counts.tolist() == other.counts.tolist()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("poses", {"counts": [1, 2]}, "poses is not a histogram"),
        ("poses", {"edges": [1.0], "counts": [1, 2]}, "poses has 2 bins, not 3"),
        ("size", {"edges": [2.0, 1.0], "counts": [1, 1, 1]}, "size is not a histogram"),
        ("size", {"edges": [math.nan], "counts": [1, 1]}, "size is not a histogram"),
        ("brightness", {"edges": [], "counts": [0]}, "brightness is not a histogram"),
        ("confidence", {"edges": [0.5], "counts": [-1, 5]}, "confidence is not a histogram"),
    ],
)
def test_a_damaged_reference_is_refused(name: str, change: dict[str, list[float]], message: str) -> None:
    value = make_reference().to_dict()
    value[name] |= change

    with pytest.raises(ValueError, match=message):
        Reference.from_dict(value, num_classes=3)
