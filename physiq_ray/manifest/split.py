"""Join photos to groups, and choose the groups for validation: functions of arrays.

Arrays have one entry per photo. The only Python loop over groups runs over those that hold several classes
(an athlete, a session); everything else is computed by column.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def join_groups(num_rows: int, links: Sequence[tuple[IntArray, IntArray]]) -> IntArray:
    """Return for each row the first row of its group; groups that share a row are joined.

    links: pairs of arrays: rows, and the number of the content, athlete, … to which each belongs.
    This computes connected components. In each round, rows of one number take the lowest row among them, and
    so do the rows that represented them before; then each row takes the representative of its representative.
    So a chain of links takes about the logarithm of its length in rounds.
    """
    representative = np.arange(num_rows)
    while True:
        before = representative
        for rows, number in links:
            lowest = np.full(number.max(initial=-1) + 1, num_rows)
            np.minimum.at(lowest, number, representative[rows])
            heads = representative[rows]
            representative = representative.copy()
            np.minimum.at(representative, rows, lowest[number])
            np.minimum.at(representative, heads, lowest[number])
        representative = representative[representative]
        if np.array_equal(before, representative):
            return representative


def hash_groups(group: pa.Array | pa.ChunkedArray, seed: int) -> npt.NDArray[np.uint64]:
    """Give the order in which groups are taken: a hash of each name, keyed by the seed.

    It is not a shuffle, so new photos change little of the split. group: string (photos,).
    """
    names, place = _distinct(group)
    hashes: npt.NDArray[np.uint64] = pd.util.hash_array(names, hash_key=f"{seed:016d}", categorize=False)
    return hashes[place]


def number_groups(group: pa.Array | pa.ChunkedArray) -> IntArray:
    """Give the number of each photo's group, from 0: int64 (photos,). group: string (photos,)."""
    return _distinct(group)[1]


def _distinct(group: pa.Array | pa.ChunkedArray) -> tuple[npt.NDArray[np.object_], IntArray]:
    """Give the distinct names, and the place of each photo's name among them."""
    joined = group.combine_chunks() if isinstance(group, pa.ChunkedArray) else group
    encoded = joined.dictionary_encode()
    names = encoded.dictionary.to_numpy(zero_copy_only=False)
    return names, encoded.indices.to_numpy().astype(np.int64)


def split_groups(
    class_index: IntArray,
    group: IntArray,
    order: npt.NDArray[np.uint64],
    validation_share: float,
    given: IntArray | None = None,
) -> BoolArray:
    """Choose whole groups for validation so that each class comes nearest to its share.

    class_index, group, order: one entry per photo; order is the hash of the group, in whose order groups are
    taken. given: int64 (2, num_classes), the photos of other groups that labels put into training and into
    validation; a class with photos in validation gets no more.

    A class with two groups or more gets a photo in both splits. This may be impossible if groups hold several
    classes; and in rare cases a solution is not found, because groups are moved one by one and never
    exchanged. A class with one group leaves training only for that purpose, because the model cannot be
    measured on a pose that it never saw.

    Returns bool (photos,), true for validation.
    """
    num_classes = given.shape[1] if given is not None else int(class_index.max()) + 1
    given_training, given_validation = given if given is not None else np.zeros((2, num_classes), np.int64)
    group_ids, first_row, member = np.unique(group, return_index=True, return_inverse=True)
    pairs, pair_counts = np.unique(member * num_classes + class_index, return_counts=True)
    pair_group, pair_class = pairs // num_classes, pairs % num_classes
    classes_in_group = np.bincount(pair_group, minlength=len(group_ids))
    is_closed = given_validation > 0
    # The groups of each class; all those given to training count as one. The last must not leave training.
    groups_of_class = np.bincount(pair_class, minlength=num_classes) + (given_training > 0)
    total = np.bincount(class_index, minlength=num_classes) + given_training
    target = np.where(is_closed, 0.0, validation_share * total)
    rank = order[first_row]
    chosen = np.zeros(len(group_ids), dtype=bool)
    taken = np.zeros(num_classes)
    left = given_training.astype(float)  # photos in training: given ones, and those of mixed groups

    mixed = np.flatnonzero(classes_in_group > 1)
    mixed = mixed[np.argsort(rank[mixed], kind="stable")]
    starts = np.searchsorted(pair_group, np.arange(len(group_ids) + 1))

    def classes_of(g: int) -> tuple[IntArray, IntArray]:
        return pair_class[starts[g] : starts[g + 1]], pair_counts[starts[g] : starts[g + 1]]

    must_stay = (groups_of_class == 1) | is_closed
    for g in mixed.tolist():
        classes, counts = classes_of(g)
        fits = np.all(taken[classes] + counts / 2 <= target[classes])
        chosen[g] = fits and not np.any(must_stay[classes])
        (taken if chosen[g] else left)[classes] += counts

    pure = classes_in_group[pair_group] == 1
    for c in range(num_classes):
        of_class = np.flatnonzero(pure & (pair_class == c))
        of_class = of_class[np.argsort(rank[pair_group[of_class]], kind="stable")]
        reached = taken[c] + np.concatenate([[0], np.cumsum(pair_counts[of_class])])
        num_chosen = int(np.argmin(np.abs(reached - target[c])))
        if is_closed[c] or groups_of_class[c] == 1:
            num_chosen = 0
        elif len(of_class):
            at_least = 0 if taken[c] else 1
            at_most = len(of_class) - (0 if left[c] else 1)
            num_chosen = min(max(num_chosen, at_least), max(at_least, at_most))
        chosen[pair_group[of_class[:num_chosen]]] = True
        taken[c] = reached[num_chosen]

    # Classes may miss photos because each of their groups also holds a class with enough. Move such a group
    # if its classes together come nearer to their targets.
    for g in mixed[~chosen[mixed]].tolist():
        classes, counts = classes_of(g)
        before = np.abs(taken[classes] - target[classes]).sum()
        after = np.abs(taken[classes] + counts - target[classes]).sum()
        if after < before and not np.any(must_stay[classes]):
            chosen[g] = True
            taken[classes] += counts

    if len(mixed):
        _repair(
            chosen, pair_group, pair_class, pair_counts, groups_of_class, is_closed, given_training > 0, rank
        )
    validation: BoolArray = chosen[member]
    return validation


