"""Listings ⋈ labels → one Arrow table of the usable photos, grouped and split.

The input is the sources' listings and the labels. The output is the `Manifest`: one row per usable photo, the
class mapping, and a report that names everything that is not used. Joins are hash look-ups on whole columns.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import Column, first_equal, take_rows
from physiq_ray.constants import SPLITS
from physiq_ray.errors import SettingError, quoted
from physiq_ray.labels import ClassMapping, Labels
from physiq_ray.manifest.alike import HashPhotos, join_alike
from physiq_ray.manifest.findings import (
    find_conflicts,
    find_loose,
    find_problem,
    find_shared,
    find_split_problem,
    find_thin_poses,
    find_undecodable,
    report_sources,
)
from physiq_ray.manifest.fold import NO_POSE, extremes
from physiq_ray.manifest.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.manifest.match import Matches, concat_photos, match_labels
from physiq_ray.manifest.named import known_missing
from physiq_ray.manifest.report import ManifestReport
from physiq_ray.manifest.split import IntArray, hash_groups, join_groups, split_groups, split_off_test
from physiq_ray.storage import Listing

# A group without a name, which Arrow cannot extract; or an escape or a class, which may contain a bracket.
_GROUP = re.compile(r"\\.|\[\^?\]?(?:\[:\w+:\]|\\.|[^\]])*\]|\((?!\?)", re.DOTALL)
_LISTED = ("uri", "bucket", "key", "size", "etag")  # the columns that a manifest takes from the listing


@dataclass(frozen=True)
class _Split:
    """The settings group_pattern, validation_share, test_share and seed."""

    group_pattern: str | None
    validation_share: float
    test_share: float
    seed: int


@dataclass(frozen=True)
class _Divided:
    """The group and the split of each usable photo, and what the report says about the splits.

    representative: int64 (n,), the first row of its group. side: int8 (n,), 1 + the position of its split in
    SPLITS. class_index: int32, null without a pose.
    """

    representative: IntArray
    side: npt.NDArray[np.int8]
    class_index: pa.Array
    thin_poses: tuple[str, ...]
    split_conflicts: tuple[str, ...]


def require_trainable(manifest: Manifest) -> Manifest:
    """Return the manifest.

    Raises DataError or StorageError if its report names a problem.
    """
    if manifest.report.problem is not None:
        raise manifest.report.problem
    return manifest


def match_photos(
    listings: Sequence[Listing],
    labels: Labels,
    poses: Mapping[int, str],
    *,
    source_buckets: Mapping[str, str] | None = None,
    group_pattern: str | None = None,
    validation_share: float = 0.2,
    test_share: float = 0.0,
    seed: int = 42,
    hash_photos: HashPhotos | None = None,
) -> Manifest:
    """Join photos with their labels, group copies, and split every pose.

    A result that cannot be used for training, even an empty table, is a manifest too: its report says what
    was found and names the problem.
    `match_labels` decides which photo a label means. A group (equal size and ETag, equal group in the labels,
    equal match of group_pattern in the key, or near-duplicates by hash_photos) stays in one split. If labels
    of a group give a split, the whole group is in it: in test if any of its labels says test, else in
    validation, else in training. The other photos are split by groups, but a pose that labels put into
    validation or test gets no more photos there.
    Photos of no known pose are grouped together with the others. Those of a group with test photos are in
    test, and test_share of the groups without a pose; all others are in validation, also if the rest of their
    group is in training, because nothing is trained with them.
    The split depends on the seed and on the photos and labels, not on the order of the listings.

    Raises SettingError: RE2 does not accept the group_pattern; and the errors of hash_photos.
    """
    photos = concat_photos(listings)
    matches = match_labels(listings, photos, labels, poses, source_buckets or {})
    rows = _usable_rows(photos, matches)
    pose_id = matches.pose_id.take(pa.array(rows))
    content = _number_contents(photos, rows)
    # If copies of one content have different poses, it is not clear which pose is right.
    lowest, highest = extremes(content, pc.fill_null(pose_id, NO_POSE).to_numpy(), len(rows))
    contradicted = (lowest != highest)[content]
    conflicts = (
        *find_conflicts(photos, matches),
        *(
            f"{quoted(uri)}: a copy of another photo, labelled with another pose"
            for uri in take_rows(photos["uri"], rows[contradicted]).to_pylist()
        ),
    )
    rows, content = rows[~contradicted], content[~contradicted]
    pose_id = pose_id.filter(pa.array(~contradicted))
    has_poses = pose_id.null_count < len(pose_id)
    problem = None if has_poses else find_problem(listings, photos, labels, matches, conflicts)
    missing = known_missing(matches, listings)
    found = {
        "sources": report_sources(listings, photos, matches),
        "undecodable": find_undecodable(photos),
        "loose": find_loose(photos, matches),
        "shared_names": find_shared(matches),
        "labels_without_photo": _names_of(matches, missing & matches.names.is_usable),
        "ambiguous": _names_of(matches, matches.is_ambiguous),
        "num_poseless": int(np.count_nonzero(matches.is_poseless)),
        "num_by_folder": int(np.count_nonzero(matches.is_by_folder)),
    }
    links, splits = _links_of_labels(matches, rows)
    del matches  # a million rows take 80 MB, and the split needs memory too
    alike = None
    if hash_photos is not None and has_poses:
        read = pa.table({name: take_rows(photos[name], rows) for name in ("uri", "size", "etag")})
        code, alike = join_alike(read, content, hash_photos)
        del read
        links.append((np.arange(len(code)), code))
    table = no_pose = MANIFEST_SCHEMA.empty_table()
    thin_poses: tuple[str, ...] = ()
    split_conflicts: tuple[str, ...] = ()
    num_of_content = np.bincount(content)
    copies = np.flatnonzero(num_of_content[content] > 1)
    num_copies = len(content) - int(np.count_nonzero(num_of_content))
    if has_poses:
        how = _Split(group_pattern, validation_share, test_share, seed)
        links.append((copies, content[copies]))
        del content
        divided = _group_and_split(photos, rows, pose_id, links, splits, poses, how)
        is_posed = pose_id.is_valid().to_numpy(zero_copy_only=False)
        table, no_pose = (_to_table(photos, rows, pose_id, divided, mask) for mask in (is_posed, ~is_posed))
        thin_poses, split_conflicts = divided.thin_poses, divided.split_conflicts
    class_mapping = ClassMapping.of_poses(pc.unique(table["pose_id"]).to_pylist())
    report = ManifestReport(
        **found,  # type: ignore[arg-type]  # of several types
        conflicts=conflicts,
        split_conflicts=split_conflicts,
        malformed=labels.malformed,
        unknown_poses=labels.unknown_poses,
        thin_poses=thin_poses,
        poses_without_photo=tuple(
            f"pose {pose_id} {name}"
            for pose_id, name in poses.items()
            if str(pose_id) not in class_mapping.classes
        ),
        alike=alike,
        num_copies=num_copies,
        problem=problem or find_split_problem(table, class_mapping, poses, thin_poses),
    )
    return Manifest(table, class_mapping, report, no_pose)


def _names_of(matches: Matches, mask: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(matches.names.name.filter(pa.array(mask)).to_pylist())


def _usable_rows(photos: pa.Table, matches: Matches) -> IntArray:
    """Return the rows of the photos with a pose or with no known pose, in the order of their URIs."""
    is_used = matches.is_usable | matches.is_poseless
    uris = photos["uri"]
    if pc.all(pc.less_equal(uris.slice(0, max(0, len(uris) - 1)), uris.slice(1))).as_py() is not False:
        return np.flatnonzero(is_used)  # listings are sorted, if their sources are
    order = pc.sort_indices(uris).to_numpy().astype(np.int64)
    in_order: IntArray = order[is_used[order]]
    return in_order


def _number_contents(photos: pa.Table, rows: IntArray) -> IntArray:
    """Assign one number to photos of equal size and ETag; a photo without ETag has a number of its own."""
    etag = take_rows(photos["etag"], rows)
    first = first_equal(etag, take_rows(photos["size"], rows).to_numpy())
    return np.where(pc.equal(etag, "").to_numpy(zero_copy_only=False), np.arange(len(first)), first)


def _links_of_labels(
    matches: Matches, rows: IntArray
) -> tuple[list[tuple[IntArray, IntArray]], npt.NDArray[np.int8]]:
    """Return the groups of the labels as links for `join_groups`, and the splits that labels give.

    rows: the usable photos. The links hold positions in rows. splits: int8 (2, len(rows)), the first and last
    split of each photo as 1 + its position in SPLITS, 0 if no label gives a split.
    """
    names, pairs = matches.names, matches.pairs
    splits = np.zeros((2, len(rows)), np.int8)
    has_split, has_group = names.last_split[pairs.code] > 0, names.group[pairs.code] >= 0
    if not has_split.any() and not has_group.any():
        return [], splits
    place = np.full(len(matches.is_usable), -1, np.int64)
    place[rows] = np.arange(len(rows))
    is_used = place[pairs.photo] >= 0
    given = pairs.filter(is_used & has_split)
    splits[0] = len(SPLITS) + 1
    np.minimum.at(splits[0], place[given.photo], names.first_split[given.code])
    np.maximum.at(splits[1], place[given.photo], names.last_split[given.code])
    splits[0, splits[1] == 0] = 0
    grouped = pairs.filter(is_used & has_group)
    return [(place[grouped.photo], names.group[grouped.code])], splits


def _group_and_split(
    photos: pa.Table,
    rows: IntArray,
    pose_id: pa.Array,
    links: Sequence[tuple[IntArray, IntArray]],
    splits: npt.NDArray[np.int8],
    poses: Mapping[int, str],
    how: _Split,
) -> _Divided:
    is_posed = pose_id.is_valid().to_numpy(zero_copy_only=False)
    if how.group_pattern:
        pattern = _number_matches(take_rows(photos["key"], rows), how.group_pattern)
        links = [*links, (np.flatnonzero(pattern >= 0), pattern[pattern >= 0])]
    representative = join_groups(len(rows), links)
    is_first = representative == np.arange(len(rows))
    group_names = take_rows(photos["uri"], rows[is_first])

    mapping = ClassMapping.of_poses(pc.unique(pose_id.drop_null()).to_pylist())
    index = pc.index_in(pose_id, pa.array(mapping.pose_ids, pa.int32()))  # int32
    class_index = pc.fill_null(index, NO_POSE).to_numpy()
    given, split_conflicts = _given_splits(representative, splits, photos["uri"], rows)
    side = np.where(given == 0, 1, given)
    is_open = (given == 0) & is_posed
    order = np.zeros(len(given), np.uint64)
    if (given == 0).any():
        order = hash_groups(group_names, how.seed)[(np.cumsum(is_first) - 1)[representative]]
    if is_open.any():
        if how.test_share:
            is_test = np.zeros(len(given), bool)
            is_test[is_posed] = split_off_test(
                class_index[is_posed],
                representative[is_posed],
                order[is_posed],
                how.test_share,
                given[is_posed],
            )
            side[is_test], is_open = 3, is_open & ~is_test
        counts = np.array(
            [
                np.bincount(class_index[(given == place) & is_posed], minlength=len(mapping.classes))
                for place in (1, 2)
            ]
        )
        # The test photos are gone already, so validation takes a larger share of the others.
        share = how.validation_share / (1 - how.test_share)
        is_validation = split_groups(
            class_index[is_open], representative[is_open], order[is_open], share, counts
        )
        side[is_open] = np.where(is_validation, 2, 1)
    _split_poseless(side, is_posed, representative, order, how.test_share, given)
    is_given = not is_open[is_posed].all()
    thin = find_thin_poses(mapping, poses, class_index[is_posed], side[is_posed], is_given=is_given)
    return _Divided(representative, side.astype(np.int8), index, thin, split_conflicts)


def _to_table(
    photos: pa.Table, rows: IntArray, pose_id: pa.Array, divided: _Divided, mask: npt.NDArray[np.bool_]
) -> pa.Table:
    """Return some of the rows as a table of MANIFEST_SCHEMA."""
    here, kept = (rows if mask.all() else rows[mask]), pa.array(mask)
    columns = {}
    for name in _LISTED:
        columns[name] = take_rows(photos[name], here)
        pa.default_memory_pool().release_unused()  # a filter leaves twice the memory of its result
    columns["pose_id"] = pose_id.filter(kept)
    columns["class_index"] = divided.class_index.filter(kept)
    columns["group"] = take_rows(photos["uri"], rows[divided.representative[mask]])
    columns["split"] = pa.array(SPLITS, pa.large_string()).take(pa.array(divided.side[mask] - 1))
    return pa.table(columns, schema=MANIFEST_SCHEMA)


def _split_poseless(
    side: IntArray,
    is_posed: npt.NDArray[np.bool_],
    representative: IntArray,
    order: npt.NDArray[np.uint64],
    test_share: float,
    given: IntArray,
) -> None:
    """Set the side of the photos of no known pose: 3 for test, 2 for validation; see `match_photos`."""
    has_test, has_pose = (np.zeros(len(side), bool) for _ in range(2))
    has_test[representative[is_posed & (side == 3)]] = True
    has_pose[representative[is_posed]] = True
    by_group = has_test[representative]
    by_hash = ~has_pose[representative] & (order < test_share * 2.0**64)
    is_test = np.where(given > 0, given == 3, by_group | by_hash)
    side[~is_posed] = np.where(is_test, 3, 2)[~is_posed]


def _given_splits(
    representative: IntArray, splits: npt.NDArray[np.int8], uris: pa.ChunkedArray, rows: IntArray
) -> tuple[IntArray, tuple[str, ...]]:
    """Return the split that labels give to each photo's group (0 for none), and name groups with several."""
    first = np.full(len(representative), len(SPLITS) + 1, np.int64)
    last = np.zeros(len(representative), np.int64)
    has_split = splits[1] > 0
    if not has_split.any():
        return last, ()
    np.minimum.at(first, representative[has_split], splits[0, has_split])
    np.maximum.at(last, representative[has_split], splits[1, has_split])
    differing = np.flatnonzero((last > 0) & (first < last))
    names = take_rows(uris, rows[differing]).to_pylist()
    return last[representative], tuple(
        f"the group of {quoted(name)}: labelled {SPLITS[first[row] - 1]!r} and {SPLITS[last[row] - 1]!r}, "
        f"so all of it is in {SPLITS[last[row] - 1]!r}"
        for row, name in zip(differing, names, strict=True)
    )


