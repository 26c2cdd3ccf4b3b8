"""Find the labelled photos of each source, for the tools that keep or remove photos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import contiguous
from physiq_ray.labels import Labels
from physiq_ray.manifest.exact import scope_keys, spans
from physiq_ray.manifest.match import Matches, concat_photos, match_labels
from physiq_ray.manifest.names import last_parts, skeletons
from physiq_ray.manifest.split import BoolArray, IntArray
from physiq_ray.storage import Bucket, Listing


@dataclass(frozen=True)
class NamedPhotos:
    """The labels of one listing's photos, in the order of its rows.

    is_labelled: some label means this photo. Labels with a null pose, unusable and contradictory labels
    count too, and so does an ambiguous label, for each photo that it may mean.
    resembles: for an unlabelled photo, the name of an unmatched label that it resembles; else null.
    num_labels: number of labels that concern this listing: those that mean a photo in it, and `unmatched`.
    unmatched: the names of the unmatched labels that name its bucket or no bucket. A label that may mean a
    photo of a source that could not be listed is not among them.
    """

    is_labelled: pa.BooleanArray
    resembles: pa.LargeStringArray
    num_labels: int
    unmatched: tuple[str, ...]


def find_labelled(
    listings: Sequence[Listing],
    labels: Labels,
    poses: Mapping[int, str],
    source_buckets: Mapping[str, str],
) -> tuple[NamedPhotos | None, ...]:
    """Find the labelled photos and the unmatched labels of each listing.

    Returns one result per listing, in the same order; None for a source that could not be listed.
    """
    photos = concat_photos(listings)
    matches = match_labels(listings, photos, labels, poses, source_buckets)
    resembles = find_resembling(matches, photos, listings)
    is_missing = known_missing(matches, listings)
    meant = _meant_codes(matches)
    answers: list[NamedPhotos | None] = [None] * len(listings)
    places = {id(listing): place for place, listing in enumerate(listings)}
    for listing, rows in spans(listings):
        num_rows = rows.stop - rows.start
        here = np.unique(meant[0][(meant[1] >= rows.start) & (meant[1] < rows.stop)])
        unmatched = _names_for(listing, matches, is_missing)
        answers[places[id(listing)]] = NamedPhotos(
            pa.array(matches.is_known[rows]),
            resembles.slice(rows.start, num_rows),
            len(here) + len(unmatched),
            unmatched,
        )
    return tuple(answers)


def known_missing(matches: Matches, listings: Sequence[Listing]) -> BoolArray:
    """Tell which names mean no photo; names that may mean a photo of a failed source are not among them."""
    failed = [listing.source.name for listing in listings if listing.table is None]
    if not failed:
        return matches.is_missing
    unseen = pc.is_in(matches.scope, pa.array(["", *failed])).to_numpy(zero_copy_only=False)
    is_missing: BoolArray = matches.is_missing & ~unseen
    return is_missing


def _meant_codes(matches: Matches) -> tuple[IntArray, IntArray]:
    """Return the names that mean or may mean a photo, with this photo."""
    maybe = np.flatnonzero(matches.alike_code >= 0)
    code, photo = [matches.pairs.code, matches.alike_code[maybe]], [matches.pairs.photo, maybe]
    if matches.likeness is not None:  # names that only confirm an exact label
        sure = matches.likeness.photo >= 0
        sure[sure] = matches.is_loose[matches.likeness.codes[sure]]
        code.append(matches.likeness.codes[sure])
        photo.append(matches.likeness.photo[sure])
    return np.concatenate(code), np.concatenate(photo)


def _names_for(listing: Listing, matches: Matches, is_missing: BoolArray) -> tuple[str, ...]:
    """Return the missing names that name the listing's bucket or no bucket."""
    names = matches.names
    chosen = pc.and_(
        pa.array(is_missing), pc.is_in(matches.scope, pa.array(["", listing.source.name], pa.large_string()))
    )
    found: list[str] = names.name.filter(chosen).to_pylist()
    if isinstance(listing.source, Bucket) and listing.source.prefix:
        # s3://bucket/key outside the prefix is not searched here.
        base, whole = f"s3://{listing.source.name}/", str(listing.source)
        found = [name for name in found if not name.startswith(base) or name.startswith(f"{whole}/")]
    return tuple(found)


def find_resembling(matches: Matches, photos: pa.Table, listings: Sequence[Listing]) -> pa.LargeStringArray:
    """Return for each unlabelled photo an unmatched label that it resembles, or null.

    Last parts are compared without case, accents, punctuation, extension and the prefix of an upload.
    A label that names a bucket resembles only photos of this bucket. If the bucket is not listed, the label
    may resemble any photo, because the photo may have moved.
    """
    likeness = matches.likeness
    if likeness is None or matches.is_known.all():
        return pa.nulls(photos.num_rows, pa.large_string())
    resembled = np.full(photos.num_rows, -1, np.int64)
    labels, rows = likeness.labels, likeness.photos
    scope = _scopes(likeness.codes[labels.row], matches, listings)
    bucket = contiguous(photos["bucket"]).take(pa.array(rows.row))
    of_label, of_photo = skeletons(last_parts(labels.text)), skeletons(last_parts(rows.text))
    for theirs, ours in ((0, 0), (1, 0), (0, 1)):
        wanted = pc.if_else(pc.is_valid(of_label[theirs]), scope_keys(scope, of_label[theirs]), None)
        for where in ("", bucket):
            index = pc.index_in(scope_keys(where, of_photo[ours]), wanted, skip_nulls=True)
            is_found = pc.is_valid(index).to_numpy(zero_copy_only=False)
            resembled[rows.row[is_found]] = labels.row[index.drop_null().to_numpy()]
    code = likeness.codes[np.maximum(resembled, 0)]
    return matches.names.name.take(pa.array(code, mask=resembled < 0))


def _scopes(codes: IntArray, matches: Matches, listings: Sequence[Listing]) -> pa.Array:
    """Return the bucket whose photos each name may resemble, empty for all."""
    chosen = pa.array(codes)
    scope, own = matches.scope.take(chosen), matches.names.scope.take(chosen)
    is_uri = pc.match_substring_regex(matches.names.name.take(chosen), r"^(?i:s3[an]?)://")
    names_itself = pc.or_(is_uri, pc.not_equal(scope, own))
    listed = pa.array([listing.source.name for listing in listings], pa.large_string())
    return pc.if_else(pc.and_(names_itself, pc.invert(pc.is_in(scope, listed))), "", scope)
