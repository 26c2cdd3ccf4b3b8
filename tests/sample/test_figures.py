import hashlib

import numpy as np
import pytest
from PIL import Image

from physiq_ray.sample.figures import Athlete, draw_empty_photo, draw_photo
from physiq_ray.sample.skeletons import POSE_IDS


def drawn(pose_id: int, seed: int, size: tuple[int, int] = (150, 200)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return draw_photo(pose_id, Athlete.random(rng), rng, size)


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def test_every_mandatory_pose_is_drawn_at_the_requested_size() -> None:
    images = [drawn(pose_id, seed=3) for pose_id in POSE_IDS]

    assert [(image.mode, image.size) for image in images] == [("RGB", (150, 200))] * 8


def test_the_same_seed_draws_the_same_pixels_and_another_seed_does_not() -> None:
    assert digest(drawn(2, seed=5)) == digest(drawn(2, seed=5))
    assert digest(drawn(2, seed=5)) != digest(drawn(2, seed=6))


def test_an_unknown_pose_is_refused() -> None:
    with pytest.raises(KeyError):
        drawn(99, seed=0)


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (37, 41)])
def test_odd_and_wide_shapes_are_drawn_too(size: tuple[int, int]) -> None:
    assert drawn(14, seed=1, size=size).size == size
    assert draw_empty_photo(np.random.default_rng(1), size).size == size


def test_backdrop_and_light_do_not_depend_on_the_pose() -> None:
    corners = [
        np.asarray(drawn(pose_id, seed=11, size=(300, 400)))[:20, :20].mean((0, 1)) for pose_id in POSE_IDS
    ]

    # The contrast is stretched about the mean of the photo, and the figure changes this mean.
    assert np.ptp(corners, axis=0).max() < 5.0


def test_front_and_back_of_one_pose_differ_inside_the_figure_only_in_detail() -> None:
    front, back = (np.asarray(drawn(pose_id, seed=8)).astype(float) for pose_id in (2, 5))

    assert 1.0 < np.abs(front - back).mean() < 60.0
