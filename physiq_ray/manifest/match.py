"""Decide which photos each label means, for training, audit, sync and cleanse.

1. Bucket: only the bucket to which the label's source is mapped, or which `s3://bucket/key` names, is
   searched; without such a bucket, all are searched.
2. Exact name: a bare name means each photo whose key has it as the last part. A name with a folder means the
   photo with that key, or with that key below its source's prefix; never another one of the same file name.
3. Plain form (see `names`): a label that names no photo exactly means the only photo with its plain form. For
   a URL or an absolute path, this is the photo whose key is the longest trailing part of it. If several
   photos fit, the label is ambiguous, and all of them are in conflict. A photo that some label names exactly
   is not claimed by other spellings; one with an equal pose only confirms it.
4. Folder: a folder directly below the source whose name is a pose id labels the photos in it.

`_judge` combines the labels of each photo to the five masks of `Matches`. `cleanse` deletes only photos whose
last column is yes, and only if they also have an ETag, are old enough, have a format that can be read here,
and are in a bucket that is not refused (cleanse/plan.py).

| labels of the photo           | is_usable | is_known | is_unusable | is_conflict | is_poseless | deletable |
|-------------------------------|-----------|----------|-------------|-------------|-------------|-----------|
| one label                     | yes       | yes      | no          | no          | no          | no        |
| several that agree            | yes       | yes      | no          | no          | no          | no        |
| several that differ           | no        | yes      | no          | yes         | no          | no        |
| poseId null                   | no        | yes      | no          | no          | yes         | no        |
| poseId null and a pose        | no        | yes      | no          | yes         | no          | no        |
| only unusable labels          | no        | yes      | yes         | no          | no          | no        |
| usable and unusable labels    | yes       | yes      | no          | no          | no          | no        |
| possibly an ambiguous label   | no        | yes      | no          | yes         | no          | no        |
| only its folder's name        | yes       | yes      | no          | no          | no          | no        |
| a label unlike its folder     | no        | yes      | no          | yes         | no          | no        |
| none, like an unmatched label | no        | no       | no          | no          | no          | no        |
| none                          | no        | no       | no          | no          | no          | yes       |

An unusable label is a malformed record whose name can be read, or a label of an unknown pose. A photo is like
an unmatched label if `find_resembling` says so. Copies of equal content with different poses are usable here,
but `match_photos` reports them as conflicts and does not use them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import take_rows
from physiq_ray.labels import Labels
from physiq_ray.manifest.exact import Pairs, find_exact, spans
from physiq_ray.manifest.fold import NO_POSE, LabelNames, extremes, fold_labels
from physiq_ray.manifest.loose import Likeness, compare_loosely
from physiq_ray.manifest.split import BoolArray, IntArray
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Listing


@dataclass(frozen=True)
class Matches:
    """The verdict on each listed photo, and the result for each name.

    One entry per photo, in the order of the listings (see the truth table of this module):
    pose_id: null if the photo has no pose, or its labels conflict.
    is_usable: it has a pose.
    is_known: some label means it, even an unusable or contradictory one.
    is_unusable: only unusable labels mean it.
    is_conflict: its labels differ, or an ambiguous label may mean it.
    is_poseless: a person looked and saw no known pose.
    is_by_folder: only its folder gives its pose.
    alike_code: the ambiguous name that may mean it, -1 for none.

    One entry per name, in the order of `names`:
    scope: the bucket in which it is searched, empty for all.
    is_missing: it means no photo.
    is_loose: it means a photo in plain form only.
    is_ambiguous: it may mean several photos, and names none of them exactly.

    pairs: names and the photos that they mean.
    likeness: the comparison of names that name no photo exactly, None if there are none. It keeps only the
    plain forms of missing names and of photos that no name means.
    """

    pose_id: pa.Array
    is_usable: BoolArray
    is_known: BoolArray
    is_unusable: BoolArray
    is_conflict: BoolArray
    is_poseless: BoolArray
    is_by_folder: BoolArray
    alike_code: IntArray
    names: LabelNames
    scope: pa.Array
    pairs: Pairs
    is_missing: BoolArray
    is_loose: BoolArray
    is_ambiguous: BoolArray
    likeness: Likeness | None


def concat_photos(listings: Sequence[Listing]) -> pa.Table:
    """Concatenate the photos of all listings without copying them."""
    tables = [listing.table for listing in listings if listing.table is not None]
    return pa.concat_tables([LISTING_SCHEMA.empty_table(), *tables])


def match_labels(
    listings: Sequence[Listing],
    photos: pa.Table,
    labels: Labels,
    poses: Mapping[int, str],
    source_buckets: Mapping[str, str],
) -> Matches:
    """Find the photos that each label means. photos: the result of `concat_photos` for the listings."""
    names = fold_labels(labels, source_buckets, {listing.source.name for listing in listings})
    found, unclear = find_exact(names, listings, photos)
    is_ambiguous, is_loose = np.zeros(len(names), bool), np.zeros(len(names), bool)
    is_ambiguous[unclear] = True
    exact = found.filter(~is_ambiguous[found.code])
    alike = [found.filter(is_ambiguous[found.code])]
    is_missing = ~is_ambiguous
    is_missing[exact.code] = False
    is_taken = np.zeros(photos.num_rows, bool)
    is_taken[exact.photo] = True
    pairs, likeness = exact, None
    if is_missing.any() and photos.num_rows:
        likeness = compare_loosely(names, np.flatnonzero(is_missing), listings, photos)
        alike.append(likeness.alike)
        is_ambiguous[likeness.codes[likeness.is_ambiguous]] = True
        loose = _find_claims(names, likeness, exact, is_taken)
        is_loose[loose.code] = True
        is_missing &= ~(is_ambiguous | is_loose)
        pairs = Pairs.join([exact, loose.filter(~is_taken[loose.photo])])
    maybe = Pairs.join(alike)
    alike_code = np.full(photos.num_rows, -1, np.int64)
    alike_code[maybe.photo] = maybe.code
    alike_code[is_taken] = -1
    scope = names.scope if likeness is None else _scopes_read(names, likeness)
    verdict = _judge(names, pairs, alike_code, *_folder_poses(listings, poses))
    if likeness is not None:
        likeness = likeness.of_open(is_missing, verdict["is_known"])
    return Matches(
        **verdict,
        alike_code=alike_code,
        names=names,
        scope=scope,
        pairs=pairs,
        is_missing=is_missing,
        is_loose=is_loose,
        is_ambiguous=is_ambiguous,
        likeness=likeness,
    )


def _scopes_read(names: LabelNames, likeness: Likeness) -> pa.Array:
    """Return the bucket of each name, including those read from a URL."""
    named = np.flatnonzero(pc.is_valid(likeness.labels.bucket).to_numpy(zero_copy_only=False))
    place = np.full(len(names), -1, np.int64)
    place[likeness.codes[likeness.labels.row[named]]] = named
    return pc.coalesce(likeness.labels.bucket.take(pa.array(place, mask=place < 0)), names.scope)


def _find_claims(names: LabelNames, likeness: Likeness, exact: Pairs, is_taken: BoolArray) -> Pairs:
    """Return the names that are like exactly one photo, with this photo.

    If other labels name the photo exactly, only names that do not contradict them are returned. So another
    spelling of a labelled photo is not an unmatched label.
    """
    one = np.flatnonzero(likeness.photo >= 0)
    code, photo = likeness.codes[one], likeness.photo[one]
    lowest, highest = _poses_of(names, exact, len(is_taken))
    agrees = (names.lowest[code] == lowest[photo]) & (names.highest[code] == highest[photo])
    kept = ~is_taken[photo] | ~names.is_usable[code] | (agrees & (lowest[photo] == highest[photo]))
    return Pairs(code[kept], photo[kept])


def _poses_of(names: LabelNames, pairs: Pairs, num_photos: int) -> tuple[npt.NDArray[np.int32], ...]:
    lowest, highest = extremes(np.empty(0, np.int64), np.empty(0, np.int32), num_photos)
    usable = pairs.filter(names.is_usable[pairs.code])
    np.minimum.at(lowest, usable.photo, names.lowest[usable.code])
    np.maximum.at(highest, usable.photo, names.highest[usable.code])
    return lowest, highest


def _judge(
    names: LabelNames,
    pairs: Pairs,
    alike_code: IntArray,
    by_folder: IntArray,
    folder_pose: npt.NDArray[np.int32],
) -> dict[str, Any]:
    """Combine labels and folder of each photo. by_folder: the photos whose folder gives the folder_pose."""
    lowest, highest = _poses_of(names, pairs, len(alike_code))
    is_labelled = lowest <= highest
    lowest[by_folder] = np.minimum(lowest[by_folder], folder_pose)
    highest[by_folder] = np.maximum(highest[by_folder], folder_pose)
    is_by_folder = np.zeros(len(alike_code), bool)
    is_by_folder[by_folder] = ~is_labelled[by_folder]
    is_named = np.zeros(len(alike_code), bool)
    is_named[pairs.photo] = True
    has_label, may_be_meant = lowest <= highest, alike_code >= 0
    is_clear = has_label & (lowest == highest) & ~may_be_meant
    is_usable = is_clear & (lowest != NO_POSE)
    return {
        "pose_id": pa.array(lowest, pa.int32(), mask=~is_usable),
        "is_usable": is_usable,
        "is_known": has_label | is_named | may_be_meant,
        "is_unusable": is_named & ~has_label & ~may_be_meant,
        "is_conflict": (has_label & (lowest != highest)) | may_be_meant,
        "is_poseless": is_clear & (lowest == NO_POSE),
        "is_by_folder": is_by_folder & is_usable,
    }


def _folder_poses(
    listings: Sequence[Listing], poses: Mapping[int, str]
) -> tuple[IntArray, npt.NDArray[np.int32]]:
    """Find the photos whose first folder below the source is named after a pose. Returns rows and pose ids.

    The folder 07 does not mean pose 7, because it may mean July.
    """
    pose_ids = np.array(list(poses), np.int32)
    names = pa.array([str(pose_id) for pose_id in poses], pa.large_string())
    rows, found = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for listing, span in spans(listings):
        assert listing.table is not None
        keys = listing.table["key"]
        prefix = re.escape(listing.source.prefix) if isinstance(listing.source, Bucket) else ""
        # Matching is four times as fast as replacing, and most buckets have no such folder.
        row = pc.indices_nonzero(pc.match_substring_regex(keys, rf"^{prefix}-?\d+/")).to_numpy()
        row = row.astype(np.int64)
        folder = pc.replace_substring_regex(take_rows(keys, row), rf"(?s)^{prefix}(-?\d+)/.*$", r"\1")
        place = pc.fill_null(pc.index_in(folder, names), -1).to_numpy()
        rows.append(row[place >= 0] + span.start)
        found.append(pose_ids[place[place >= 0]])
    return np.concatenate(rows), np.concatenate(found)
