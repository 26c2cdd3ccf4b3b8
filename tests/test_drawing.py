"""`to_png` gives the pixels of a figure, and a name with dollar signs is drawn as it is."""

import io

from matplotlib.figure import Figure
from PIL import Image

from physiq_ray.drawing import PLAIN_TEXT, to_jpeg, to_png


def test_a_figure_becomes_a_png_or_jpeg_of_its_size():
    for draw, kind in ((to_png, "PNG"), (to_jpeg, "JPEG")):
        with Image.open(io.BytesIO(draw(Figure(figsize=(2, 1), dpi=120)))) as image:
            assert (image.format, image.size) == (kind, (240, 120))


def test_a_name_with_dollar_signs_is_no_formula():
    figure = Figure(figsize=(2, 1))
    figure.suptitle(r"$\nosuchcommand$", **PLAIN_TEXT)
    assert to_png(figure)  # matplotlib raises ValueError for a wrong formula
