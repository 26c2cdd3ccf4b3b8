"""Which label means which photo: hash look-ups on whole columns.

A label matches on the last part of a key, and on the bucket too where its source is mapped to one; in a
folder source, a sub-folder named after a pose id is a label as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.labels import Labels
from physiq_ray.storage import LISTING_SCHEMA, Folder, Listing, parse_source


@dataclass(frozen=True)
class Matches:
    """For each listed photo: its pose (null where none or contradictory), and which of these it is."""

    pose_id: pa.Array
    is_labelled: pa.Array
    is_known: pa.Array  # named by some label, even a contradictory one or one that cannot be used
    is_unusable: pa.Array  # named by labels that cannot be used, and by no other
    is_conflict: pa.Array
    labels_without_photo: tuple[str, ...]


@dataclass(frozen=True)
class NamedPhotos:
    """What the labels say of one listing's photos, in the order of its rows.

    is_labelled: some label means this photo, be it one of a null pose, one that cannot be used or one that
    contradicts another, and also each object of a comparison that is not unique. resembles: for a photo that
    no label means, the name of a label without a photo that it resembles; null otherwise. num_labels: labels
    that concern this listing: those that mean a photo in it, and those without a photo that name its bucket
    or no bucket. unmatched: the names of the latter.
    """

    is_labelled: pa.BooleanArray
    resembles: pa.StringArray
    num_labels: int
    unmatched: tuple[str, ...]


def find_labelled(
    listings: Sequence[Listing],
    labels: Labels,
    poses: Mapping[int, str],
    source_buckets: Mapping[str, str],
) -> tuple[NamedPhotos | None, ...]:
    """Find the photos of each listing that some label means, and the labels that mean none.

    One answer a listing, in the order of the listings; None for a source that could not be listed.
    """
    tables = [listing.table for listing in listings if listing.table is not None]
    photos = pa.concat_tables([LISTING_SCHEMA.empty_table(), *tables])
    matches = match_labels(listings, photos, labels, folder_poses(listings, poses), source_buckets)
    answers: list[NamedPhotos | None] = []
    start = 0
    for listing in listings:
        if listing.table is None:
            answers.append(None)
            continue
        rows = listing.table.num_rows
        is_labelled = matches.is_known.slice(start, rows)
        unmatched = matches.labels_without_photo
        num_labels = pc.sum(is_labelled).as_py() or 0
        answers.append(
            NamedPhotos(is_labelled, pa.nulls(rows, pa.string()), num_labels + len(unmatched), unmatched)
        )
        start += rows
    return tuple(answers)


def match_labels(
    listings: Sequence[Listing],
    photos: pa.Table,
    labels: Labels,
    folder_pose: pa.Array,
    source_buckets: Mapping[str, str],
) -> Matches:
    """Look every photo of the listings up among the labels; photos and folder_pose are in one order."""
    names_of_sources = {listing.source.name for listing in listings}
    buckets = {source: _bucket_name(text, names_of_sources) for source, text in source_buckets.items()}
    by_key = _labels_by_key(labels, buckets)
    keys = by_key["key"].combine_chunks()
    names = photo_names(photos["key"])
    # A label of an unmapped source is filed under the empty bucket.
    bucket_keys, bare_keys = _label_keys(photos["bucket"], names), _label_keys(pa.scalar(""), names)
    in_bucket, anywhere = pc.index_in(bucket_keys, keys), pc.index_in(bare_keys, keys)
    unusable_keys = _label_keys(_label_buckets(labels.unusable, buckets), labels.unusable["name"])

    def pose(index: pa.Array, bound: str) -> pa.Array:
        return by_key[bound].combine_chunks().take(index)

    lowest = pc.min_element_wise(pose(in_bucket, "lowest"), pose(anywhere, "lowest"), folder_pose)
    highest = pc.max_element_wise(pose(in_bucket, "highest"), pose(anywhere, "highest"), folder_pose)
    has_pose = pc.is_valid(lowest)
    is_named = pc.or_(pc.is_in(bucket_keys, unusable_keys), pc.is_in(bare_keys, unusable_keys))
    is_labelled = pc.fill_null(pc.equal(lowest, highest), False)
    missing = np.ones(len(keys), dtype=bool)
    for index in (in_bucket, anywhere):
        missing[index.drop_null().to_numpy()] = False
    # A photo of a source that could not be listed may well be there: its labels are not called missing.
    if failed := [listing.source.name for listing in listings if listing.table is None]:
        unseen = pc.is_in(by_key["bucket"], pa.array(["", *failed]))
        missing &= ~unseen.to_numpy()
    return Matches(
        pose_id=pc.if_else(is_labelled, lowest, None),
        is_labelled=is_labelled,
        is_known=pc.or_(has_pose, is_named),
        is_unusable=pc.and_not(is_named, has_pose),
        is_conflict=pc.and_not(has_pose, is_labelled),
        labels_without_photo=tuple(by_key["name"].filter(pa.array(missing)).to_pylist()),
    )


def _labels_by_key(labels: Labels, source_buckets: Mapping[str, str]) -> pa.Table:
    """Fold the labels of one file: key of bucket and name, both, lowest and highest pose named for it.

    A label whose source is not mapped has the empty bucket.
    """
    table = labels.table.combine_chunks()
    scope = _label_buckets(table, source_buckets)
    names, pose_ids = table["name"].combine_chunks(), table["pose_id"].to_numpy()
    encoded = _label_keys(scope, names).dictionary_encode()
    code = encoded.indices.to_numpy()
    lowest, highest = extremes(code, pose_ids)
    one_row = np.empty(len(lowest), np.int64)
    one_row[code] = np.arange(len(code))  # all rows of a key have its bucket and name
    return pa.table(
        {
            "key": encoded.dictionary,
            "bucket": scope.take(pa.array(one_row)),
            "name": names.take(pa.array(one_row)),
            "lowest": pa.array(lowest, pa.int32()),
            "highest": pa.array(highest, pa.int32()),
        }
    )


def _label_buckets(labels: pa.Table, source_buckets: Mapping[str, str]) -> pa.Array:
    """Give the bucket that each label's source is mapped to, empty where it is not."""
    sources = pa.array(list(source_buckets), pa.string())
    buckets = pa.array(list(source_buckets.values()), pa.string())
    return pc.fill_null(buckets.take(pc.index_in(labels["source"].combine_chunks(), sources)), "")


