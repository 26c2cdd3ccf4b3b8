"""Find the photos that a label names exactly, by hash look-ups on whole columns.

A bare name is the last part of a key. A name with a folder is a whole key; if no such key exists, it is the
key below the prefix of a source.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
        yield from _look_up(names, np.flatnonzero(~has_folder), photos["bucket"], last_parts(photos["key"]))
    if not has_folder.any():
        return
    keys = pc.binary_join_element_wise("/", photos["key"], "")
    yield from _look_up(names, np.flatnonzero(has_folder), photos["bucket"], keys)
    for listing, rows in spans(listings):
        if isinstance(listing.source, Folder):
            here = photos.slice(rows.start, rows.stop - rows.start)
            paths = pc.binary_join_element_wise("/", here["uri"], "")
            for pairs in _look_up(names, np.flatnonzero(has_folder), here["bucket"], paths):
                yield Pairs(pairs.code, pairs.photo + rows.start)


def _look_up(
    names: LabelNames, codes: IntArray, bucket: pa.ChunkedArray, texts: pa.Array | pa.ChunkedArray
) -> Iterator[Pairs]:
    """Look up photos by text, and by bucket and text for names with a scope."""
    chosen = pa.array(codes)
    scope, text = names.scope.take(chosen), names.text.take(chosen)
    is_scoped = pc.not_equal(scope, "")
    for scoped in (False, True):
        mask = is_scoped if scoped else pc.invert(is_scoped)
        here = codes[mask.to_numpy(zero_copy_only=False)]
        if not len(here):
            continue
        wanted = text.filter(mask)
        if scoped:
            wanted = scope_keys(scope.filter(mask), wanted)
        index = pc.index_in(scope_keys(bucket, texts) if scoped else texts, wanted)
        photo = np.flatnonzero(pc.is_valid(index).to_numpy(zero_copy_only=False))
        yield Pairs(here[index.drop_null().to_numpy()], photo)


def scope_keys(scope: pa.Array | pa.ChunkedArray, text: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Join bucket and text to one look-up key."""
    keys = pc.binary_join_element_wise(scope, text, "\n")
    return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys


def _find_accented(names: LabelNames, photos: pa.Table, rows: IntArray) -> Iterator[Pairs]:
    """Find the photos among rows that a label names in another Unicode form."""
    codes = np.flatnonzero(~is_ascii(names.text))
    if not len(codes) or not len(rows):
        return
    keys = photos["key"].take(pa.array(rows)).combine_chunks()
    accented = np.flatnonzero(~is_ascii(keys))
    rows, keys = rows[accented], normalized(keys.take(pa.array(accented)))
    bucket = photos["bucket"].take(pa.array(rows)).combine_chunks()
    text = normalized(names.text.take(pa.array(codes)))
    scope = names.scope.take(pa.array(codes))
    for texts in (last_parts(keys), pc.binary_join_element_wise("/", keys, "")):
        for where in (pa.repeat("", len(rows)), bucket):
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
            texts = normalized(below.combine_chunks())
            for scope in ("", listing.source.name):
                pairs = join_equal(keys, scope_keys(pa.repeat(scope, len(texts)), texts))
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
