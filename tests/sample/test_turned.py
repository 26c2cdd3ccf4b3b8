"""A half-turned figure: the front or the back, whose middle is where the turn moves it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from physiq_ray.sample.canvas import Camera, Canvas
from physiq_ray.sample.figures import Athlete
from physiq_ray.sample.stances import build_turned
from physiq_ray.sample.turned import draw_turned

SKIN = (200, 120, 80)
EYE = (240, 238, 232)


def drawn(angle, **looks):
    """Draw a bald athlete with 400 px per body unit on black; the pelvis is at (200, 220)."""
    athlete = Athlete.random(np.random.default_rng(5))
    plain = {"skin": SKIN, "hair_style": "bald", "has_beard": False, "top": None, "shoes": None}
    skeleton = build_turned(angle, athlete.build, np.random.default_rng(1))
    canvas = Canvas((400, 440), Camera(((400, 0), (0, 400)), (200, 220), (0, 0)))
    draw_turned(canvas, angle, skeleton, athlete.build, replace(athlete.looks, **{**plain, **looks}))
    photo = Image.new("RGB", (400, 440))
    canvas.paste_on(photo, Image.new("L", (8, 8), 128))
    return np.asarray(photo).astype(float)


def near(photo, colour):
    return np.abs(photo - colour).max(axis=2) < 25


def place_of_the_darkest(photo, rows):
    """Give the x, in body units, of the darkest column in these rows, between the arms."""
    band = photo[rows, 164:236].sum(axis=2).mean(axis=0)
    return (int(band.argmin()) + 164 - 200) / 400


def test_the_front_shows_eyes_and_the_back_does_not():
    assert near(drawn(0.7)[:90], EYE).sum() > 4
    assert near(drawn(2.4)[:90], EYE).sum() == 0


@pytest.mark.parametrize(("angle", "side"), [(0.7, 1), (2.4, -1)])
def test_the_middle_of_the_body_moves_to_the_side_that_the_visible_surface_faces(angle, side):
    # The line between the pectorals, or the spine, between -0.24 and -0.20.
    assert 0.02 < side * place_of_the_darkest(drawn(angle), slice(124, 140)) < 0.09


def test_the_trunks_of_a_figure_that_is_turned_further_are_narrower():
    colour = (20, 220, 40)
    widths = [np.ptp(np.nonzero(near(drawn(angle, trunks=colour), colour))[1]) for angle in (0.1, 0.8, 1.2)]

    assert widths[0] > widths[1] > widths[2] > 0.08 * 400
