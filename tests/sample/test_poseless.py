"""Photos of no known pose: what they show, and that they show it in the same way as photos of poses."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from physiq_ray.sample.figures import Athlete, draw_photo, draw_scene
from physiq_ray.sample.poseless import POSELESS_KINDS, draw_poseless_photo

MAGENTA = (230, 20, 230)  # no other thing in a photo has this colour


def drawn(kind, seed, size=(150, 200)):
    rng = np.random.default_rng(seed)
    return draw_poseless_photo(kind, Athlete.random(rng), rng, size)


def magenta_athlete():
    athlete = Athlete.random(np.random.default_rng(0))
    looks = replace(athlete.looks, skin=MAGENTA, hair_style="bald", has_beard=False, top=None)
    return replace(athlete, looks=looks)


def masks(kind, seed, size=(300, 400)):
    """Give where the magenta athlete is, and where anything differs from the background."""
    photo = draw_poseless_photo(kind, magenta_athlete(), np.random.default_rng(seed), size)
    reach = 0.72 if kind == "two_people" else 0.62
    background = draw_scene(lambda _canvas, _rng: None, np.random.default_rng(seed), size, reach=reach)
    pixels, empty = (np.asarray(image).astype(float) for image in (photo, background))
    red, green, blue = np.moveaxis(pixels, 2, 0)
    return (np.minimum(red, blue) - green > 60), np.abs(pixels - empty).max(axis=2) > 45


@pytest.mark.parametrize("kind", POSELESS_KINDS)
@pytest.mark.parametrize("size", [(150, 200), (160, 90), (37, 41)])
def test_every_kind_is_drawn_at_the_requested_size(kind, size):
    image = drawn(kind, seed=3, size=size)

    assert (image.mode, image.size) == ("RGB", size)


@pytest.mark.slow
@pytest.mark.parametrize("kind", POSELESS_KINDS)
def test_the_same_seed_draws_the_same_pixels_and_another_seed_does_not(kind):
    digests = [hashlib.sha256(drawn(kind, seed).tobytes()).digest() for seed in (*range(8), 5)]

    assert len(set(digests)) == 8
    assert digests[8] == digests[5]


def test_an_unknown_kind_is_refused():
    with pytest.raises(KeyError):
        drawn("food", seed=0)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_backdrop_and_light_are_those_of_a_photo_of_a_pose(seed):
    size = (300, 400)
    athlete = Athlete.random(np.random.default_rng(1))
    images = [draw_photo(2, athlete, np.random.default_rng(seed), size)]
    images += [draw_poseless_photo(k, athlete, np.random.default_rng(seed), size) for k in POSELESS_KINDS]
    corners = [np.asarray(image)[:20, :20].mean((0, 1)) for image in images]

    # The contrast is stretched about the mean of the photo, and the figure changes this mean.
    assert np.ptp(corners, axis=0).max() < 10.0


@pytest.mark.parametrize("kind", ["relaxed", "half_turned"])
def test_one_person_is_in_a_photo_of_one_person(kind):
    for seed in range(4):
        is_athlete, _ = masks(kind, seed)

        assert is_athlete.mean() > 0.08


def test_nobody_but_equipment_is_in_a_photo_of_an_empty_gym():
    for seed in range(4):
        _, is_foreground = masks("empty_gym", seed)
        of_one, of_other = (
            draw_poseless_photo("empty_gym", athlete, np.random.default_rng(seed), (150, 200)).tobytes()
            for athlete in (magenta_athlete(), Athlete.random(np.random.default_rng(9)))
        )

        assert of_one == of_other
        assert is_foreground.mean() > 0.01


@pytest.mark.slow
def test_two_people_stand_next_to_each_other_and_the_athlete_is_one_of_them():
    sides = set()
    for seed in range(8):
        is_athlete, is_foreground = masks("two_people", seed)
        athlete_x = np.nonzero(is_athlete)[1].mean()
        others_x = np.nonzero(is_foreground & ~is_athlete)[1].mean()
        sides.add(bool(athlete_x < others_x))

        assert is_athlete.mean() > 0.05
        assert abs(athlete_x - others_x) > 0.2 * 300

    assert sides == {True, False}
