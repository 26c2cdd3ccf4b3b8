import torch

from physiq_ray.training.augment import STRENGTHS, augment


def test_the_same_generator_gives_the_same_changes():
    images = torch.rand(4, 3, 32, 24)
    first = augment(images, STRENGTHS["light"], torch.Generator().manual_seed(3))
    assert torch.equal(first, augment(images, STRENGTHS["light"], torch.Generator().manual_seed(3)))
    assert not torch.equal(first, augment(images, STRENGTHS["light"], torch.Generator().manual_seed(4)))


def test_shape_type_and_memory_layout_stay():
    images = torch.rand(2, 3, 16, 16).to(memory_format=torch.channels_last)
    changed = augment(images, STRENGTHS["light"], torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.is_contiguous(memory_format=torch.channels_last)


def test_about_half_the_photos_are_mirrored():
    images = torch.zeros(400, 3, 16, 16)
    images[:, :, :, 8:] = 1.0  # bright on the right
    changed = augment(images, STRENGTHS["light"], torch.Generator().manual_seed(1))
    bright_left = (changed[:, :, :, :8].mean(dim=(1, 2, 3)) > changed[:, :, :, 8:].mean(dim=(1, 2, 3))).sum()
    assert 150 < int(bright_left) < 250


def test_a_figure_stays_in_the_frame():
    images = torch.zeros(100, 3, 32, 32)
    images[:, :, 12:20, 12:20] = 1.0
    changed = augment(images, STRENGTHS["light"], torch.Generator().manual_seed(2))
    contrast = changed.amax(dim=(1, 2, 3)) - changed.amin(dim=(1, 2, 3))
    assert (contrast > 0.6).all()
