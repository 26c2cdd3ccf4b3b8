"""Combine the label records to one entry per name, which says what all records of this name say."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import contiguous, first_equal, join_texts, take_rows
from physiq_ray.constants import SPLITS
from physiq_ray.labels import NAMED_SCHEMA, Labels
from physiq_ray.manifest.split import BoolArray, IntArray, join_groups
from physiq_ray.storage import parse_source

NO_POSE: Final = -1  # a person looked and saw no known pose
_NOTHING_LOW, _NOTHING_HIGH = np.iinfo(np.int32).max, -2  # the name has no usable record


@dataclass(frozen=True)
class LabelNames:
    """The distinct names of the labels, one entry for each scope and name.

    name: as written. scope: the bucket in which it is searched, empty for all. text: the name; for a name
    with a folder, "/" and the key. lowest, highest: int32, the lowest and highest pose id of its records;
    NO_POSE for a record without a known pose. is_usable: some record gives a pose or no known pose. group:
    int64, an equal number for names that belong together, -1 for none. first_split, last_split: int8,
    1 + the position in SPLITS, 0 for none. of_record: int64, the entry of each usable record.
    """

    name: pa.Array
    scope: pa.Array
    text: pa.Array
    lowest: npt.NDArray[np.int32]
    highest: npt.NDArray[np.int32]
    is_usable: BoolArray
    group: IntArray
    first_split: npt.NDArray[np.int8]
    last_split: npt.NDArray[np.int8]
    of_record: IntArray

    def __len__(self) -> int:
        return len(self.name)


def fold_labels(labels: Labels, source_buckets: Mapping[str, str], listed: Collection[str]) -> LabelNames:
    """Combine usable and unusable records by name. listed: the names of the listed sources."""
    buckets = {source: _bucket_name(text, listed) for source, text in source_buckets.items()}
    table = labels.table
    named = pa.concat_tables([table.select(NAMED_SCHEMA.names), labels.unusable])
    name, source = contiguous(named["name"]), contiguous(named["source"])
    scopes = {text: _find_scope(text, buckets, listed) for text in pc.unique(source).drop_null().to_pylist()}
    scope, text = _scopes(name, source, scopes)
    first = first_equal(text, scope.dictionary_encode().indices.to_numpy().astype(np.int64))
    is_first = first == np.arange(len(first))
    rows = np.flatnonzero(is_first)
    num_codes = len(rows)
    of_usable = (np.cumsum(is_first) - 1)[first[: table.num_rows]]
    del first, is_first
    pose = pc.fill_null(table["pose_id"], NO_POSE).to_numpy()
    lowest, highest = extremes(of_usable, pose, num_codes)
    first_split, last_split = _fold_splits(of_usable, contiguous(table["split"]), num_codes)
    return LabelNames(
        name=take_rows(name, rows),
        scope=take_rows(scope, rows),
        text=take_rows(text, rows),
        lowest=lowest,
        highest=highest,
        is_usable=np.bincount(of_usable, minlength=num_codes) > 0,
        group=_fold_groups(of_usable, contiguous(table["group"]), num_codes),
        first_split=first_split,
        last_split=last_split,
        of_record=of_usable,
    )


def extremes(
    code: npt.NDArray[Any], values: npt.NDArray[np.int32], num_codes: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the lowest and highest value of each code 0 … n-1, in a third of a group_by's memory.

    For a code without values, the lowest is above the highest.
    """
    lowest = np.full(num_codes, _NOTHING_LOW, np.int32)
    highest = np.full(num_codes, _NOTHING_HIGH, np.int32)
    np.minimum.at(lowest, code, values)
    np.maximum.at(highest, code, values)
    return lowest, highest


def _bucket_name(text: str, listed: Collection[str]) -> str:
    """Convert the bucket, s3://bucket or path of source_buckets to the form of the `bucket` column."""
    name = parse_source(text).name
    return name if "/" in text or (text not in listed and name in listed) else text


def _find_scope(source: str, buckets: Mapping[str, str], listed: Collection[str]) -> str:
    """Return the bucket that a label's source means, empty for any bucket.

    A mapped source means the bucket of the mapping. A source with the name of a listed bucket means this
    bucket. A label file's bucket column (s3://…) names a bucket even if it is not listed. If only folders are
    listed, the column means the folder of that name, or any folder if there is not exactly one.
    """
    name = source.removeprefix("s3://").partition("/")[0] if source.startswith("s3://") else source
    if (mapped := buckets.get(source, buckets.get(name))) is not None:
        return mapped
    if name in listed:
        return name
    if not source.startswith("s3://"):
        return ""
    of_that_name = [folder for folder in listed if folder.rpartition("/")[2] == name]
    if len(of_that_name) == 1:
        return of_that_name[0]
    return name if any("/" not in each for each in listed) else ""  # the name of a folder source is its path


def _scopes(name: pa.Array, source: pa.Array, scopes: Mapping[str, str]) -> tuple[pa.Array, pa.Array]:
    """Return the bucket of each label (empty if unknown) and its text; s3:// names contain both."""
    mapped = pa.array(list(scopes.values()), pa.large_string()).take(
        pc.index_in(source, pa.array(list(scopes), pa.large_string()))
    )
    scope = pc.fill_null(mapped, "")
    has_folder = pc.match_substring(name, "/")
    if not pc.any(has_folder).as_py():
        return scope, name
    text = pc.if_else(has_folder, join_texts("/", name), name)
    is_uri = pc.match_substring_regex(name, r"^s3://[^/]+/")
    if pc.any(is_uri).as_py():
        bucket = pc.replace_substring_regex(name, r"^s3://([^/]+)/(?s:.*)$", r"\1")
        key = pc.replace_substring_regex(name, r"^s3://[^/]+", "")
        scope, text = pc.if_else(is_uri, bucket, scope), pc.if_else(is_uri, key, text)
    return scope, text


def _fold_groups(code: IntArray, group: pa.Array, num_codes: int) -> IntArray:
    """Return the group number of each name; if the records of a name give several groups, they are joined."""
    folded = np.full(num_codes, -1, np.int64)
    valid = np.flatnonzero(pc.is_valid(group).to_numpy(zero_copy_only=False))
    if not len(valid):
        return folded
    group_id = group.take(pa.array(valid)).dictionary_encode().indices.to_numpy().astype(np.int64)
    rows = np.arange(len(valid))
    folded[code[valid]] = group_id
    if np.any(folded[code[valid]] != group_id):
        folded[code[valid]] = join_groups(len(valid), [(rows, group_id), (rows, code[valid])])
    return folded


def _fold_splits(
    code: IntArray, split: pa.Array, num_codes: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    place = pc.fill_null(pc.index_in(split, pa.array(SPLITS)), -1).to_numpy().astype(np.int8) + 1
    lowest, highest = np.full(num_codes, len(SPLITS) + 1, np.int8), np.zeros(num_codes, np.int8)
    np.minimum.at(lowest, code[place > 0], place[place > 0])
    np.maximum.at(highest, code, place)
    return np.where(highest > 0, lowest, 0).astype(np.int8), highest
