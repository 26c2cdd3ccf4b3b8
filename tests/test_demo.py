"""What a demo refuses before it draws photos, which takes minutes."""

import inspect
import io
from pathlib import Path

import pytest
from rich.console import Console

from physiq_ray import demo
from physiq_ray.errors import LabelError, PhysiqError, SettingError, WeightsError
from physiq_ray.progress import Display
from physiq_ray.sample import write_sample_photos


class DrawnError(Exception):
    """Raised instead of drawing photos."""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Give a function that runs a demo outside the checkout until it draws photos or starts its server."""

    def no_drawing(*_, **__):
        raise DrawnError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "write_sample_photos", no_drawing)
    monkeypatch.setattr(demo, "LocalS3", no_drawing)

    def call(photos=None, labels=(), **flags):
        display = Display(Console(file=io.StringIO()))
        flags = {"weights": "random", **flags}
        demo.run_demo(Path("demo"), display, flags=flags, photos=photos, labels=labels)

    return call


def test_a_demo_outside_the_checkout_has_the_built_in_poses(start):
    with pytest.raises(DrawnError):
        start()


def test_the_demo_draws_as_many_photos_of_no_known_pose_as_of_one_and_a_half_poses():
    drawn = inspect.signature(write_sample_photos).bind("photos", **demo.GENERATED).arguments

    assert drawn["num_poseless"] == 1.5 * drawn["num_athletes"] * drawn["photos_per_pose"]


@pytest.mark.parametrize(
    ("flags", "kind", "message"),
    [
        ({"poses": "nowhere.json"}, LabelError, r"nowhere\.json: no such poses file"),
        ({"weights": "nowhere.pth"}, WeightsError, r"nowhere\.pth"),
        ({"epochs": 0}, SettingError, "epochs"),
    ],
)
def test_a_demo_refuses_wrong_settings_before_it_draws(start, flags, kind, message):
    with pytest.raises(kind, match=message):
        start(**flags)


def test_a_demo_refuses_missing_labels_and_photos_before_its_server_starts(start, tmp_path):
    with pytest.raises(LabelError, match=r"l\.json: no such labels file"):
        start(photos=tmp_path, labels=["l.json"])
    (tmp_path / "l.json").write_text("[]")
    with pytest.raises(PhysiqError, match="no photos in it"):
        start(photos=tmp_path, labels=["l.json"])
