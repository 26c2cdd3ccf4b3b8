"""Where the network looked: equal to Grad-CAM, and at the right place of the upright photo."""

import numpy as np
import pytest
import torch
from models import make_resnet
from PIL import Image
from torch import nn

from physiq_ray.checkpoint import ModelState
from physiq_ray.labels import ClassMapping
from physiq_ray.model import normalise
from physiq_ray.prediction.explanation import COLOURS, Explanation, explain, paint
from physiq_ray.prediction.network import Network
from physiq_ray.sample.photos import encode_jpeg

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backbone():
    return make_resnet(5)


@pytest.fixture(scope="module")
def model(backbone, image):
    """Give the head weights whose maps have both signs: random features are almost the same at each place."""
    with torch.no_grad():
        blocks = nn.Sequential(*list(backbone.children())[:-2])
        mean = blocks(normalise(torch.from_numpy(image)[None])).mean(dim=(0, 2, 3))  # (2048,)
        weight = backbone.fc.weight
        weight -= (weight @ mean / (mean @ mean))[:, None] * mean
    return backbone


@pytest.fixture(scope="module")
def network(model):
    state = ModelState(model.state_dict(), ClassMapping.of_poses([1, 2, 3]), {1: "A", 2: "B", 3: "C"})
    return Network(state, precision="fp32", use_gpu=False)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)


def grad_cam(model, image, class_index):
    """Compute Grad-CAM as Selvaraju et al. 2017 define it, with a gradient; its highest value becomes 1."""
    kept = []
    hook = model.layer4.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    logits = model(normalise(torch.from_numpy(image)[None]))
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, class_index], kept[0])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    cam = torch.relu((weights * kept[0]).sum(dim=1))[0].detach()
    return (cam / cam.max()).numpy()


@pytest.mark.parametrize("class_index", [0, 1, 2])
def test_an_explanation_is_grad_cam_by_the_gradient(model, network, image, class_index):
    found = explain(network, image, class_index)

    expected = grad_cam(model, image, class_index)
    assert expected.shape == (3, 3)
    assert 0 < (expected == 0).sum() < 9  # both signs
    np.testing.assert_allclose(found.cells, expected, atol=1e-4)
    assert found.size_px == 96


def test_the_mean_of_a_map_and_the_bias_are_the_logit(model, network, image):
    images = torch.from_numpy(np.stack([image, image[::-1].copy()]))

    maps = network.class_maps(images)

    assert maps.shape == (2, 3, 3, 3)
    bias = model.state_dict()["fc.bias"]
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + bias, network.outputs(images), rtol=1e-3, atol=1e-4)


def bright(make_square, size, place, orientation):
    """Draw a white square on a black photo and store it; place: its centre as shares of width and height."""
    width, height = size
    half = (width * 16 // 224, height * 16 // 224)
    photo = Image.new("RGB", size)
    x, y = round(place[0] * width), round(place[1] * height)
    photo.paste((255, 255, 255), (x - half[0], y - half[1], x + half[0], y + half[1]))
    return make_square(photo, orientation=orientation, quality=95)


@pytest.mark.parametrize("cell", [(0, 0), (5, 2), (3, 6), (6, 6)])
@pytest.mark.parametrize(
    ("size", "orientation"),
    [((360, 640), 1), ((640, 360), 1), ((360, 640), 6), ((640, 360), 8), ((360, 640), 3), ((360, 640), 7)],
)
def test_the_maximum_lies_on_the_bright_square_of_the_upright_photo(
    brightness_predictor, cell, size, orientation
):
    column, row = cell
    x, y = (32 * column + 0.5) / 224, (32 * row + 0.5) / 224
    data = bright(encode_jpeg, size, (x, y), orientation)

    found = brightness_predictor.explain(data, 1)

    assert found.cells.shape == (7, 7)
    assert np.unravel_index(found.cells.argmax(), (7, 7)) == (row, column)
    assert (found.cells > 0.2).sum() == 1
    stretched = found.stretch(size[1], size[0])
    assert stretched.shape == (size[1], size[0])
    top, left = (axis.mean() for axis in np.nonzero(stretched > 0.9))
    assert found.cells[row, column] == 1
    if column < 6:  # to the right of the last cell's centre, its value goes on to the border
        assert left == pytest.approx(x * size[0], abs=5 if column else 8)
    if row < 6:
        assert top == pytest.approx(y * size[1], abs=5 if row else 8)


def test_a_pose_that_no_place_speaks_for_has_no_bright_place(brightness_predictor):
    found = brightness_predictor.explain(bright(encode_jpeg, (64, 64), (0.5, 0.5), 1), 2)

    assert found.cells.tolist() == [[0.0] * 7] * 7


def test_a_network_whose_output_is_not_a_number_has_no_bright_place(model, image):
    weights = model.state_dict() | {"fc.weight": torch.full((3, 2048), 3e38)}
    state = ModelState(weights, ClassMapping.of_poses([1, 2, 3]), {1: "A", 2: "B", 3: "C"})

    assert (
        explain(Network(state, precision="fp32", use_gpu=False), image, 0).cells.tolist() == [[0.0] * 3] * 3
    )


def test_cells_are_stretched_linearly_between_every_32nd_pixel():
    stretched = Explanation(np.array([[0.0, 1.0], [0.5, 0.0]]), 64).stretch(64, 64)

    assert stretched[0, [0, 8, 16, 32, 63]].tolist() == [0, 0.25, 0.5, 1, 1]
    assert stretched[[0, 8, 16, 32, 63], 0].tolist() == [0, 0.125, 0.25, 0.5, 0.5]
    assert stretched[16, 16] == pytest.approx((0 + 1 + 0.5 + 0) / 4)


def test_a_photo_is_painted_grey_and_brighter_where_the_network_looked():
    shares = np.linspace(0, 1, 7)[None]  # (1, 7): from left to right
    photo = np.full((40, 224, 3), (200, 100, 0), np.uint8)

    painted = paint(photo, Explanation(shares, 224)).astype(int)

    assert painted.shape == (40, 224, 3)
    assert (painted == painted[:1]).all()
    lightness = painted[0] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness[:193]) > -1).all()  # seen without colours
    assert lightness[192] > lightness[0] + 100
    assert painted[0, 0].tolist() == [40, 40, 42]  # 0.4 of the grey 100, and 0.6 of the darkest colour
    assert COLOURS == "inferno"
