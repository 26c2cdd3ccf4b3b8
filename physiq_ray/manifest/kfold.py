"""Divide the photos of a manifest into K folds, so that each photo is held out of one training.

A group is never in two folds, and the poses are spread over the folds as evenly as the groups allow. The
photos of the other folds are a manifest to train on. It has validation photos of its own, so that the photos
of the fold choose neither the epoch nor the temperature of the model that predicts them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.constants import TRAIN, VALIDATION
from physiq_ray.errors import DataError, SettingError
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest.manifest import Manifest
from physiq_ray.manifest.split import IntArray, hash_groups, number_groups, split_groups

LEAST_FOLDS = 2


@dataclass(frozen=True)
class Fold:
    """One fold of several.

    number: 1 … num_folds. held_out: the photos of the fold, as rows of the manifest. others: the photos of
    the other folds, divided into training and validation.
    """

    number: int
    num_folds: int
    held_out: pa.Table
    others: Manifest

    @property
    def name(self) -> str:
        """The name of the fold's run and files."""
        return f"fold-{self.number}-of-{self.num_folds}"


def divide(manifest: Manifest, num_folds: int, *, validation_share: float, seed: int) -> tuple[Fold, ...]:
    """Divide the photos into folds; the splits of the manifest do not count.

    validation_share: of the photos of the other folds. The folds depend on the seed and on the photos, not
    on their order.
    Raises SettingError: fewer than two folds, or more than groups. DataError: the photos of the other folds
    cannot be trained on.
    """
    if num_folds < LEAST_FOLDS:
        raise SettingError(f"folds={num_folds}: expected at least {LEAST_FOLDS}")
    table = manifest.table
    group, order = number_groups(table["group"]), hash_groups(table["group"], seed)
    if num_folds > (num_groups := len(np.unique(group))):
        raise SettingError(
            f"folds={num_folds}: the photos are in {num_groups} groups, and a group is never divided; give "
            f"at most --folds {num_groups}, or use smaller groups"
        )
    class_index = table["class_index"].to_numpy().astype(np.int64)
    fold_of = assign_folds(class_index, group, order, num_folds)
    folds = []
    for number in range(num_folds):
        rest = np.flatnonzero(fold_of != number)
        if len(rest) == len(fold_of):  # large groups of several poses may leave a fold empty
            continue
        others = _split(table.take(pa.array(rest)), group[rest], order[rest], validation_share)
        if len(others.class_mapping.classes) < 2 or not others.split(VALIDATION).num_rows:
            raise DataError(
                f"fold {number + 1} of {num_folds}: the other folds have too few poses or groups to train "
                "and to validate a model; use fewer folds or smaller groups, or label more photos"
            )
        held_out = table.filter(pa.array(fold_of == number))
        folds.append(Fold(number + 1, num_folds, held_out, others))
    return tuple(folds)


def assign_folds(
    class_index: IntArray, group: IntArray, order: npt.NDArray[np.uint64], num_folds: int
) -> IntArray:
    """Give the fold of each photo, 0 … num_folds - 1: int64 (photos,).

    class_index, group, order: as in `split_groups`, which chooses each fold from the photos that are left. A
    pose with at least num_folds groups gets photos in each fold, except in its rare cases.
    """
    fold_of = np.full(len(group), num_folds - 1)
    left = np.arange(len(group))
    for number in range(num_folds - 1):
        is_chosen = split_groups(class_index[left], group[left], order[left], 1 / (num_folds - number))
        fold_of[left[is_chosen]] = number
        left = left[~is_chosen]
    return fold_of


def _split(
    table: pa.Table, group: IntArray, order: npt.NDArray[np.uint64], validation_share: float
) -> Manifest:
    mapping = ClassMapping.of_poses(pc.unique(table["pose_id"]).to_pylist())
    class_index = pc.index_in(table["pose_id"], pa.array(mapping.pose_ids, pa.int32()))
    is_validation = split_groups(class_index.to_numpy().astype(np.int64), group, order, validation_share)
    for name, column in (
        ("class_index", class_index),
        ("split", pa.array(np.where(is_validation, VALIDATION, TRAIN), pa.large_string())),
    ):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return Manifest(table, mapping)
