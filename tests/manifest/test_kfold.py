import numpy as np
import pytest
from building import POSES, build_manifest, column_by_key, labels_with_groups, list_bucket
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.errors import DataError, SettingError
from physiq_ray.manifest import Manifest, divide
from physiq_ray.manifest.kfold import assign_folds


def make_manifest(athletes, poses=(1, 2, 7), photos=2):
    """Build a manifest in which each athlete shows each pose in some photos, named pose-athlete-number."""
    records = [
        (f"{pose}-{athlete}-{number}.jpg", pose, f"athlete {athlete}")
        for athlete in range(athletes)
        for pose in poses
        for number in range(photos)
    ]
    listing = list_bucket("checkins", *(key for key, *_ in records))
    return build_manifest([listing], labels_with_groups(*records), POSES)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(2, 6),
    st.integers(0, 2**32),
)
def test_a_group_is_in_one_fold_whatever_its_poses(photos, num_folds, seed):
    class_index, group = np.array(photos, np.int64).T
    order = np.random.default_rng(seed).permutation(10).astype(np.uint64)[group]
    fold_of = assign_folds(class_index, group, order, num_folds)
    assert fold_of.min() >= 0
    assert fold_of.max() < num_folds
    for each in np.unique(group):
        assert len(np.unique(fold_of[group == each])) == 1


@given(st.lists(st.integers(5, 30), min_size=1, max_size=5), st.integers(2, 5), st.integers(0, 2**32))
def test_each_pose_is_spread_evenly_over_the_folds(num_photos, num_folds, seed):
    class_index = np.repeat(np.arange(len(num_photos)), num_photos)
    group = np.arange(len(class_index))  # each photo is a group of its own
    order = np.random.default_rng(seed).permutation(len(group)).astype(np.uint64)
    fold_of = assign_folds(class_index, group, order, num_folds)
    for pose, total in enumerate(num_photos):
        counts = np.bincount(fold_of[class_index == pose], minlength=num_folds)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == total


def test_each_photo_is_held_out_once_and_the_others_are_divided_by_groups():
    manifest = make_manifest(10)
    folds = divide(manifest, 5, validation_share=0.25, seed=3)
    assert [fold.name for fold in folds] == [f"fold-{number}-of-5" for number in range(1, 6)]
    held_out = [uri for fold in folds for uri in fold.held_out["uri"].to_pylist()]
    assert sorted(held_out) == manifest.table["uri"].to_pylist()
    for fold in folds:
        groups = {name: set(fold.others.split(name)["group"].to_pylist()) for name in ("train", "validation")}
        groups["held out"] = set(fold.held_out["group"].to_pylist())
        assert {name: len(found) for name, found in groups.items()} == {
            "train": 6,
            "validation": 2,
            "held out": 2,
        }
        assert len(set.union(*groups.values())) == 10
        assert fold.others.table.num_rows + fold.held_out.num_rows == 60
        read = Manifest.from_parquet(fold.others.to_parquet(), name="a training reads it")
        assert read.table.equals(fold.others.table)


def test_the_splits_of_the_manifest_do_not_count_and_the_seed_does():
    manifest = make_manifest(10)
    again, other = (divide(manifest, 5, validation_share=0.2, seed=seed) for seed in (3, 4))
    first = divide(make_manifest(10), 5, validation_share=0.2, seed=3)
    assert [fold.held_out["uri"].to_pylist() for fold in first] == [
        fold.held_out["uri"].to_pylist() for fold in again
    ]
    assert first[0].held_out["uri"].to_pylist() != other[0].held_out["uri"].to_pylist()
    assert set(first[0].held_out["split"].to_pylist()) | set(first[4].held_out["split"].to_pylist()) == {
        "train",
        "validation",
    }


def test_a_pose_that_only_the_fold_shows_is_missing_in_the_others():
    records = [(f"{pose}-{number}.jpg", pose, None) for pose in (1, 7) for number in range(8)]
    records += [(f"2-{number}.jpg", 2, "alone") for number in range(3)]
    listing = list_bucket("checkins", *(key for key, *_ in records))
    manifest = build_manifest([listing], labels_with_groups(*records), POSES)
    folds = divide(manifest, 4, validation_share=0.25, seed=3)
    holds_two = [2 in fold.held_out["pose_id"].to_pylist() for fold in folds]
    assert holds_two.count(True) == 1
    others = folds[holds_two.index(True)].others
    assert others.class_mapping.classes == ("1", "7")
    assert {key[0]: index for key, index in column_by_key(others, "class_index").items()} == {"1": 0, "7": 1}


@pytest.mark.parametrize(
    ("num_folds", "message"),
    [
        (1, r"^folds=1: expected at least 2$"),
        (
            5,
            r"^folds=5: the photos are in 4 groups, and a group is never divided; give at most --folds 4, or",
        ),
    ],
)
def test_a_number_of_folds_that_the_photos_do_not_allow_is_refused(num_folds, message):
    with pytest.raises(SettingError, match=message):
        divide(make_manifest(4), num_folds, validation_share=0.2, seed=3)


def test_too_few_groups_to_validate_with_are_an_error_before_any_training():
    with pytest.raises(
        DataError, match=r"^fold 1 of 2: the other folds have too few poses or groups to train"
    ):
        divide(make_manifest(2), 2, validation_share=0.2, seed=3)
