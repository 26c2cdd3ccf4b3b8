"""The scores of a floor on eight photos that were worked out by hand."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.evaluation.floor_scores import NULL, null_weight, score_floor
from physiq_ray.evaluation.intervals import wilson_interval
from physiq_ray.floor import Floor
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest

# Columns: logits of two poses, and the similarity. Three right answers and a wrong one are above the floor,
# and a right one is below it. Of three photos without a pose, one is above.
OUTPUTS = torch.tensor(
    [
        *([3.0, 0.0, 0.9], [3.0, 0.0, 0.8], [0.0, 2.0, 0.7], [2.0, 0.0, 0.6], [1.0, 0.0, 0.2]),
        *([1.0, 0.0, 0.75], [1.0, 0.0, 0.3], [0.0, 1.0, 0.1]),
    ]
)
LABELS = np.array([0, 0, 1, 1, 0, NULL, NULL, NULL])
STATE = ModelState({}, ClassMapping.of_poses([1, 2]), {}, floor=Floor("distance", 0.5, torch.eye(2)))
ALONE = list("abcdefgh")


def test_precision_coverage_and_refused_photos():
    found = score_floor(OUTPUTS, LABELS, ALONE, STATE)
    assert (found.score, found.threshold, found.num_photos, found.num_null) == ("distance", 0.5, 5, 3)
    assert (found.precision, found.coverage, found.refused) == pytest.approx((3 / 5, 4 / 5, 2 / 3))
    assert found.precision_interval == pytest.approx(wilson_interval(3, 5))
    assert found.coverage_interval == pytest.approx(wilson_interval(4, 5))
    assert found.refused_interval == pytest.approx(wilson_interval(2, 3))
    # 0.75 is above 0.7, 0.6 and 0.2; 0.3 is above 0.2; the other 11 of 15 pairs are in the right order.
    assert found.auroc == pytest.approx(11 / 15)


def test_photos_of_no_pose_count_by_their_weight():
    found = score_floor(OUTPUTS, LABELS, ALONE, STATE, null_weight=0.5)
    assert found.precision == pytest.approx(3 / 4.5)
    # Four photos that count 1 and one that counts 0.5 say as much as 4.5² / 4.25 photos.
    assert found.precision_interval == pytest.approx(wilson_interval(3 / 4.5 * 4.5**2 / 4.25, 4.5**2 / 4.25))
    assert (found.coverage, found.refused) == pytest.approx((4 / 5, 2 / 3))


def test_the_weight_gives_photos_of_no_pose_their_share_among_all_labelled_photos():
    table = pa.Table.from_pylist([{}] * 40, MANIFEST_SCHEMA)
    manifest = Manifest(table, ClassMapping.of_poses([1, 2]), no_pose=table.slice(0, 10))
    # Here, 3 stand against 5, but among all photos 10 against 40: so each counts 5 / 12.
    assert null_weight(manifest, LABELS) == pytest.approx(5 / 12)
    assert null_weight(manifest, LABELS[:5]) == 1.0


def test_groups_widen_the_intervals():
    found = score_floor(OUTPUTS, LABELS, list("aaaabbbb"), STATE)
    assert found.precision == pytest.approx(3 / 5)
    low, high = found.precision_interval
    assert high - low > np.subtract(*wilson_interval(3, 5)[::-1])


def test_without_photos_of_no_pose_nothing_is_said_of_them():
    found = score_floor(OUTPUTS[:5], LABELS[:5], ALONE[:5], STATE)
    assert (found.refused, found.refused_interval, found.auroc, found.num_null) == (None, None, None, 0)
    assert found.precision == pytest.approx(3 / 4)


def test_if_all_photos_are_refused_the_precision_is_0_and_unknown():
    found = score_floor(OUTPUTS[-2:], LABELS[:2], ALONE[:2], STATE)
    assert (found.precision, found.coverage) == (0, 0)
    assert found.precision_interval == (0, 1)