def _number_matches(keys: Column, pattern: str) -> IntArray:
    """Assign a number to each match of pattern; -1 without a match."""
    text = pattern_texts(keys, pattern)
    is_found = text.is_valid().to_numpy(zero_copy_only=False)
    return np.where(is_found, first_equal(pc.fill_null(text, "")), -1)


def pattern_texts(keys: Column, pattern: str) -> Column:
    """Give each key's match of pattern: its first group, or the whole match; null without a match.

    Raises SettingError: RE2 does not accept the pattern.
    """
    captured = pattern if re.compile(pattern).groups else f"({pattern})"
    # Arrow extracts named groups only, in half the time of a replacement by the group.
    numbers = itertools.count()
    named = _GROUP.sub(lambda found: f"(?P<_{next(numbers)}>" if found[0] == "(" else found[0], captured)
    try:
        text = pc.struct_field(pc.extract_regex(keys, f"(?s){named}"), [0])
        # An optional group, as in "(athlete-[0-9]+)?", matches everywhere; an empty match says nothing.
        matched = pc.and_(pc.match_substring_regex(keys, captured), pc.not_equal(text, ""))
    except pa.ArrowInvalid as error:
        raise SettingError(f"group_pattern={pattern!r}: not accepted by RE2: {error}") from error
    return pc.if_else(matched, text, None)
