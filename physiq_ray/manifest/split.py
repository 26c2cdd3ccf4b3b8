"""Which photos belong together, and which groups are for validation: functions of arrays.

One entry a photo everywhere. The one Python loop runs over groups that hold several classes (an athlete,
a session); all else is by column.
"""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def join_groups(content: IntArray, pattern_groups: IntArray | None) -> IntArray:
    """Give each row the first row of its group, where groups that share a row are one.

    Rows that share a content or a pattern match take the lowest row number among them, over and over
    until nothing changes: connected components, in as many rounds as the longest chain of links.
    """
    representative = np.arange(len(content))
    relations = [content]
    if pattern_groups is not None:
        lone = pattern_groups < 0
        own = pattern_groups.max(initial=-1) + 1 + np.arange(len(content))
        relations.append(np.where(lone, own, pattern_groups))
    while True:
        before = representative
        for relation in relations:
            lowest = np.full(relation.max() + 1, len(content))
            np.minimum.at(lowest, relation, representative)
            representative = lowest[relation]
        if np.array_equal(before, representative):
            return representative


def split_groups(
    class_index: IntArray, group: IntArray, order: npt.NDArray[np.uint64], validation_share: float
) -> BoolArray:
    """Choose whole groups for validation so that each class comes nearest to its share.

    class_index, group, order: one entry a photo; groups are taken in the order of their hash. A class
    with two groups or more gets a photo on both sides. Where groups hold several classes that may not be
    possible, and as they are moved one by one and never exchanged, it is in rare cases not found; a class
    of one group leaves training only for that: a pose never seen cannot be measured.
    Returns bool (photos,), true for validation.
    """
    num_classes = int(class_index.max()) + 1
    group_ids, first_row, member = np.unique(group, return_index=True, return_inverse=True)
    pairs, pair_counts = np.unique(member * num_classes + class_index, return_counts=True)
    pair_group, pair_class = pairs // num_classes, pairs % num_classes
    classes_in_group = np.bincount(pair_group, minlength=len(group_ids))
    groups_of_class = np.bincount(pair_class, minlength=num_classes)
    total = np.bincount(class_index, minlength=num_classes)
    target = validation_share * total
    rank = order[first_row]
    chosen = np.zeros(len(group_ids), dtype=bool)
    taken = np.zeros(num_classes)
    left = np.zeros(num_classes)  # what groups of several classes leave in training

    mixed = np.flatnonzero(classes_in_group > 1)
    if len(mixed):
        starts = np.searchsorted(pair_group, np.arange(len(group_ids) + 1))
        counts_of = {int(g): slice(starts[g], starts[g + 1]) for g in mixed}
        for g in mixed[np.argsort(rank[mixed], kind="stable")]:
            part = counts_of[int(g)]
            classes, counts = pair_class[part], pair_counts[part]
            before = np.abs(taken[classes] - target[classes]).sum()
            after = np.abs(taken[classes] + counts - target[classes]).sum()
            chosen[g] = after < before and not np.any(groups_of_class[classes] == 1)
            (taken if chosen[g] else left)[classes] += counts

    pure = classes_in_group[pair_group] == 1
    for c in range(num_classes):
        of_class = np.flatnonzero(pure & (pair_class == c))
        of_class = of_class[np.argsort(rank[pair_group[of_class]], kind="stable")]
        reached = taken[c] + np.concatenate([[0], np.cumsum(pair_counts[of_class])])
        num_chosen = int(np.argmin(np.abs(reached - target[c])))
        if groups_of_class[c] > 1 and len(of_class):
            at_least = 0 if taken[c] else 1
            at_most = len(of_class) - (0 if left[c] else 1)
            num_chosen = min(max(num_chosen, at_least), max(at_least, at_most))
        elif groups_of_class[c] == 1:
            num_chosen = 0
        chosen[pair_group[of_class[:num_chosen]]] = True

    if len(mixed):
        _repair(chosen, pair_group, pair_class, pair_counts, groups_of_class, rank)
    validation: BoolArray = chosen[member]
    return validation


def _repair(
    chosen: BoolArray,
    pair_group: IntArray,
    pair_class: IntArray,
    pair_counts: IntArray,
    groups_of_class: IntArray,
    rank: npt.NDArray[np.uint64],
) -> None:
    """Move groups so that no class with several groups is wholly on one side, where that can be had."""
    num_classes = len(groups_of_class)
    for side in (True, False):  # validation first: a class without validation goes unmeasured
        for c in np.flatnonzero(groups_of_class > 1):
            on_side = chosen[pair_group] == side
            here = np.bincount(pair_class[on_side], minlength=num_classes)  # groups per class on this side
            if here[c]:
                continue
            there = np.bincount(pair_class[~on_side], minlength=num_classes)
            candidates = pair_group[pair_class == c]
            weights = np.bincount(pair_group, weights=pair_counts)
            for g in sorted(candidates, key=lambda g: (weights[g], rank[g])):
                others = pair_class[pair_group == g]
                if np.all((there[others] > 1) | (groups_of_class[others] == 1)):
                    chosen[g] = side
                    break
