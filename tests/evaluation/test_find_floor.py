"""Which photos choose a floor, with a real network and photos in a folder."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import DataError
from physiq_ray.evaluation import find_floor as module
from physiq_ray.evaluation.choose_floor import choose_floor, fit_detector, halve, mean_features
from physiq_ray.evaluation.find_floor import find_floor
from physiq_ray.images import decode_square
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.model import build_model
from physiq_ray.prediction import Predictor
from physiq_ray.prediction.network import Network

pytestmark = pytest.mark.slow

SPLITS = ["train"] * 6 + ["validation"] * 10 + ["test"] * 2


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    names = {1: "One", 2: "Two"}
    return ModelState(build_model(2).state_dict(), ClassMapping.of_poses(names), names, image_size=64)


@pytest.fixture
def manifest(tmp_path, make_photo):
    """Give a manifest of photos of two poses, and of six of no known pose, two of them for the test."""

    def row(number, pose_id, split):
        path = tmp_path / f"{number:02d}.jpeg"
        path.write_bytes(make_photo(number))
        index = None if pose_id is None else pose_id - 1
        return {
            **{"uri": str(path), "bucket": str(tmp_path), "key": path.name, "size": path.stat().st_size},
            **{"etag": str(number), "pose_id": pose_id, "class_index": index, "group": path.name},
            "split": split,
        }

    rows = [row(number, 1 + number % 2, split) for number, split in enumerate(SPLITS)]
    nulls = [row(50 + number, None, "validation" if number < 4 else "test") for number in range(6)]
    table, no_pose = (pa.Table.from_pylist(of, MANIFEST_SCHEMA) for of in (rows, nulls))
    return Manifest(table, ClassMapping.of_poses([1, 2]), no_pose=no_pose)


def features_of(network, uris):
    images = [decode_square(Path(uri).read_bytes(), size_px=64) for uri in uris]
    return network.features(torch.from_numpy(np.stack(images)))


def found_and_seen(manifest, state, uris):
    """Choose the floor; give it with the counts of its progress."""
    seen = []
    options = {"target_precision": 0.6, "precision": "fp32"}
    floor = find_floor(manifest, state, uris, **options, on_progress=lambda *counts: seen.append(counts))
    return floor, seen


def test_the_given_validation_photos_and_those_of_no_pose_choose_it(state, manifest):
    uris = manifest.split("validation")["uri"].to_pylist()[:6]
    found, seen = found_and_seen(manifest, state, uris)
    network = Network(state, precision="fp32")
    nulls = manifest.no_pose["uri"].to_pylist()[:4]
    labels = torch.tensor([0, 1] * 3)
    means = mean_features(features_of(network, manifest.split("train")["uri"].to_pylist()), labels, 2)
    features = features_of(network, uris + nulls)
    expected = choose_floor(
        features @ state.state_dict["fc.weight"].T + state.state_dict["fc.bias"],
        features,
        torch.tensor([0, 1] * 3 + [-1] * 4),
        {"distance": means},
        temperature=1.0,
        target_precision=0.6,
        null_weight=6 / 18 * 6 / 4,  # of all photos, 6 have no pose and 18 one; here it is 4 and 6
    )
    assert (found.choice.num_photos, found.choice.num_null) == (6, 4)
    assert found.score == expected.score
    assert found.threshold == pytest.approx(expected.threshold, abs=1e-5)
    assert found.choice.aurocs == pytest.approx(expected.choice.aurocs)
    assert seen[-1] == (16, 16)


def test_other_photos_are_not_read(state, manifest, tmp_path):
    uris = manifest.split("validation")["uri"].to_pylist()
    chosen, others = uris[:6], [*uris[6:], *manifest.split("test")["uri"].to_pylist()]
    others += manifest.no_pose["uri"].to_pylist()[4:]
    before = find_floor(manifest, state, chosen, target_precision=0.6, precision="fp32")
    for uri in others:
        Path(uri).write_bytes(b"changed")
    after = find_floor(manifest, state, chosen, target_precision=0.6, precision="fp32")
    assert (after.threshold, after.choice) == (before.threshold, before.choice)


def test_an_unreadable_photo_does_not_count(state, manifest):
    uris = manifest.split("validation")["uri"].to_pylist()[:6]
    Path(uris[2]).write_bytes(b"broken")
    found = find_floor(manifest, state, uris, target_precision=0.6, precision="fp32")
    assert found.choice.num_photos == 5


def test_many_photos_are_sampled_and_each_pose_has_mean_features(state, manifest, monkeypatch):
    monkeypatch.setattr(module, "TRAIN_PHOTOS", 2)
    monkeypatch.setattr(module, "MOST_PHOTOS", 3)
    uris = manifest.split("validation")["uri"].to_pylist()
    found, seen = found_and_seen(manifest, state, uris)
    assert seen[-1] == (2 * 2 + 3 + 3, 10)
    assert found is None or found.choice.num_photos == found.choice.num_null == 3


def test_without_a_validation_photo_the_error_says_what_is_missing(state, manifest):
    with pytest.raises(DataError, match="too few groups of validation photos"):
        find_floor(manifest, state, [], target_precision=0.9)


def test_the_floor_refuses_in_a_predictor_what_it_refused_when_it_was_chosen(state, manifest):
    uris = manifest.split("validation")["uri"].to_pylist()
    floor = find_floor(manifest, state, uris, target_precision=0.6, precision="fp32")
    predictor = Predictor(dataclasses.replace(state, floor=floor), precision="fp32")
    answers = [predictor.predict(Path(uri).read_bytes(), uri=uri) for uri in uris]
    answered = [answer.pose is not None for answer in answers]
    assert sum(answered) > 0
    assert sum(answered) / len(uris) == pytest.approx(floor.choice.coverage)


def test_half_of_many_photos_of_no_pose_fit_the_detector_and_the_others_choose(state, manifest, monkeypatch):
    monkeypatch.setattr(module, "LEAST_FOR_DETECTOR", 4)
    uris = manifest.split("validation")["uri"].to_pylist()
    found, seen = found_and_seen(manifest, state, uris)
    assert (found.choice.num_photos, found.choice.num_null) == (10, 2)
    assert seen[-1] == (20, 20)  # 6 of the training, 4 of no pose, 10 of the validation
    network = Network(state, precision="fp32")
    nulls = manifest.no_pose.slice(0, 4)
    fits = halve(nulls["group"].to_pylist())
    null_uris = np.array(nulls["uri"].to_pylist())
    trained = features_of(network, manifest.split("train")["uri"].to_pylist())
    is_posed = np.arange(8) < 6
    detector = fit_detector(torch.cat([trained, features_of(network, null_uris[fits])]), is_posed)
    features = features_of(network, [*uris, *null_uris[~fits]])
    expected = choose_floor(
        features @ state.state_dict["fc.weight"].T + state.state_dict["fc.bias"],
        features,
        torch.tensor([0, 1] * 5 + [-1] * 2),
        {"distance": mean_features(trained, torch.tensor([0, 1] * 3), 2), "detector": detector},
        temperature=1.0,
        target_precision=0.6,
        null_weight=6 / 18 * 10 / 2,
    )
    assert found.choice.aurocs == pytest.approx(expected.choice.aurocs)
    assert found.score == expected.score


def test_photos_of_no_pose_of_one_group_fit_no_detector(state, manifest, monkeypatch):
    monkeypatch.setattr(module, "LEAST_FOR_DETECTOR", 4)
    same = pa.array(["athlete"] * manifest.no_pose.num_rows, pa.large_string())
    column = manifest.no_pose.schema.get_field_index("group")
    no_pose = manifest.no_pose.set_column(column, "group", same)
    uris = manifest.split("validation")["uri"].to_pylist()
    found, _ = found_and_seen(dataclasses.replace(manifest, no_pose=no_pose), state, uris)
    assert set(found.choice.aurocs) == {"probability", "energy", "distance"}
    assert found.choice.num_null == 4
