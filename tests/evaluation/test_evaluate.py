"""A model scored on labelled photos, by the command."""

import json

import pytest
import torch

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path, make_photo):
    """Lay six photos of pose 1, four of pose 2 and one of pose 5 into folders named so, one broken."""
    for pose_id, count in {1: 6, 2: 4, 5: 1}.items():
        folder = tmp_path / "photos" / str(pose_id)
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.jpeg").write_bytes(make_photo(10 * pose_id + number))
    (tmp_path / "photos" / "1" / "5.jpeg").write_bytes(b"no photo")
    poses = [{"id": number, "name": f"Pose {number}"} for number in (1, 2, 5)]
    (tmp_path / "poses.json").write_text(json.dumps(poses))
    (tmp_path / "labels.json").write_text("[]")
    return ("--sources", "photos", "--poses", "poses.json", "--labels", "labels.json")


@pytest.fixture
def model(tmp_path):
    """Save a model of poses 1 and 2 that says Pose 1, whatever it sees, with a chance of 3 : 1."""
    weights = build_model(2).state_dict()
    weights["fc.weight"] = torch.zeros(2, 2048)
    weights["fc.bias"] = torch.log(torch.tensor([3.0, 1.0]))
    state = ModelState(
        weights,
        ClassMapping.of_poses([1, 2]),
        {1: "Pose 1", 2: "Pose 2"},
        image_size=64,
        temperature=2.0,
        settings={"run_name": "first", "storage": "runs", "seed": 7, "image_size": 64},
    )
    save_model_files(state, str(tmp_path / "output"))


def test_all_photos_are_scored_and_what_was_left_out_is_named(run_cli, photos, model, tmp_path):
    done = run_cli("evaluate", *photos, "--split", "all", "--json", timeout=200)
    assert done.returncode == 1, done.stderr  # a photo is broken
    report = json.loads(done.stdout)
    assert (report["num_photos"], report["confusion"]) == (9, [[5, 0], [4, 0]])
    assert report["accuracy"] == pytest.approx(5 / 9)
    assert report["poses"][0]["recall"] == 1
    assert report["calibration"]["temperature"] == 2.0
    share = 3**0.5 / (3**0.5 + 1)  # of 3 : 1 at temperature 2
    assert report["calibration"]["error_before"] == pytest.approx(0.75 - 5 / 9, abs=1e-3)
    assert report["calibration"]["error_after"] == pytest.approx(share - 5 / 9, abs=1e-3)
    assert {mistake["truth"] for mistake in report["mistakes"]} == {"Pose 2"}
    assert "left out: 1 photos of pose 5, which the model does not know" in done.stderr
    assert "photos/1/5.jpeg: not an image of a supported format" in done.stderr
    files = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert files == {"report.json", "confusion.png", "reliability.png", "mistakes.png", "model_card.md"}
    assert "the photos of split 'all'" in (tmp_path / "evaluation" / "model_card.md").read_text()


def test_a_model_whose_run_is_gone_asks_for_sources(run_cli, model):
    done = run_cli("evaluate")
    assert done.returncode == 2
    assert "runs/first/manifest.parquet" in done.stderr
    assert "give --sources or --manifest" in done.stderr
