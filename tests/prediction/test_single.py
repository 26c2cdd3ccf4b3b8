import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import NotFoundError, PhotoError, PredictionError
from physiq_ray.prediction import Predictor, find_photos, write_figure
from physiq_ray.storage import read_bytes


def test_probabilities_are_sorted_and_sum_to_one(predictor, make_photo):
    answer = predictor.predict(make_photo(size=(120, 160)), uri="a.jpeg")
    shares = [item.probability for item in answer.probabilities]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert {(item.pose_id, item.name) for item in answer.probabilities} == {
        (2, "Front Double Biceps"),
        (7, "Back Lat Spread"),
        (11, "Abs & Thighs"),
    }
    assert answer.tensor_shape == (1, 3, 64, 64)
    assert (answer.width, answer.height, answer.device) == (120, 160, "cpu")


@pytest.mark.slow
def test_outputs_are_named_by_the_class_mapping(state, make_photo):
    # String order: output 0 is pose 11, output 1 pose 2, output 2 pose 7.
    weights = dict(state.state_dict)
    weights["fc.weight"] = torch.zeros_like(weights["fc.weight"])
    weights["fc.bias"] = torch.tensor([0.0, 2.0, 1.0])
    sure = ModelState(weights, state.class_mapping, state.pose_names, image_size=64)
    answer = Predictor(sure, precision="fp32").predict(make_photo(), uri="a.jpeg")
    assert [item.pose_id for item in answer.probabilities] == [2, 7, 11]
    assert answer.pose.probability == pytest.approx(np.exp(2) / (1 + np.exp(2) + np.exp(1)))


def test_a_temperature_softens_the_confidence_and_leaves_the_pose(state, predictor, make_photo):
    hot = Predictor(dataclasses.replace(state, temperature=1e6), precision="fp32")
    answer = hot.predict(make_photo(), uri="a.jpeg")
    assert answer.pose.pose_id == predictor.predict(make_photo(), uri="a.jpeg").pose.pose_id
    assert answer.pose.probability == pytest.approx(1 / 3, abs=1e-4)


def test_a_turned_photo_gets_the_upright_ones_answer_and_size(predictor, make_photo):
    upright = make_photo(size=(120, 160), quality=95)
    image = Image.open(io.BytesIO(upright)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif)
    turned = predictor.predict(file.getvalue(), uri="turned.jpeg")
    straight = predictor.predict(upright, uri="upright.jpeg")
    assert (turned.width, turned.height) == (straight.width, straight.height) == (120, 160)
    for pose in straight.probabilities:
        (same,) = (item for item in turned.probabilities if item.pose_id == pose.pose_id)
        assert same.probability == pytest.approx(pose.probability, abs=5e-3)


def test_an_unreadable_photo_is_named(predictor):
    with pytest.raises(PhotoError, match=r"broken\.jpeg: not an image"):
        predictor.predict(b"no photo", uri="broken.jpeg")


def test_an_output_that_is_not_a_number_is_an_error(state, make_photo):
    huge = dict(state.state_dict) | {
        "fc.bias": torch.full((3,), 3e38),
        "fc.weight": torch.full((3, 2048), 3e38),
    }
    broken = Predictor(dataclasses.replace(state, state_dict=huge), precision="fp32")
    with pytest.raises(PredictionError, match=r"a\.jpeg: the network's output is not a number"):
        broken.predict(make_photo(), uri="a.jpeg")


def test_the_answer_as_json_has_the_api_s_form(predictor, make_photo):
    answer = predictor.predict(make_photo(), uri="a.jpeg").to_dict()
    assert set(answer) >= {"uri", "pose", "confidence", "probabilities", "model"}
    assert set(answer["pose"]) == {"id", "name"}
    assert answer["confidence"] == answer["probabilities"][0]["probability"]
    assert answer["model"] == {"version": "0123456789ab"}


@pytest.mark.slow
def test_photos_are_found_in_folders_buckets_and_by_name(make_bucket, make_photo, tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.jpeg", "b/1.PNG", "b/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    bucket = make_bucket({"new/é 1.jpeg": b"x", "old/2.jpeg": b"x"})
    found = list(
        find_photos([str(tmp_path / "b"), f"s3://{bucket}/new", f"s3://{bucket}/old/2.jpeg", "one.jpeg"])
    )
    assert found == [
        str(tmp_path / "b" / "1.PNG"),
        str(tmp_path / "b" / "2.jpeg"),
        f"s3://{bucket}/new/é 1.jpeg",
        f"s3://{bucket}/old/2.jpeg",
        "one.jpeg",
    ]


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(NotFoundError, match="no photos in it"):
        list(find_photos([str(tmp_path)]))


@pytest.mark.slow
def test_a_photo_is_read_from_a_bucket_and_its_figure_written_to_one(predictor, make_bucket, make_photo, s3):
    bucket = make_bucket({"a.jpeg": make_photo()})
    data = read_bytes(f"s3://{bucket}/a.jpeg")
    answer = predictor.predict(data, uri=f"s3://{bucket}/a.jpeg")
    write_figure(answer, data, f"s3://{bucket}/figures/a.png")
    assert answer.uri == f"s3://{bucket}/a.jpeg"
    body = s3.client().get_object(Bucket=bucket, Key="figures/a.png")["Body"].read()
    assert body.startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_prediction_package_does_not_import_ray():
    code = "import sys, physiq_ray.prediction; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
