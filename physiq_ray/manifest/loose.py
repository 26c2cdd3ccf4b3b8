"""Find the photo of a label that names none exactly: the only photo with the same name in plain form.

A thousand labels may be like a million photos, so pairs of label and photo are not stored. For each plain
form only its first and last photo are kept; they are equal if there is only one photo.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import contiguous, join_texts
from physiq_ray.manifest.exact import Pairs, scope_keys, spans
from physiq_ray.manifest.fold import LabelNames
from physiq_ray.manifest.names import Kind, Readings, last_parts, read_keys, read_labels
from physiq_ray.manifest.split import BoolArray, IntArray
from physiq_ray.storage import Bucket, Listing


@dataclass(frozen=True)
class Likeness:
    """The result of a comparison in plain form.

    codes: the compared names. photo: int64, the only photo like each name, -1 for none or several.
    is_ambiguous: several photos are like the name. alike: each of these photos, with one of the names.
    labels, photos: the plain forms; the rows of labels are positions in codes.
    """

    codes: IntArray
    photo: IntArray
    is_ambiguous: BoolArray
    alike: Pairs
    labels: Readings
    photos: Readings

    def of_open(self, is_missing: BoolArray, is_known: BoolArray) -> "Likeness":
        """Keep only the plain forms of names without a photo and of photos that no name means."""
        labels = self.labels.filter(is_missing[self.codes][self.labels.row])
        return replace(self, labels=labels, photos=self.photos.filter(~is_known[self.photos.row]))


@dataclass(frozen=True)
class _Index:
    """Photos by the texts that may name them. key: int64 (N,), the position in texts; photo: int64 (N,)."""

    texts: pa.Array
    key: IntArray
    photo: IntArray
    first: IntArray  # the first photo of each text
    last: IntArray


def compare_loosely(
    names: LabelNames, codes: IntArray, listings: Sequence[Listing], photos: pa.Table
) -> Likeness:
    """Compare names with all photos, including those that other labels name exactly."""
    chosen = pa.array(codes)
    buckets = {listing.source.name for listing in listings if isinstance(listing.source, Bucket)}
    labels = read_labels(names.name.take(chosen), sorted(buckets))
    read = read_keys(contiguous(photos["key"]))
    scope = pc.coalesce(labels.bucket, names.scope.take(chosen).take(pa.array(labels.row)))

    near = read
    if len(codes) < photos.num_rows // 4:  # otherwise the filter would remove little
        mask = pc.is_in(last_parts(read.text), last_parts(labels.text))
        near = read.filter(mask.to_numpy(zero_copy_only=False))
    first = np.full(len(codes), photos.num_rows, np.int64)
    last = np.full(len(codes), -1, np.int64)
    found: list[tuple[_Index, IntArray, IntArray]] = []
    is_scoped = pc.not_equal(scope, "").to_numpy(zero_copy_only=False)
    for scoped in (False, True):
        for kinds in ((Kind.NAME,), (Kind.KEY, Kind.PATH)):
            here = np.flatnonzero((is_scoped == scoped) & np.isin(labels.kind, kinds))
            if not len(here):
                continue
            text = labels.text.take(pa.array(here))
            index = _index(near, listings, photos, text, is_name=kinds == (Kind.NAME,), scoped=scoped)
            place, key = _find(index, labels, scope, here)
            row = labels.row[place]
            np.minimum.at(first, row, index.first[key])
            np.maximum.at(last, row, index.last[key])
            found.append((index, row, key))
    is_ambiguous = first < last
    return Likeness(
        codes=codes,
        photo=np.where(first == last, first, -1),
        is_ambiguous=is_ambiguous,
        alike=Pairs.join([_alike(index, row, key, is_ambiguous, codes) for index, row, key in found]),
        labels=labels,
        photos=read,
    )


def _index(
    near: Readings,
    listings: Sequence[Listing],
    photos: pa.Table,
    wanted: pa.Array,
    *,
    is_name: bool,
    scoped: bool,
) -> _Index:
    """List the texts that may name a photo: its last part; or its key, also below a prefix or with bucket."""
    bucket = contiguous(photos["bucket"]).take(pa.array(near.row))
    if is_name:
        texts, rows = [last_parts(near.text)], [np.arange(len(near.row))]
    else:
        texts, rows = [near.text], [np.arange(len(near.row))]
        for name in pc.unique(bucket).to_pylist():
            if pc.any(pc.match_substring(wanted, f"{name}/")).as_py():
                here = np.flatnonzero(pc.equal(bucket, name).to_numpy(zero_copy_only=False))
                texts.append(join_texts(name, near.text.take(pa.array(here)), by="/"))
                rows.append(here)
        for listing, span in spans(listings):
            if isinstance(listing.source, Bucket) and listing.source.prefix:
                here = np.flatnonzero((near.row >= span.start) & (near.row < span.stop))
                prefix = read_keys(pa.array([listing.source.prefix], pa.large_string())).text[0].as_py()
                below = near.text.take(pa.array(here))
                inside = pc.starts_with(below, f"{prefix}/")
                texts.append(pc.utf8_slice_codeunits(below.filter(inside), len(prefix) + 1))
                rows.append(here[inside.to_numpy(zero_copy_only=False)])
    row = np.concatenate(rows)
    text = pa.concat_arrays(texts)
    if scoped:
        text = scope_keys(bucket.take(pa.array(row)), text)
    encoded = text.dictionary_encode()
    key, photo = encoded.indices.to_numpy().astype(np.int64), near.row[row]
    first = np.full(len(encoded.dictionary), photos.num_rows, np.int64)
    last = np.full(len(encoded.dictionary), -1, np.int64)
    np.minimum.at(first, key, photo)
    np.maximum.at(last, key, photo)
    return _Index(encoded.dictionary, key, photo, first, last)


def _find(index: _Index, labels: Readings, scope: pa.Array, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Look up readings. A path is tried whole, then without its first folder, and so on, until it matches."""
    found_rows, found_keys = [], []
    deepest = pc.max(pc.count_substring(index.texts, "/")).as_py() or 0
    text = labels.text.take(pa.array(rows))
    while len(rows):
        is_path = labels.kind[rows] == Kind.PATH
        depth = pc.count_substring(text, "/").to_numpy()
        fits = ~is_path | (depth <= deepest)
        is_found = np.zeros(len(rows), bool)
        if fits.any():
            wanted = text
            if len(scope) and scope[int(rows[0])].as_py():
                wanted = scope_keys(scope.take(pa.array(rows)), text)
            key = pc.index_in(wanted, index.texts)
            is_found = pc.is_valid(key).to_numpy(zero_copy_only=False)
            found_rows.append(rows[is_found])
            found_keys.append(key.drop_null().to_numpy().astype(np.int64))
        goes_on = np.flatnonzero(is_path & ~is_found & (depth > 0))
        rows = rows[goes_on]
        text = pc.replace_substring_regex(text.take(pa.array(goes_on)), r"^[^/]*/", "")
    return np.concatenate([rows[:0], *found_rows]), np.concatenate([rows[:0], *found_keys])


def _alike(index: _Index, row: IntArray, key: IntArray, is_ambiguous: BoolArray, codes: IntArray) -> Pairs:
    """Return each photo that an ambiguous name may mean, with one such name."""
    code_of_key = np.full(len(index.first), -1, np.int64)
    chosen = is_ambiguous[row]
    code_of_key[key[chosen]] = codes[row[chosen]]
    code = code_of_key[index.key]
    return Pairs(code[code >= 0], index.photo[code >= 0])
