import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from physiq_ray.config import Settings
from physiq_ray.labels import load_configured_poses
from physiq_ray.model import normalise
from physiq_ray.sample import Athlete, draw_photo
from physiq_ray.sample.skeletons import POSE_IDS
from physiq_ray.training.augment import ERASED_SIDE, STRENGTHS, augment, make_change, mix, shrink

SIDE = 64
NUM_CLASSES = len(POSE_IDS)
NO_MOVE = {"turn": 0.0, "shift": 0.0, "zoom": (1.0, 1.0)}
NO_LIGHT = {"contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "brightness": 0.0}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def figures():
    """Give one athlete in the eight poses, before the same backdrop: uint8 (8, SIDE, SIDE, 3)."""
    athlete = Athlete.random(np.random.default_rng(1))
    drawn = [draw_photo(pose_id, athlete, np.random.default_rng(5), (SIDE, SIDE)) for pose_id in POSE_IDS]
    return torch.from_numpy(np.stack([np.asarray(photo) for photo in drawn]))


@pytest.fixture(scope="module")
def labels():
    return torch.arange(NUM_CLASSES)


@pytest.fixture
def change():
    """Give a function that makes the change of a rank's batches in a step."""

    def make(*, epoch=1, rank=0, step=0, **settings):
        values = {"image_size": SIDE, "augment": "none", **settings}
        return make_change(Settings.model_validate(values), NUM_CLASSES, epoch=epoch, rank=rank, step=step)

    return make


def find_moves(strength, num_photos, seed):
    """Give the affine maps (num_photos, 2, 3) from places in the changed photos to places in the originals.

    Places are in halves of the side from the centre. The maps do not depend on the size of the photos.
    """
    place = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    y, x = torch.meshgrid(place, place, indexing="ij")
    positions = torch.stack([x, y, torch.zeros_like(x)]).repeat(num_photos, 1, 1, 1)
    only_moving = dataclasses.replace(strength, **NO_LIGHT, erased=0.0)
    moved = augment(positions, only_moving, seeded(seed))[:, :2, 1:3, 1:3]  # the edge would be repeated
    across, down = moved[..., 1] - moved[..., 0], moved[:, :, 1] - moved[:, :, 0]
    return torch.stack([across.mean(dim=2) / 0.5, down.mean(dim=2) / 0.5, moved.mean(dim=(2, 3))], dim=2)


def test_the_same_generator_gives_the_same_changes():
    images = torch.rand(4, 3, 32, 24)
    first = augment(images, STRENGTHS["light"], seeded(3))
    assert torch.equal(first, augment(images, STRENGTHS["light"], seeded(3)))
    assert not torch.equal(first, augment(images, STRENGTHS["light"], seeded(4)))


def test_shape_type_and_memory_layout_stay():
    images = torch.rand(2, 3, 16, 16).to(memory_format=torch.channels_last)
    changed = augment(images, STRENGTHS["light"], seeded(0))
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.is_contiguous(memory_format=torch.channels_last)


def test_about_half_the_photos_are_mirrored():
    images = torch.zeros(400, 3, 16, 16)
    images[:, :, :, 8:] = 1.0  # bright on the right
    changed = augment(images, STRENGTHS["light"], seeded(1))
    bright_left = (changed[:, :, :, :8].mean(dim=(1, 2, 3)) > changed[:, :, :, 8:].mean(dim=(1, 2, 3))).sum()
    assert 150 < int(bright_left) < 250


def test_no_pose_has_a_left_and_a_right_form_that_mirroring_would_swap():
    words = {word for name in load_configured_poses(Settings()).values() for word in name.lower().split()}
    assert not words & {"left", "right"}


def test_a_figure_stays_in_the_frame():
    images = torch.zeros(100, 3, 32, 32)
    images[:, :, 12:20, 12:20] = 1.0
    changed = augment(images, STRENGTHS["light"], seeded(2))
    contrast = changed.amax(dim=(1, 2, 3)) - changed.amin(dim=(1, 2, 3))
    assert (contrast > 0.6).all()


@pytest.mark.parametrize("name", STRENGTHS)
def test_turn_shift_and_zoom_fill_the_range_of_the_strength_and_never_leave_it(name):
    strength = STRENGTHS[name]
    maps = find_moves(strength, 300, seed=5)
    linear, shifts = maps[:, :, :2], maps[:, :, 2] / 2  # shares of the side
    is_mirrored = torch.linalg.det(linear) < 0
    linear[is_mirrored, :, 0] *= -1
    turns, zooms = torch.atan2(linear[:, 1, 0], linear[:, 0, 0]), torch.linalg.det(linear).rsqrt()
    cos, sin = torch.cos(turns) / zooms, torch.sin(turns) / zooms
    turned = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    torch.testing.assert_close(linear, turned, rtol=0, atol=1e-4)  # nothing is sheared or stretched
    for values, low, high in (
        (turns, -strength.turn, strength.turn),
        (zooms, *strength.zoom),
        (shifts, -strength.shift, strength.shift),
    ):
        margin = 0.05 * (high - low)
        assert low - 1e-3 < float(values.min()) < low + margin
        assert high - margin < float(values.max()) < high + 1e-3


@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("change", ["contrast", "saturation", "brightness"])
def test_each_change_of_light_fills_the_range_of_the_strength_and_never_leaves_it(figures, name, change):
    alone = {**NO_LIGHT, change: getattr(STRENGTHS[name], change)}
    strength = dataclasses.replace(STRENGTHS[name], **NO_MOVE, **alone, erased=0.0)
    before = shrink(normalise(figures[:1]), 16).repeat(100, 1, 1, 1)
    after = augment(before, strength, seeded(6))
    measure = {  # equal for a photo and its mirror image
        "contrast": lambda images: images.std(dim=(1, 2, 3)),
        "saturation": lambda images: (images - images.mean(dim=1, keepdim=True)).std(dim=(1, 2, 3)),
        "brightness": lambda images: images.mean(dim=(1, 2, 3)),
    }[change]
    if change == "brightness":
        values, (low, high) = measure(after) - measure(before), (-strength.brightness, strength.brightness)
    else:
        values, (low, high) = measure(after) / measure(before), alone[change]
    margin = 0.05 * (high - low)
    assert low - 1e-3 < float(values.min()) < low + margin
    assert high - margin < float(values.max()) < high + 1e-3


def test_a_strongly_changed_figure_is_its_own_photo_moved_and_no_other_pose(figures):
    originals = shrink(normalise(figures), 32)
    strength = dataclasses.replace(STRENGTHS["strong"], erased=0.0)
    changed = augment(originals.repeat(4, 1, 1, 1), strength, seeded(7))
    maps = find_moves(strength, len(changed), seed=7)
    for row, (photo, place) in enumerate(zip(changed, maps, strict=True)):
        grid = functional.affine_grid(
            place.repeat(NUM_CLASSES, 1, 1), list(originals.shape), align_corners=False
        )
        candidates = functional.grid_sample(originals, grid, padding_mode="border", align_corners=False)
        greys = torch.cat([photo[None], candidates]).mean(dim=1).flatten(1)  # colours change, shapes do not
        likeness = torch.corrcoef(greys)[0, 1:]
        assert int(likeness.argmax()) == row % NUM_CLASSES
        assert float(likeness.max()) > 0.999


def test_most_of_a_strongly_changed_figure_is_in_the_frame(figures):
    # Of the same backdrop, only the figures differ between the photos.
    is_figure = (figures.float().std(dim=0).mean(dim=-1) > 8).float()
    assert 0.1 < float(is_figure.mean()) < 0.6
    images = is_figure.repeat(100, 1, 1, 1)
    maps = find_moves(STRENGTHS["strong"], 100, seed=8)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    seen = functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)[:, 0]
    areas = seen.sum(dim=(1, 2)) * torch.linalg.det(maps[:, :, :2]).abs() / is_figure.sum()
    assert float(areas.min()) > 0.7
    assert float(areas.mean()) > 0.9