def extremes(code: npt.NDArray[Any], values: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], ...]:
    """Give the lowest and highest value of each code 0 … n-1, in a third of a group_by's memory."""
    num_codes = int(code.max(initial=-1)) + 1
    lowest = np.full(num_codes, np.iinfo(np.int32).max, np.int32)
    highest = np.full(num_codes, -1, np.int32)
    np.minimum.at(lowest, code, values)
    np.maximum.at(highest, code, values)
    return lowest, highest


def _bucket_name(text: str, names_of_sources: set[str]) -> str:
    """Give the `bucket` column's form of what a user maps a source to: a bucket, s3://bucket or a path."""
    name = parse_source(text).name
    return name if "/" in text or (text not in names_of_sources and name in names_of_sources) else text


def _label_keys(bucket: Any, name: pa.Array | pa.ChunkedArray) -> pa.Array:
    keys = pc.binary_join_element_wise(bucket, name, "\n")
    return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys


def photo_names(keys: pa.ChunkedArray) -> pa.Array:
    """Give the last part of each key in Unicode NFC: `labels.photo_name`, by column."""
    names = pc.utf8_normalize(pc.replace_substring_regex(keys, r"(?s)^.*/", ""), form="NFC")
    return names.combine_chunks()


def folder_poses(listings: Sequence[Listing], poses: Mapping[int, str]) -> pa.Array:
    """Give the pose that a photo's own folder names, null in buckets and elsewhere."""
    known = pa.array([str(pose_id) for pose_id in poses], pa.string())
    pose_ids = pa.array(list(poses), pa.int32())
    chunks = []
    for listing in listings:
        if listing.table is None:
            continue
        if isinstance(listing.source, Folder):
            first = pc.replace_substring_regex(listing.table["key"], r"(?s)/.*$", "")
            index = pc.index_in(first.combine_chunks(), known)
            chunks.append(pose_ids.take(index))
        else:
            chunks.append(pa.nulls(listing.table.num_rows, pa.int32()))
    return pa.concat_arrays([pa.nulls(0, pa.int32()), *chunks])
