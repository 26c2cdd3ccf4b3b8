"""Which photos would be removed: listings and labels go in, a plan comes out; no bucket is changed.

A photo is in the plan only if all of this holds: no label means it, not even a label that cannot be used; it
resembles no label that matches no photo; it is older than a set age; and there is no doubt about its bucket.
A plan file that was reviewed is compared with the current buckets and labels: the plan can only shrink.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import contiguous
from physiq_ray.errors import LabelError, SettingError, StorageError, quoted, shown
from physiq_ray.labels import Labels
from physiq_ray.manifest import NamedPhotos, find_labelled
from physiq_ray.manifest.names import last_parts
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Listing, are_undecodable, are_waiting, split_uri

EXAMPLES = 5
RESEMBLING_SCHEMA = pa.schema([("uri", pa.large_string()), ("label", pa.large_string())])


class Kept(NamedTuple):
    """A photo that stays, and the reason."""

    uri: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.uri)} {self.reason}"


@dataclass(frozen=True)
class BucketPlan:
    """Which photos of one source would be removed, and why others are not.

    table: the photos that would be removed, LISTING_SCHEMA in the order of their uris; empty if error or
    refusal is set. unlabelled: photos that no label means. Of these, num_young are too young;
    num_undecodable have a format that cannot be decoded here, so nobody can have looked at them;
    num_waiting were stored by the service to be labelled; num_without_etag have no ETag, so a replacement
    could not be noticed; and those of `resembling` (RESEMBLING_SCHEMA) resemble a label that matches no
    photo. num_bytes: of all photos. photos: the listing. named: what the labels say about it.
    """

    source: Bucket
    table: pa.Table = field(default_factory=LISTING_SCHEMA.empty_table)
    total: int = 0
    labelled: int = 0
    num_young: int = 0
    num_undecodable: int = 0
    num_waiting: int = 0
    num_without_etag: int = 0
    num_bytes: int = 0
    num_others: int = 0
    error: StorageError | None = None
    refusal: str | None = None
    resembling: pa.Table = field(default_factory=RESEMBLING_SCHEMA.empty_table)
    photos: pa.Table = field(default_factory=LISTING_SCHEMA.empty_table, repr=False, compare=False)
    named: NamedPhotos | None = field(default=None, repr=False, compare=False)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The names of those labels of this bucket that match no photo."""
        return self.named.unmatched if self.named is not None else ()

    @property
    def num_labels(self) -> int:
        """Labels that concern this bucket."""
        return self.named.num_labels if self.named is not None else 0

    @property
    def unlabelled(self) -> int:
        """Photos that no label names."""
        return self.total - self.labelled

    @property
    def freed_bytes(self) -> int:
        """Bytes of the photos that would be removed."""
        return pc.sum(self.table["size"]).as_py() or 0


