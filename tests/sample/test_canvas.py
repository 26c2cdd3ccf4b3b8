"""How shapes are moved before they are drawn."""

import numpy as np
from PIL import Image

from physiq_ray.sample.canvas import Camera, Canvas

SQUARE = np.array([(-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1)])


def box_of(draw):
    """Give the box, in pixels of a photo with 100 px per body unit, of what `draw` draws in black."""
    canvas = Canvas((200, 200), Camera(((100, 0), (0, 100)), (100, 100), (0, 0)))
    draw(canvas)
    photo = Image.new("RGB", (200, 200), "white")
    canvas.paste_on(photo, Image.new("L", (8, 8), 128))
    rows, columns = np.nonzero(np.asarray(photo.convert("L")) < 128)
    return columns.min(), rows.min(), columns.max(), rows.max()


def shift(x, y):
    return lambda points: points + np.array((x, y))


def double(points):
    return points * 2


def test_a_shape_in_a_block_is_moved_and_one_after_it_is_not():
    def moved(canvas):
        with canvas.moved(shift(0.5, 0.2)):
            canvas.part(SQUARE, (0, 0, 0), contact=0)

    def after(canvas):
        with canvas.moved(shift(0.5, 0.2)):
            pass
        canvas.part(SQUARE, (0, 0, 0), contact=0)

    np.testing.assert_allclose(box_of(moved), (140, 110, 160, 130), atol=2)
    np.testing.assert_allclose(box_of(after), (90, 90, 110, 110), atol=2)


def test_the_inner_of_two_nested_moves_comes_first():
    def nested(canvas):
        with canvas.moved(shift(0.3, 0.0)), canvas.moved(double):
            canvas.part(SQUARE, (0, 0, 0), contact=0)

    np.testing.assert_allclose(box_of(nested), (110, 80, 150, 120), atol=2)


def test_outlines_can_be_moved_in_another_way_than_lines():
    def both(canvas):
        with canvas.moved(shift(0.0, 0.02), outlines=shift(0.0, -0.3)):
            canvas.part(SQUARE * 4, (255, 255, 255), contact=0)  # it makes the line visible
            canvas.patch(SQUARE, (0, 0, 0))
            canvas.stroke(np.array([(-0.4, 0.0), (0.4, 0.0)]), (0, 0, 0), width=0.02)

    left, top, right, bottom = box_of(both)
    np.testing.assert_allclose((left, right), (60, 140), atol=2)  # the line
    np.testing.assert_allclose(bottom, 103, atol=2)
    assert top < 65  # the patch, or the edge of the part
