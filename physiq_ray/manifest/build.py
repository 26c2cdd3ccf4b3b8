"""Listings ⋈ labels → one Arrow table of the usable photos, grouped and split.

The input is the sources' listings and the labels. The output is the `Manifest`: one row per usable photo, the
class mapping, and a report that names everything that is not used. Joins are hash look-ups on whole columns.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.constants import SPLITS, TEST, TRAIN, VALIDATION
from physiq_ray.errors import DataError, PhysiqError, SettingError, StorageError, quoted
from physiq_ray.labels import ClassMapping, Labels
from physiq_ray.manifest.alike import HashPhotos, join_alike
from physiq_ray.manifest.findings import (
    find_conflicts,
    find_loose,
    find_shared,
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


@dataclass(frozen=True)
class _Split:
    """The settings group_pattern, validation_share, test_share and seed."""

    group_pattern: str | None
    validation_share: float
    test_share: float
    seed: int


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
    labelled = photos.drop_columns(["modified"]).take(pa.array(rows))
    labelled = labelled.append_column("pose_id", matches.pose_id.take(pa.array(rows)))
    content = _content_codes(labelled)
    # If copies of one content have different poses, it is not clear which pose is right.
    pose_ids = pc.fill_null(labelled["pose_id"], NO_POSE).to_numpy()
    lowest, highest = extremes(content, pose_ids, int(content.max(initial=-1)) + 1)
    contradicted = (lowest != highest)[content]
    conflicts = (
        *find_conflicts(photos, matches),
        *(
            f"{quoted(uri)}: a copy of another photo, labelled with another pose"
            for uri in labelled["uri"].filter(pa.array(contradicted)).to_pylist()
        ),
    )
    usable = labelled.filter(pa.array(~contradicted)) if contradicted.any() else labelled
    rows, content = rows[~contradicted], content[~contradicted]
    has_poses = usable["pose_id"].null_count < usable.num_rows
    problem = None if has_poses else _find_problem(listings, photos, labels, matches, conflicts)
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
    del photos, labelled, matches  # a million rows take 200 MB, and the split needs memory too
    alike = None
    if hash_photos is not None and has_poses:
        code, alike = join_alike(usable, content, hash_photos)
        links.append((np.arange(len(code)), code))
    every, thin_poses, split_conflicts = _grouped_and_split(
        usable, content, links, splits, poses, _Split(group_pattern, validation_share, test_share, seed)
    )
    table = every.filter(every["pose_id"].is_valid())
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
        num_copies=len(content) - int(np.count_nonzero(np.bincount(content))),
        problem=problem or _find_split_problem(table, class_mapping, poses, thin_poses),
    )
    return Manifest(table, class_mapping, report, every.filter(every["pose_id"].is_null()))


def _names_of(matches: Matches, mask: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(matches.names.name.filter(pa.array(mask)).to_pylist())


def _find_problem(
    listings: Sequence[Listing],
    photos: pa.Table,
    labels: Labels,
    matches: Matches,
    conflicts: Sequence[str],
) -> PhysiqError:
    """Return the error that says why no photo can be used."""
    listed = [str(listing.source) for listing in listings if listing.table is not None]
    errors = [str(listing.error) for listing in listings if listing.error is not None]
    if not listed:
        return StorageError(f"none of the {len(listings)} sources could be listed: {'; '.join(errors)}")
    not_listed = "".join(f"; {error}" for error in errors)
    if photos.num_rows == 0:
        return DataError(f"no photos in {', '.join(listed)}; check bucket and prefix{not_listed}")
    num_known = int(np.count_nonzero(matches.is_known))
    if num_known:
        reasons = [
            f"{count} {what}"
            for count, what in (
                (len(conflicts), "with conflicting labels"),
                (int(np.count_nonzero(matches.is_poseless)), "of no known pose"),
                (int(np.count_nonzero(matches.is_unusable)), "with labels that cannot be used"),
            )
            if count
        ]
        all_conflict = len(conflicts) == num_known
        return DataError(
            f"{'all labels conflict' if all_conflict else 'no labelled photo can be used'}: of "
            f"{photos.num_rows} photos {num_known} are labelled, {', '.join(reasons)}; correct the labels"
            f"{f', the first is {conflicts[0]}' if conflicts else ''}{not_listed}"
        )
    example = quoted(labels.table["name"][0].as_py()) if labels.table.num_rows else "'(no usable label)'"
    return DataError(
        f"no label matches a photo: {photos.num_rows} photos, {labels.table.num_rows} usable labels, "
        f"{len(conflicts)} conflicts; labels are matched on the file name, for example a photo "
        f"{quoted(photos['key'][0].as_py())} and a label {example}; "
        f"check labels, sources and source_buckets{not_listed}"
    )


def _find_split_problem(
    table: pa.Table, mapping: ClassMapping, poses: Mapping[int, str], thin_poses: Sequence[str]
) -> PhysiqError | None:
    """Return the error that says why the usable photos are not enough, or None."""
    if len(mapping.classes) < 2:
        only = mapping.pose_ids[0]
        return DataError(
            f"only one pose ({only} {poses.get(only, '')}) has labelled photos; at least two are needed"
        )
    if len({TRAIN, VALIDATION} & set(pc.unique(table["split"]).to_pylist())) < 2:
        return DataError("no photos for training or for validation: " + "; ".join(thin_poses))
    return None


def _usable_rows(photos: pa.Table, matches: Matches) -> IntArray:
    """Return the rows of the photos with a pose or with no known pose, in the order of their URIs."""
    rows = np.flatnonzero(matches.is_usable | matches.is_poseless)
    uris = photos["uri"].take(pa.array(rows)).combine_chunks()
    in_order: IntArray = rows[pc.array_sort_indices(uris).to_numpy()]
    return in_order


def _content_codes(table: pa.Table) -> IntArray:
    """Assign one number to photos of equal size and ETag; a photo without ETag has a number of its own."""
    etag, size = _codes(table["etag"]), _codes(table["size"])
    content = _codes(pa.chunked_array([etag * (int(size.max(initial=0)) + 1) + size]))
    alone = pc.equal(table["etag"], "").to_numpy()
    return np.where(alone, len(content) + np.arange(len(content)), content)


def _codes(column: pa.ChunkedArray) -> IntArray:
    """Assign equal numbers to equal values, by sorting: a hash table of a million strings takes 300 MiB."""
    values = column.combine_chunks()
    order = pc.array_sort_indices(values)
    values = values.take(order)
    is_new = pc.not_equal(values.slice(1), values.slice(0, max(0, len(values) - 1))).to_numpy(False)
    codes = np.zeros(len(order), np.int64)
    codes[order.to_numpy()] = np.concatenate([np.zeros(min(1, len(order)), np.int64), np.cumsum(is_new)])
    return codes


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


def _grouped_and_split(
    usable: pa.Table,
    content: IntArray,
    links: Sequence[tuple[IntArray, IntArray]],
    splits: npt.NDArray[np.int8],
    poses: Mapping[int, str],
    how: _Split,
) -> tuple[pa.Table, tuple[str, ...], tuple[str, ...]]:
    is_posed = usable["pose_id"].is_valid().to_numpy()
    if not is_posed.any():
        return MANIFEST_SCHEMA.empty_table(), (), ()
    links = [(np.arange(len(content)), content), *links]
    if how.group_pattern:
        pattern = _pattern_codes(usable["key"], how.group_pattern)
        links.append((np.flatnonzero(pattern >= 0), pattern[pattern >= 0]))
    representative = join_groups(len(content), links)
    group = usable["uri"].combine_chunks().take(pa.array(representative))

    mapping = ClassMapping.of_poses(pc.unique(usable["pose_id"].drop_null()).to_pylist())
    index = pc.index_in(usable["pose_id"], pa.array(mapping.pose_ids, pa.int32()))
    class_index = pc.fill_null(index, NO_POSE).to_numpy()
    given, split_conflicts = _given_splits(representative, splits, group)
    side = np.where(given == 0, 1, given)
    is_open = (given == 0) & is_posed
    order = hash_groups(group, how.seed) if (given == 0).any() else np.zeros(len(given), np.uint64)
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
    columns = {
        **{name: usable[name] for name in ("uri", "bucket", "key", "size", "etag", "pose_id")},
        "class_index": index.cast(pa.int32()),
        "group": group,
        "split": pa.array(SPLITS, pa.string()).take(pa.array(side - 1)),
    }
    is_given = not is_open[is_posed].all()
    thin = _thin_poses(mapping, poses, class_index[is_posed], side[is_posed], is_given=is_given)
    return pa.table(columns, schema=MANIFEST_SCHEMA), thin, split_conflicts


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
    representative: IntArray, splits: npt.NDArray[np.int8], group: pa.Array
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
    return last[representative], tuple(
        f"the group of {quoted(group[int(row)].as_py())}: labelled {SPLITS[first[row] - 1]!r} and "
        f"{SPLITS[last[row] - 1]!r}, so all of it is in {SPLITS[last[row] - 1]!r}"
        for row in differing
    )


def _thin_poses(
    mapping: ClassMapping, poses: Mapping[int, str], class_index: IntArray, side: IntArray, *, is_given: bool
) -> tuple[str, ...]:
    """Name the poses without a photo for training or for validation."""
    thin = []
    for index, pose_id in enumerate(mapping.pose_ids):
        name = f"pose {pose_id} {poses.get(pose_id, '')}".rstrip()
        train, validation, test = np.bincount(side[class_index == index] - 1, minlength=len(SPLITS)).tolist()
        if train == 0 and (test or is_given):
            thin.append(f"{name}: all its photos are for {VALIDATION} or {TEST}; label some to train on")
        elif train == 0:
            thin.append(f"{name}: all its photos are in validation groups; label more or use smaller groups")
        elif validation == 0:
            where = "" if is_given else " in one group"
            thin.append(
                f"{name}: {train} photo(s){where}, all in training; "
                "no validation photo measures it: label more"
            )
    return tuple(thin)


def _pattern_codes(keys: pa.ChunkedArray, pattern: str) -> IntArray:
    """Assign a number to each match of pattern; -1 without a match."""
    text = pattern_texts(keys, pattern)
    return np.where(text.is_valid().to_numpy(), _codes(pc.fill_null(text, "")), -1)


def pattern_texts(keys: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    """Give each key's match of pattern: its first group, or the whole match; null without a match.

    Raises SettingError: RE2 does not accept the pattern.
    """
    captured = pattern if re.compile(pattern).groups else f"({pattern})"
    try:
        text = pc.replace_substring_regex(keys, rf"(?s)^.*?(?:{captured}).*$", r"\1")
        # An optional group, as in "(athlete-[0-9]+)?", matches everywhere; an empty match says nothing.
        matched = pc.and_(pc.match_substring_regex(keys, captured), pc.not_equal(text, ""))
    except pa.ArrowInvalid as error:
        raise SettingError(f"group_pattern={pattern!r}: not accepted by RE2: {error}") from error
    return pc.if_else(matched, text, None)