@dataclass(frozen=True)
class CleansePlan:
    """Which photos of all sources would be removed. kept: photos of a reviewed plan that stay.

    recheck: reads changed label files and gives the plan that follows from them, or the same object if no
    file changed; raises LabelError if the labels are not reliable any more. None: the labels do not come from
    files.
    """

    buckets: tuple[BucketPlan, ...]
    kept: tuple[Kept, ...] = ()
    recheck: Callable[[], "CleansePlan"] | None = field(default=None, repr=False, compare=False)

    @property
    def num_photos(self) -> int:
        """Number of photos that would be removed."""
        return sum(bucket.table.num_rows for bucket in self.buckets)

    @property
    def freed_bytes(self) -> int:
        """Bytes of the photos that would be removed."""
        return sum(bucket.freed_bytes for bucket in self.buckets)

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each source that could not be listed, or from which nothing may be removed."""
        return tuple(
            f"{bucket.source}: {bucket.error or bucket.refusal}"
            for bucket in self.buckets
            if bucket.error or bucket.refusal
        )


def plan_cleanse(
    listings: Sequence[Listing],
    labels: Labels,
    poses: Mapping[int, str],
    *,
    now: datetime,
    source_buckets: Mapping[str, str] | None = None,
    max_delete_share: float = 0.5,
    max_unmatched_share: float = 0.05,
    min_age: timedelta = timedelta(days=1),
    reviewed: pa.Table | None = None,
    before: CleansePlan | None = None,
) -> CleansePlan:
    """Decide which photos would be removed; reviewed (LISTING_SCHEMA): only these may be.

    before: an earlier plan of the same listings; a bucket is refused if photos lost the labels they had then.
    Raises LabelError: there is no label at all. SettingError: a source is not a bucket.
    """
    if not labels.table.num_rows and not labels.unusable.num_rows:
        state = "contains no usable label" if labels.malformed else "is empty"
        raise LabelError(f"the label file {state}, so every photo would count as unlabelled")
    named = _find_named(listings, labels, poses, source_buckets or {})
    found = [_look_at(listing, names, now - min_age) for listing, names in zip(listings, named, strict=True)]
    kept: tuple[Kept, ...] = ()
    if reviewed is not None:
        shrunk = [_only(bucket, reviewed) for bucket in found]
        kept = tuple(_why_kept(reviewed, shrunk, listings))
        found = shrunk
    doubts = [_doubt_in_labels(labels)] * len(found)
    if before is not None:
        doubts = [
            doubt or _doubt_in_lost_labels(listing, old.named, new.named)
            for doubt, listing, old, new in zip(doubts, listings, before.buckets, found, strict=True)
        ]
    return CleansePlan(
        tuple(
            _refuse(bucket, doubt, max_delete_share, max_unmatched_share)
            for bucket, doubt in zip(found, doubts, strict=True)
        ),
        kept,
    )


def _find_named(
    listings: Sequence[Listing],
    labels: Labels,
    poses: Mapping[int, str],
    source_buckets: Mapping[str, str],
) -> list[NamedPhotos | None]:
    """Find which photos the labels name.

    If source_buckets maps a source to a bucket that is not listed, that may be a typing error, and the labels
    of the source may belong to photos here. A photo that only such a label would name resembles it, and
    stays.
    """
    named = find_labelled(listings, labels, poses, source_buckets)
    listed = {listing.source.name for listing in listings}
    here = {source: text for source, text in source_buckets.items() if split_uri(text)[0] in listed}
    if here == source_buckets:
        return list(named)
    anywhere = find_labelled(listings, labels, poses, here)
    return [
        replace(one, resembles=_also_resembling(listing.table["key"], one, other))
        if listing.table is not None and one is not None and other is not None
        else None
        for listing, one, other in zip(listings, named, anywhere, strict=True)
    ]


def _also_resembling(keys: pa.ChunkedArray, one: NamedPhotos, other: NamedPhotos) -> pa.LargeStringArray:
    is_found = pc.and_not(other.is_labelled, one.is_labelled)
    return pc.coalesce(one.resembles, pc.if_else(is_found, contiguous(last_parts(keys)), None))


def _look_at(listing: Listing, named: NamedPhotos | None, old_enough: datetime) -> BucketPlan:
    if not isinstance(listing.source, Bucket):
        raise SettingError(f"sources: {listing.source}: cleanse only works on buckets; delete files yourself")
    if listing.table is None or named is None:
        return BucketPlan(listing.source, error=listing.error)
    photos = listing.table
    is_unlabelled = pc.invert(named.is_labelled)
    unlabelled, label = photos.filter(is_unlabelled), named.resembles.filter(is_unlabelled)
    is_old = pc.less_equal(
        unlabelled["modified"], pa.scalar(old_enough, LISTING_SCHEMA.field("modified").type)
    )
    has_etag = pc.not_equal(unlabelled["etag"], "")
    is_read = pc.invert(are_undecodable(unlabelled["key"]))
    is_waiting = are_waiting(unlabelled["key"])
    may_go = pc.and_(pc.and_(is_old, has_etag), pc.and_(pc.is_null(label), pc.and_not(is_read, is_waiting)))
    resembling = pa.table([unlabelled["uri"], label], schema=RESEMBLING_SCHEMA)
    return BucketPlan(
        listing.source,
        unlabelled.filter(may_go).sort_by("uri"),
        total=photos.num_rows,
        labelled=photos.num_rows - unlabelled.num_rows,
        num_young=_count(pc.invert(is_old)),
        num_undecodable=_count(pc.invert(is_read)),
        num_waiting=_count(is_waiting),
        num_without_etag=_count(pc.and_not(is_old, has_etag)),
        num_bytes=pc.sum(photos["size"]).as_py() or 0,
        num_others=listing.num_others,
        resembling=resembling.filter(pc.is_valid(label)).sort_by("uri"),
        photos=photos,
        named=named,
    )


def _count(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0


def _doubt_in_labels(labels: Labels) -> str | None:
    if not labels.malformed:
        return None
    return (
        f"{len(labels.malformed)} malformed record(s) in the label file, each of which may be the label of "
        f"one of these photos; correct or remove them, the first is {labels.malformed[0]}"
    )


def _doubt_in_lost_labels(listing: Listing, old: NamedPhotos | None, new: NamedPhotos | None) -> str | None:
    """Doubt a label file that names fewer photos than before: it may be half written."""
    if listing.table is None or old is None or new is None:
        return None
    lost = listing.table["uri"].filter(pc.and_not(old.is_labelled, new.is_labelled))
    if not len(lost):
        return None
    return (
        f"{len(lost)} photos have lost their labels, such as {shown(lost[0].as_py())}; wait until the label "
        "file is complete"
    )


def find_refusal(
    *,
    total: int,
    labelled: int,
    doomed: int,
    max_delete_share: float,
    num_labels: int = 0,
    unmatched: Sequence[str] = (),
    max_unmatched_share: float = 1.0,
) -> str | None:
    """Say why nothing may be removed from a bucket, by the numbers of its photos and labels; None if it may.

    | photos to remove | labelled | unmatched labels              | share of all photos        |         |
    |------------------|----------|-------------------------------|----------------------------|---------|
    | none             | any      | any                           | any                        | allowed |
    | some             | none     | any                           | any                        | refused |
    | some             | some     | more than max_unmatched_share | any                        | refused |
    | some             | some     | at most max_unmatched_share   | more than max_delete_share | refused |
    | some             | some     | at most max_unmatched_share   | at most max_delete_share   | allowed |
    """
    if not doomed:
        return None
    if not labelled:
        named = f" (the labels name {name_some(unmatched)})" if unmatched else ""
        return f"no label matches any of its {total} photos{named}; check labels, sources and source_buckets"
    if len(unmatched) > max_unmatched_share * num_labels:
        return (
            f"{len(unmatched)} of its {num_labels} labels match no photo, more than "
            f"max_unmatched_share={max_unmatched_share:g} of them ({name_some(unmatched)}); correct the "
            "names, give all sources that the labels belong to, map them with source_buckets, or raise "
            "--max-unmatched-share if this is right"
        )
    if doomed > max_delete_share * total:
        return (
            f"{doomed} of its {total} photos would be removed, more than "
            f"max_delete_share={max_delete_share:g} of them; check the labels, or raise --max-delete-share "
            "if this is right"
        )
    return None


def name_some(names: Sequence[str]) -> str:
    """Give a few names for a sentence, and the number of the others."""
    more = f", … and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(map(quoted, names[:EXAMPLES])) + more


def _refuse(
    bucket: BucketPlan, doubt: str | None, max_delete_share: float, max_unmatched_share: float
) -> BucketPlan:
    if bucket.error is not None:
        return bucket
    doomed = bucket.table.num_rows
    refusal = (doubt if doomed else None) or find_refusal(
        total=bucket.total,
        labelled=bucket.labelled,
        doomed=doomed,
        max_delete_share=max_delete_share,
        num_labels=bucket.num_labels,
        unmatched=bucket.unmatched,
        max_unmatched_share=max_unmatched_share,
    )
    if refusal is None:
        return bucket
    return replace(bucket, table=LISTING_SCHEMA.empty_table(), refusal=refusal)


def _only(bucket: BucketPlan, reviewed: pa.Table) -> BucketPlan:
    """Keep only the photos that a reviewed plan names, with the ETag and size that they have now."""
    index = pc.index_in(bucket.table["uri"], reviewed["uri"].combine_chunks())
    is_same = pc.and_(
        pc.equal(reviewed["etag"].combine_chunks().take(index), bucket.table["etag"]),
        pc.equal(reviewed["size"].combine_chunks().take(index), bucket.table["size"]),
    )
    return replace(bucket, table=bucket.table.filter(pc.fill_null(is_same, False)))


def _why_kept(reviewed: pa.Table, found: Sequence[BucketPlan], listings: Sequence[Listing]) -> list[Kept]:
    """Give the reason for each photo of a reviewed plan that stays; a failed source has its own error."""
    still = pa.concat_tables([LISTING_SCHEMA.empty_table(), *(bucket.table for bucket in found)])
    staying = reviewed.filter(pc.invert(pc.is_in(reviewed["uri"], still["uri"])))
    wanted = staying["uri"].combine_chunks()
    now: dict[str, dict[str, Any]] = {}
    for listing, bucket in zip(listings, found, strict=True):
        if listing.table is not None and bucket.named is not None:
            photos = listing.table.select(["uri", "etag"])
            photos = photos.append_column("is_labelled", bucket.named.is_labelled)
            photos = photos.append_column("label", bucket.named.resembles)
            now |= {row["uri"]: row for row in photos.filter(pc.is_in(photos["uri"], wanted)).to_pylist()}
    kept = []
    for row in staying.to_pylist():
        uri, source = row["uri"], _source_of(row["uri"], listings)
        if source is None:
            kept.append(Kept(uri, "is in none of the sources"))
        elif source.error is not None:
            continue
        elif uri not in now:
            kept.append(Kept(uri, "no longer exists"))
        elif now[uri]["is_labelled"]:
            kept.append(Kept(uri, "is labelled now"))
        elif now[uri]["label"] is not None:
            kept.append(Kept(uri, f"resembles the label {quoted(now[uri]['label'])}, which matches no photo"))
        elif now[uri]["etag"] != row["etag"]:
            kept.append(Kept(uri, f"changed since the plan (ETag {row['etag']} → {now[uri]['etag']})"))
        else:
            reason = "is too young, has a format that cannot be decoded here, or is not as in the plan"
            kept.append(Kept(uri, reason))
    return kept


def _source_of(uri: str, listings: Sequence[Listing]) -> Listing | None:
    for listing in listings:
        if uri.startswith(f"{listing.source}/"):
            return listing
    return None
