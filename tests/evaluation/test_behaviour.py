import io
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pixels import difference

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import NotFoundError, PhotoError
from physiq_ray.evaluation import Answers
from physiq_ray.evaluation.behaviour import (
    CHANGES,
    change_photo,
    measure_behaviour,
)
from physiq_ray.evaluation.intervals import share_interval
from physiq_ray.images import decode_square
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model
from physiq_ray.prediction import Predictor
from physiq_ray.prediction.network import Network

SIZE_PX = 64


def changed_by_hand(data):
    """Give each change of an upright photo as the bytes of a PNG or JPEG, without our functions."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    height, width = pixels.shape[:2]
    down, across = round(height / 20), round(width / 20)
    jpeg = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(jpeg, "JPEG", quality=60)
    even = pixels[: height // 2 * 2, : width // 2 * 2]
    return {
        "mirrored": as_png(pixels[:, ::-1]),
        "20 % darker": as_png(0.8 * pixels),
        "20 % brighter": as_png(np.minimum(255, 1.2 * pixels)),
        "JPEG quality 60": jpeg.getvalue(),
        "5 % cropped": as_png(pixels[down : height - down, across : width - across]),
        "half size": as_png(even.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))),
    }


def as_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_each_change_is_made_on_the_whole_photo(make_photo):
    data = make_photo(3, size=(240, 320), format="PNG")
    same, *changed = change_photo(data, size_px=SIZE_PX)
    assert (same == decode_square(data, size_px=SIZE_PX)).all()
    by_hand = changed_by_hand(data)
    assert list(by_hand) == list(CHANGES)
    for (name, expected), image in zip(by_hand.items(), changed, strict=True):
        assert difference(image, decode_square(expected, size_px=SIZE_PX)) < 0.7, name
    moved = [difference(image, same) for image in changed]
    assert moved[0] > 20
    assert all(move > 10 for move in moved[1:3])
    assert 2 < moved[4] < moved[0]


def test_a_photo_is_mirrored_after_it_was_turned_upright(make_photo):
    data = make_photo(3, size=(320, 240), orientation=6, quality=95)
    same, mirrored, *_ = change_photo(data, size_px=SIZE_PX)
    assert difference(mirrored, same[:, ::-1]) < 1
    assert difference(mirrored, same[::-1]) > 20


def test_what_is_not_a_photo_cannot_be_changed():
    with pytest.raises(PhotoError):
        change_photo(b"no photo", size_px=SIZE_PX)


@pytest.fixture(scope="module")
def photos(make_photo):
    return {
        f"s3://b/{number:02d}.jpg": make_photo(number, size=(96, 128), quality=95) for number in range(12)
    }


@pytest.fixture(scope="module")
def state(photos):
    """Give a model that answers the photos differently, so that some answers change."""
    torch.manual_seed(1)
    model = build_model(3)
    mapping, names = ClassMapping.of_poses([1, 2, 5]), {1: "One", 2: "Two", 5: "Five"}
    weights = model.state_dict()
    weights["fc.bias"] = torch.zeros(3)
    first = ModelState(weights, mapping, names, image_size=SIZE_PX)
    images = np.stack([decode_square(data, size_px=SIZE_PX) for data in photos.values()])
    logits = Network(first, precision="fp32").outputs(torch.from_numpy(images))
    mean, spread = logits.mean(dim=0), logits.std(dim=0)
    weights["fc.weight"], weights["fc.bias"] = weights["fc.weight"] / spread[:, None], -mean / spread
    return ModelState(weights, mapping, names, image_size=SIZE_PX)


def answers_of(photos, groups=()):
    return Answers(tuple(photos), torch.zeros(len(photos), dtype=torch.int64), torch.zeros(1), groups)


def table_of(photos):
    return pa.table({"uri": list(photos), "etag": [f"v{number}" for number in range(len(photos))]})


@pytest.mark.slow
def test_the_shares_are_those_of_predictions_of_the_changed_files(photos, state):
    predictor, etags = Predictor(state, precision="fp32"), {}
    same = {name: [] for name in CHANGES}
    for data in photos.values():
        before = predictor.predict(data, uri="a").pose
        for name, changed in changed_by_hand(data).items():
            same[name].append(predictor.predict(changed, uri="a").pose.name == before.name)

    def read(uri, *, etag):
        etags[uri] = etag
        return photos[uri]

    groups = tuple(f"athlete-{number // 3}" for number in range(12))
    seen = []
    found = measure_behaviour(
        answers_of(photos, groups),
        table_of(photos),
        state,
        precision="fp32",
        read=read,
        on_progress=lambda *counts: seen.append(counts),
    )
    assert (found.num_photos, found.num_unreadable, seen[-1]) == (12, 0, (12, 12))
    assert [item.change for item in found.changes] == list(same)
    for item in found.changes:
        assert item.unchanged == pytest.approx(np.mean(same[item.change])), item.change
        assert item.interval == share_interval(np.array(same[item.change]), np.arange(12) // 3)
    assert found.low == tuple(item for item in found.changes if np.mean(same[item.change]) < 0.95)
    assert found.low
    assert etags == dict(zip(table_of(photos)["uri"].to_pylist(), (f"v{n}" for n in range(12)), strict=True))


@pytest.mark.slow
def test_photos_that_cannot_be_read_again_are_left_out(photos, state):
    def read(uri, *, etag):
        if uri == "s3://b/03.jpg":
            raise NotFoundError("gone")
        return b"no photo" if uri == "s3://b/07.jpg" else photos[uri]

    found = measure_behaviour(answers_of(photos), table_of(photos), state, precision="fp32", read=read)
    assert (found.num_photos, found.num_unreadable) == (10, 2)

    def refuse(uri, *, etag):
        raise NotFoundError("gone")

    nothing = measure_behaviour(answers_of(photos), table_of(photos), state, precision="fp32", read=refuse)
    assert (nothing.num_photos, nothing.num_unreadable, nothing.changes) == (0, 12, ())
    assert json.loads(json.dumps(nothing.to_dict(), allow_nan=False))["changes"] == []
