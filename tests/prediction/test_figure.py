import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from physiq_ray.prediction import write_figure
from physiq_ray.sample.photos import encode_jpeg

pytestmark = pytest.mark.slow


def test_the_figure_shows_the_photo_beside_its_bars(predictor, tmp_path):
    red = io.BytesIO()
    Image.new("RGB", (90, 120), (200, 30, 30)).save(red, "PNG")
    answer = predictor.predict(red.getvalue(), uri="red.png")
    write_figure(answer, red.getvalue(), str(tmp_path / "figure.png"))
    with Image.open(tmp_path / "figure.png") as figure:
        pixels = np.asarray(figure.convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    is_red = (abs(pixels - (200, 30, 30)) < 8).all(axis=2)
    assert is_red[:, : width // 2].sum() > 0.15 * height * width
    assert is_red[:, width // 2 :].sum() < 0.01 * height * width
    is_bar = (abs(pixels - (0xD1, 0x49, 0x5B)) < 8).all(axis=2)
    assert is_bar[:, width // 2 :].sum() > 500
    # The longest bar is as long as its share of the axis, which runs from 0 to 1.12.
    longest = is_bar.any(axis=0).sum()
    others = (abs(pixels - (0x9F, 0xB4, 0xC7)) < 8).all(axis=2).any(axis=0).sum()
    shares = [item.probability for item in answer.probabilities]
    assert others / longest == pytest.approx(shares[1] / shares[0], abs=0.05)


def test_names_with_dollar_signs_are_not_drawn_as_formulas(predictor, make_photo, tmp_path):
    answer = predictor.predict(make_photo(), uri="folder/a$5_$.jpg")
    dear = tuple(dataclasses.replace(pose, name=r"$\pose_$") for pose in answer.probabilities)
    write_figure(dataclasses.replace(answer, probabilities=dear), make_photo(), str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_explanation_is_drawn_on_a_second_copy_at_the_place_where_the_network_looked(
    brightness_predictor, tmp_path
):
    upright = Image.new("RGB", (300, 480))
    upright.paste((255, 255, 255), (193, 103, 237, 171))  # around the cell in row 2, column 5
    data = encode_jpeg(upright, orientation=6, quality=95)
    answer = brightness_predictor.predict(data, uri="bright.jpg")
    explanation = brightness_predictor.explain(data, 1)

    write_figure(answer, data, str(tmp_path / "a.png"), explanation)

    with Image.open(tmp_path / "a.png") as figure:
        pixels = np.asarray(figure.convert("RGB")).astype(int)
    is_dark = (pixels[:520] < 40).all(axis=2)  # without the scale of the colours
    left, left_end, right, right_end = np.flatnonzero(np.diff((is_dark.sum(axis=0) > 200).astype(int)))[:4]
    assert left_end - left == pytest.approx(right_end - right, abs=2)
    rows = np.flatnonzero(is_dark.sum(axis=1) > 200)
    assert (rows.max() - rows.min()) / (left_end - left) == pytest.approx(480 / 300, abs=0.03)
    for start, end in ((left, left_end), (right, right_end)):
        inside = pixels[rows.min() + 2 : rows.max() - 2, start + 2 : end - 2]  # without the white around it
        y, x = (axis.mean() for axis in np.nonzero((inside > (200, 200, 140)).all(axis=2)))
        assert x / (end - start) == pytest.approx(160.5 / 224, abs=0.03)
        assert y / len(inside) == pytest.approx(64.5 / 224, abs=0.03)
    yellow = (pixels[..., 0] > pixels[..., 2] + 40) & (pixels[..., 1] > 180)
    assert yellow[: rows.max(), right:right_end].any()
    assert not yellow[:, left:left_end].any()
