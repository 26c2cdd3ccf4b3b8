import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from physiq_ray.prediction import write_figure


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
