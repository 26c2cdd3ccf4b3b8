"""The equipment of an empty gym, on a white photo with 100 px per body unit."""

import hashlib

import numpy as np
from PIL import Image

from physiq_ray.sample.canvas import Camera, Canvas
from physiq_ray.sample.equipment import draw_equipment


def drawn(seed):
    canvas = Canvas((160, 160), Camera(((100, 0), (0, 100)), (80, 80), (0, 0)))
    draw_equipment(canvas, np.random.default_rng(seed))
    photo = Image.new("RGB", (160, 160), "white")
    canvas.paste_on(photo, Image.new("L", (8, 8), 128))
    return photo


def test_it_stands_on_the_floor_within_the_height_and_width_of_a_figure():
    for seed in range(20):
        rows, columns = np.nonzero(np.asarray(drawn(seed).convert("L")) < 250)

        assert rows.min() > 20  # a figure is 100 px high: from 30 to 130
        assert 125 < rows.max() < 135
        assert columns.min() > 20
        assert columns.max() < 140
        assert np.ptp(columns) > 30


def test_it_varies_with_the_seed():
    digests = [hashlib.sha256(drawn(seed).tobytes()).digest() for seed in (*range(12), 3)]

    assert len(set(digests)) == 12
    assert digests[12] == digests[3]
