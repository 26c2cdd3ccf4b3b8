"""Find the photos that a label names exactly, by hash look-ups on whole columns.

A bare name is the last part of a key. A name with a folder is a whole key; if no such key exists, it is the
key below the prefix of a source.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import Column, contiguous, find_equal, join_texts, take_rows
from physiq_ray.manifest.fold import LabelNames
from physiq_ray.manifest.names import is_ascii, last_parts, normalized
from physiq_ray.manifest.split import BoolArray, IntArray
from physiq_ray.storage import Bucket, Folder, Listing


@dataclass(frozen=True)
class Pairs:
    """Names and the photos that they mean, as int64 arrays of equal length with the positions of both."""

    code: IntArray
    photo: IntArray

    def filter(self, mask: BoolArray) -> "Pairs":
        """Keep some pairs."""
        return Pairs(self.code[mask], self.photo[mask])

    @classmethod
    def join(cls, parts: "Sequence[Pairs]") -> "Pairs":
        """Concatenate pairs."""
        none = np.empty(0, np.int64)
        return cls(
            np.concatenate([none, *(part.code for part in parts)]),
            np.concatenate([none, *(part.photo for part in parts)]),
        )


def spans(listings: Sequence[Listing]) -> Iterator[tuple[Listing, slice]]:
    """Yield each listing with its rows in the table of all photos; failed listings are skipped."""
    start = 0
    for listing in listings:
        if listing.table is not None:
            yield listing, slice(start, start + listing.table.num_rows)
            start += listing.table.num_rows


def find_exact(names: LabelNames, listings: Sequence[Listing], photos: pa.Table) -> tuple[Pairs, IntArray]:
    """Find the pairs, and the ambiguous names: those that are keys below the prefixes of several sources.

    Letters with accents match in both Unicode forms (NFC, NFD), but a photo that some label names in the same
    form is not matched in the other form.
    """
    if not len(names):
        return Pairs.join([]), np.empty(0, np.int64)
    found = Pairs.join(list(_find_written(names, listings, photos)))
    left = np.ones(photos.num_rows, bool)
    left[found.photo] = False
    found = Pairs.join([found, *_find_accented(names, photos, np.flatnonzero(left))])
    is_missing = np.ones(len(names), bool)
    is_missing[found.code] = False
    below = _find_below(names, np.flatnonzero(is_missing), listings, photos)
    count = np.bincount(below.code, minlength=len(names))
    return Pairs.join([found, below]), np.flatnonzero(count > 1)


def _find_written(names: LabelNames, listings: Sequence[Listing], photos: pa.Table) -> Iterator[Pairs]:
    has_folder = pc.starts_with(names.text, "/").to_numpy(zero_copy_only=False)
    if not has_folder.all():
        yield from _look_up(names, ~has_folder, photos["bucket"], last_parts(photos["key"]))
    if not has_folder.any():
        return
    yield from _look_up(names, has_folder, photos["bucket"], photos["key"], skip=1)
    for listing, rows in spans(listings):
        if isinstance(listing.source, Folder):
            here = photos.slice(rows.start, rows.stop - rows.start)
            for pairs in _look_up(names, has_folder, here["bucket"], here["uri"], skip=1):
                yield Pairs(pairs.code, pairs.photo + rows.start)


def _look_up(
    names: LabelNames, is_chosen: BoolArray, bucket: pa.ChunkedArray, texts: Column, *, skip: int = 0
) -> Iterator[Pairs]:
    """Look up photos by text, and by bucket and text for names with a scope.

    skip: the number of characters of the names' texts before those that are compared.
    """
    is_scoped = pc.not_equal(names.scope, "").to_numpy(zero_copy_only=False)
    for scoped in (False, True):
        codes = np.flatnonzero(is_chosen & (is_scoped == scoped))
        if not len(codes):
            continue
        wanted = take_rows(names.text, codes)
        if skip:
            wanted = pc.utf8_slice_codeunits(wanted, skip)
        if scoped:
            scope = take_rows(names.scope, codes)
            found = find_equal(texts, wanted, *_number(bucket, scope))
        else:
            found = find_equal(texts, wanted)
        photo = np.flatnonzero(found >= 0)
        yield Pairs(codes[found[photo]], photo)


def _number(buckets: pa.ChunkedArray, scopes: pa.Array) -> tuple[IntArray, IntArray]:
    """Give equal numbers to equal names of buckets: one for each bucket, and for each scope."""
    encoded = scopes.dictionary_encode()
    of_bucket = pc.fill_null(pc.index_in(buckets, encoded.dictionary), -1)
    return of_bucket.to_numpy().astype(np.int64), encoded.indices.to_numpy().astype(np.int64)


def scope_keys(scope: Column | str, text: Column) -> pa.Array:
    """Join bucket and text to one look-up key."""
    return contiguous(join_texts(scope, text, by="\n"))


def _find_accented(names: LabelNames, photos: pa.Table, rows: IntArray) -> Iterator[Pairs]:
    """Find the photos among rows that a label names in another Unicode form."""
    codes = np.flatnonzero(~is_ascii(names.text))
    if not len(codes) or not len(rows):
        return
    keys = take_rows(photos["key"], rows)
    accented = np.flatnonzero(~is_ascii(keys))
    rows, keys = rows[accented], normalized(take_rows(keys, accented))
    bucket = contiguous(take_rows(photos["bucket"], rows))
    text = normalized(names.text.take(pa.array(codes)))
    scope = names.scope.take(pa.array(codes))
    for texts in (last_parts(keys), join_texts("/", keys)):
        for where in ("", bucket):
            pairs = join_equal(scope_keys(scope, text), scope_keys(where, texts))
            yield Pairs(codes[pairs.code], rows[pairs.photo])


def _find_below(names: LabelNames, codes: IntArray, listings: Sequence[Listing], photos: pa.Table) -> Pairs:
    """Find the names that are keys below the prefix of a source."""
    has_folder = pc.starts_with(names.text.take(pa.array(codes)), "/").to_numpy(zero_copy_only=False)
    codes = codes[has_folder]
    parts = []
    if len(codes):
        text = normalized(names.text.take(pa.array(codes)))
        keys = scope_keys(names.scope.take(pa.array(codes)), text)
        for listing, rows in spans(listings):
            if not isinstance(listing.source, Bucket) or not listing.source.prefix:
                continue
            key = photos["key"].slice(rows.start, rows.stop - rows.start)
            below = pc.utf8_slice_codeunits(key, len(listing.source.prefix) - 1)  # keeps the slash before it
            texts = normalized(below)
            for scope in ("", listing.source.name):
                pairs = join_equal(keys, scope_keys(scope, texts))
                parts.append(Pairs(codes[pairs.code], pairs.photo + rows.start))
    return Pairs.join(parts)


def join_equal(names: pa.Array, photos: pa.Array) -> Pairs:
    """Pair each text in names with each equal text in photos."""
    encoded = names.dictionary_encode()
    group = encoded.indices.to_numpy()
    order = np.argsort(group, kind="stable")
    count = np.bincount(group, minlength=len(encoded.dictionary))
    start = np.cumsum(count) - count
    index = pc.index_in(photos, encoded.dictionary)
    photo = np.flatnonzero(pc.is_valid(index).to_numpy(zero_copy_only=False))
    found = index.drop_null().to_numpy()
    repeats = count[found]
    first = np.repeat(start[found] - (np.cumsum(repeats) - repeats), repeats)
    return Pairs(order[first + np.arange(repeats.sum())].astype(np.int64), np.repeat(photo, repeats))
