"""Which groups are for validation, by number."""

import numpy as np

from physiq_ray.manifest import split_groups


def test_classes_that_share_groups_all_come_near_their_share():
    rng = np.random.default_rng(0)
    classes, groups = [], []
    for group in range(3000):  # 1 to 7 of 8 classes each, 10 to 29 photos of a class
        first = rng.integers(0, 8)
        for step in range(rng.integers(1, 8)):
            num_photos = rng.integers(10, 30)
            classes += [(first + step) % 8] * num_photos
            groups += [group] * num_photos
    order = rng.permutation(3000).astype(np.uint64)[groups]
    is_validation = split_groups(np.array(classes), np.array(groups), order, 0.2)
    shares = np.bincount(classes, weights=is_validation) / np.bincount(classes)
    # Half a group, 15 photos, is 0.0007 of a class: choosing by the sum alone left 0.209 of one.
    assert np.abs(shares - 0.2).max() < 0.001