def test_strong_erases_rectangles_of_a_quarter_of_the_photos():
    strength, side = dataclasses.replace(STRENGTHS["strong"], **NO_MOVE, **NO_LIGHT), 32
    changed = augment(torch.ones(400, 3, side, side), strength, seeded(9))
    is_erased = changed == 0
    assert torch.equal(is_erased.any(dim=1), is_erased.all(dim=1))  # in all channels
    torch.testing.assert_close(changed[~is_erased], torch.ones(int((~is_erased).sum())))
    is_erased = is_erased[:, 0]
    num_erased = int(is_erased.any(dim=(1, 2)).sum())
    assert 75 < num_erased < 125  # 100 ± 3 standard deviations
    sides = []
    for photo in is_erased[is_erased.any(dim=(1, 2))]:
        rows, columns = photo.any(dim=1), photo.any(dim=0)
        assert torch.equal(photo, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            places = line.nonzero()[:, 0].tolist()
            assert places == list(range(places[0], places[-1] + 1))
            if places[0] > 0 and places[-1] < side - 1:  # otherwise the edge of the photo cuts it
                sides.append(len(places) / side)
            assert len(places) <= ERASED_SIDE[1] * side + 1
    assert ERASED_SIDE[0] - 1 / side <= min(sides) < ERASED_SIDE[0] + 0.05
    assert ERASED_SIDE[1] - 0.05 < max(sides) <= ERASED_SIDE[1] + 1 / side


def test_light_erases_nothing():
    changed = augment(torch.ones(400, 3, 16, 16), STRENGTHS["light"], seeded(9))
    torch.testing.assert_close(changed, changed[:, :1, :1, :1].expand_as(changed))


def test_mixing_gives_each_photo_its_share_and_the_rest_to_its_neighbour(figures, labels):
    images, targets = normalise(figures), functional.one_hot(labels, NUM_CLASSES).float()
    mixed, soft = mix(images, targets, 0.7)
    for row in range(NUM_CLASSES):
        torch.testing.assert_close(mixed[row], 0.7 * images[row] + 0.3 * images[row - 1])
        torch.testing.assert_close(soft[row], 0.7 * targets[row] + 0.3 * targets[row - 1])


@pytest.mark.parametrize("mixup", [0.2, 1.0, 5.0])
def test_mixup_keeps_at_least_half_for_the_photo_s_own_label(change, figures, labels, mixup):
    plain, _ = change()(figures, labels)
    mixed = change(mixup=mixup)
    shares = []
    for _ in range(5):
        inputs, targets = mixed(figures, labels)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(NUM_CLASSES))
        assert targets.argmax(dim=1).tolist() == labels.tolist()
        own = targets[labels, labels]
        assert len(own.unique()) == 1
        shares.append(float(own[0]))
        # Photos and labels are mixed by the same share.
        torch.testing.assert_close(inputs, plain.lerp(plain.roll(1, 0), 1 - shares[-1]))
    assert all(0.5 <= share <= 1 for share in shares)
    assert len(set(shares)) == 5