def split_off_test(
    class_index: IntArray,
    group: IntArray,
    order: npt.NDArray[np.uint64],
    test_share: float,
    given: IntArray,
) -> BoolArray:
    """Choose whole groups for the test, before the others are split into training and validation.

    class_index, group, order: as in `split_groups`. given: int64 (photos,), 0 if no label gives the split of
    the photo, else 1 for training, 2 for validation, 3 for test. A class with fewer than three groups gets no
    test photo, because training and validation need one each.
    Returns bool (photos,), true for photos of the test that no label put there.
    """
    num_classes = int(class_index.max()) + 1
    pairs = np.unique(group * num_classes + class_index)
    is_scarce = np.bincount(pairs % num_classes, minlength=num_classes) < 3
    is_bound = (given > 0) | np.isin(group, group[is_scarce[class_index]])
    counts = np.array(
        [
            np.bincount(class_index[rows], minlength=num_classes)
            for rows in (is_bound & (given != 3), given == 3)
        ]
    )
    is_test = np.zeros(len(class_index), dtype=bool)
    if not is_bound.all():
        free = ~is_bound
        is_test[free] = split_groups(class_index[free], group[free], order[free], test_share, counts)
    return is_test


def _repair(
    chosen: BoolArray,
    pair_group: IntArray,
    pair_class: IntArray,
    pair_counts: IntArray,
    groups_of_class: IntArray,
    is_closed: BoolArray,
    is_in_training: BoolArray,
    rank: npt.NDArray[np.uint64],
) -> None:
    """Move groups so that each class with several groups is in both splits, if that is possible.

    is_closed: classes that get no more photos for validation. is_in_training: classes of which labels put
    photos into training.
    """
    num_classes = len(groups_of_class)
    for side in (True, False):  # validation first: a class without validation photos is not measured
        for c in np.flatnonzero((groups_of_class > 1) & ~is_closed):
            on_side = chosen[pair_group] == side
            here = np.bincount(pair_class[on_side], minlength=num_classes)  # groups per class in this split
            there = np.bincount(pair_class[~on_side], minlength=num_classes)
            (there if side else here)[is_in_training] += 1
            if here[c]:
                continue
            candidates = pair_group[pair_class == c]
            weights = np.bincount(pair_group, weights=pair_counts)
            for g in sorted(candidates, key=lambda g: (weights[g], rank[g])):
                others = pair_class[pair_group == g]
                if side and np.any(is_closed[others]):
                    continue
                if np.all((there[others] > 1) | (groups_of_class[others] == 1)):
                    chosen[g] = side
                    break