@pytest.mark.parametrize("size_px", [24, 50])
def test_shrinking_is_an_antialiased_resize(figures, size_px):
    images = figures.float().permute(0, 3, 1, 2)
    small = shrink(images, size_px)
    assert small.shape == (NUM_CLASSES, 3, size_px, size_px)
    for photo, channel in itertools.product(range(2), range(3)):
        expected = Image.fromarray(images[photo, channel].numpy()).resize(
            (size_px, size_px), Image.Resampling.BILINEAR
        )
        torch.testing.assert_close(
            small[photo, channel], torch.from_numpy(np.array(expected)), rtol=0, atol=1e-2
        )


def test_images_of_the_right_size_are_not_resized(figures):
    images = normalise(figures)
    assert shrink(images, SIDE) is images


def test_without_augmentation_a_batch_is_only_normalised(change, figures, labels):
    inputs, targets = change()(figures, labels)
    assert torch.equal(inputs, normalise(figures))
    assert targets is labels


@pytest.mark.parametrize("name", STRENGTHS)
def test_the_setting_chooses_the_strength(change, figures, labels, name):
    inputs, targets = change(augment=name)(figures, labels)
    assert targets is labels
    seed = np.random.SeedSequence((Settings().seed, 1, 0)).generate_state(1)[0]
    torch.testing.assert_close(inputs, augment(normalise(figures), STRENGTHS[name], seeded(int(seed))))


def test_a_strength_that_is_not_known_is_an_error_and_no_training_without_augmentation():
    settings = Settings().model_copy(update={"augment": "wild"})
    with pytest.raises(KeyError, match="wild"):
        make_change(settings, NUM_CLASSES, epoch=1, rank=0, step=0)


def test_each_epoch_has_images_of_its_train_size(change, figures, labels):
    growing = {"train_sizes": (64, 96), "image_size": 96, "epochs": 4}
    images = figures.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    sizes = [change(epoch=epoch, **growing)(images, labels)[0].shape[-2:] for epoch in (1, 2, 3, 4)]
    assert sizes == [(64, 64), (64, 64), (96, 96), (96, 96)]
    first, _ = change(**growing)(images, labels)
    torch.testing.assert_close(first, shrink(normalise(images), 64))


@pytest.mark.parametrize("other", [{"seed": 8}, {"epoch": 3}, {"rank": 1}, {"step": 5}])
@pytest.mark.parametrize("random", [{"augment": "strong"}, {"mixup": 1.0}])
def test_the_changes_depend_on_seed_epoch_rank_and_step_alone(change, figures, labels, random, other):
    start = {"seed": 7, "epoch": 2, **random}
    first, again, different = (change(**{**start, **values}) for values in ({}, {}, other))
    batches = [first(figures, labels) for _ in range(2)]
    for inputs, targets in batches:
        repeated = again(figures, labels)
        assert torch.equal(repeated[0], inputs)
        assert torch.equal(repeated[1], targets)
    assert not torch.equal(batches[0][0], batches[1][0])
    assert not torch.equal(different(figures, labels)[0], batches[0][0])
