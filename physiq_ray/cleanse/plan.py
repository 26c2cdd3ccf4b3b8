"""Which photos would go: listings and labels in, a plan out; nothing is touched.

A photo goes only if no label names it, not even one that cannot be used, if it is older than a set age, and
if its bucket gives no reason for doubt. A plan that was written out and reviewed is held against the buckets
and labels of now: it can only shrink.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.errors import CleanseError, LabelError, SettingError, StorageError
from physiq_ray.labels import Labels
from physiq_ray.manifest import find_labelled
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Listing, is_photo, split_uri

EXAMPLES = 5


@dataclass(frozen=True)
class BucketPlan:
    """What of one source would go, and why it does not where it does not.

    table: the photos that would go, LISTING_SCHEMA in the order of their uris, empty where error or refusal
    is set. unlabelled: photos that no label names; of these num_young are too young, and num_without_etag
    cannot be told from what may be written in their place. num_bytes: of all photos.
    """

    source: Bucket
    table: pa.Table = field(default_factory=LISTING_SCHEMA.empty_table)
    total: int = 0
    labelled: int = 0
    num_young: int = 0
    num_without_etag: int = 0
    num_bytes: int = 0
    num_others: int = 0
    error: StorageError | None = None
    refusal: str | None = None

    @property
    def unlabelled(self) -> int:
        """Photos that no label names."""
        return self.total - self.labelled

    @property
    def freed_bytes(self) -> int:
        """Bytes of what would go."""
        return pc.sum(self.table["size"]).as_py() or 0


@dataclass(frozen=True)
class CleansePlan:
    """What would go of all sources. kept: of a reviewed plan, what stays after all, a sentence each."""

    buckets: tuple[BucketPlan, ...]
    kept: tuple[str, ...] = ()

    @property
    def num_photos(self) -> int:
        """Photos that would go."""
        return sum(bucket.table.num_rows for bucket in self.buckets)

    @property
    def freed_bytes(self) -> int:
        """Bytes of what would go."""
        return sum(bucket.freed_bytes for bucket in self.buckets)

    @property
    def problems(self) -> tuple[str, ...]:
        """The sources that could not be listed, or of which nothing may go, a sentence each."""
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
    min_age: timedelta = timedelta(days=1),
    reviewed: pa.Table | None = None,
) -> CleansePlan:
    """Say which photos would go; of a reviewed plan (LISTING_SCHEMA), those that still may.

    Raises LabelError: there is no label at all. SettingError: a source is no bucket.
    """
    if not labels.table.num_rows and not labels.unusable.num_rows:
        raise LabelError("no label in the label file: every photo would pass for one that nobody labelled")
    named = find_labelled(listings, labels, poses, source_buckets or {})
    masks = [found.is_labelled if found is not None else None for found in named]
    found = [_look_at(listing, mask, now - min_age) for listing, mask in zip(listings, masks, strict=True)]
    kept: tuple[str, ...] = ()
    if reviewed is not None:
        kept = tuple(_why_kept(reviewed, found, listings, masks))
        found = [_only(bucket, reviewed) for bucket in found]
    doubt = _doubt_in_labels(labels)
    return CleansePlan(tuple(_refuse(bucket, doubt, max_delete_share) for bucket in found), kept)


def _look_at(listing: Listing, is_labelled: pa.BooleanArray | None, old_enough: datetime) -> BucketPlan:
    if not isinstance(listing.source, Bucket):
        raise SettingError(f"sources: {listing.source}: cleanse looks after buckets; delete files yourself")
    if listing.table is None or is_labelled is None:
        return BucketPlan(listing.source, error=listing.error)
    photos = listing.table
    unlabelled = photos.filter(pc.invert(is_labelled))
    is_old = pc.less_equal(
        unlabelled["modified"], pa.scalar(old_enough, LISTING_SCHEMA.field("modified").type)
    )
    has_etag = pc.not_equal(unlabelled["etag"], "")
    return BucketPlan(
        listing.source,
        unlabelled.filter(pc.and_(is_old, has_etag)).sort_by("uri"),
        total=photos.num_rows,
        labelled=photos.num_rows - unlabelled.num_rows,
        num_young=_count(pc.invert(is_old)),
        num_without_etag=_count(pc.and_not(is_old, has_etag)),
        num_bytes=pc.sum(photos["size"]).as_py() or 0,
        num_others=listing.num_others,
    )


def _count(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0


def _doubt_in_labels(labels: Labels) -> str | None:
    if not labels.malformed:
        return None
    return (
        f"{len(labels.malformed)} malformed record(s) in the label file, any of which may mean one of these "
        f"photos; mend or remove them, the first is {labels.malformed[0]}"
    )


def find_refusal(*, total: int, labelled: int, doomed: int, max_delete_share: float) -> str | None:
    """Say why nothing of a bucket may go, from the numbers of its photos; None where it may.

    | photos that would go | labelled | share of all              | |
    |----------------------|----------|---------------------------|---------|
    | none                 | any      |                           | may     |
    | some                 | none     |                           | refused |
    | some                 | some     | more than max_delete_share | refused |
    | some                 | some     | at most max_delete_share  | may     |
    """
    if not doomed:
        return None
    if not labelled:
        return (
            f"no label matches any of its {total} photos; check labels, sources and source_buckets "
            "(labels are matched on the last part of the key)"
        )
    if doomed > max_delete_share * total:
        return (
            f"{doomed} of its {total} photos would go, more than max_delete_share={max_delete_share:g} of "
            "them; check the labels, or raise --max-delete-share if it is right"
        )
    return None


def _refuse(bucket: BucketPlan, doubt: str | None, max_delete_share: float) -> BucketPlan:
    if bucket.error is not None:
        return bucket
    doomed = bucket.table.num_rows
    refusal = (doubt if doomed else None) or find_refusal(
        total=bucket.total, labelled=bucket.labelled, doomed=doomed, max_delete_share=max_delete_share
    )
    if refusal is None:
        return bucket
    return replace(bucket, table=LISTING_SCHEMA.empty_table(), refusal=refusal)


def _only(bucket: BucketPlan, reviewed: pa.Table) -> BucketPlan:
    """Keep of what would go what a reviewed plan names as it is now."""
    index = pc.index_in(bucket.table["uri"], reviewed["uri"].combine_chunks())
    is_same = pc.and_(
        pc.equal(reviewed["etag"].combine_chunks().take(index), bucket.table["etag"]),
        pc.equal(reviewed["size"].combine_chunks().take(index), bucket.table["size"]),
    )
    return replace(bucket, table=bucket.table.filter(pc.fill_null(is_same, False)))


def _why_kept(
    reviewed: pa.Table,
    found: Sequence[BucketPlan],
    listings: Sequence[Listing],
    masks: Sequence[pa.BooleanArray | None],
) -> list[str]:
    """Say of each photo of a reviewed plan that stays why it does; those of a failed source need no word."""
    still = set[str]()
    for bucket in found:
        still.update(_only(bucket, reviewed).table["uri"].to_pylist())
    now: dict[str, tuple[str, bool]] = {}
    wanted = reviewed["uri"].combine_chunks()
    for listing, mask in zip(listings, masks, strict=True):
        if listing.table is not None:
            is_wanted = pc.is_in(listing.table["uri"], wanted)
            named = listing.table.append_column("labelled", mask).filter(is_wanted)
            now |= {row["uri"]: (row["etag"], row["labelled"]) for row in named.to_pylist()}
    kept = []
    for row in reviewed.to_pylist():
        uri, source = row["uri"], _source_of(row["uri"], listings)
        if uri in still:
            continue
        if source is None:
            kept.append(f"{uri} is in none of the sources")
        elif source.error is not None:
            continue
        elif uri not in now:
            kept.append(f"{uri} is not there any more")
        elif now[uri][1]:
            kept.append(f"{uri} is labelled now")
        elif now[uri][0] != row["etag"]:
            kept.append(f"{uri} changed since the plan (ETag {row['etag']} → {now[uri][0]})")
        else:
            kept.append(f"{uri} is too young, or not as the plan has it")
    return kept


def _source_of(uri: str, listings: Sequence[Listing]) -> Listing | None:
    for listing in listings:
        if uri.startswith(f"{listing.source}/"):
            return listing
    return None


def format_plan(plan: CleansePlan) -> bytes:
    """Give the JSON lines of a plan file: uri, size in bytes, etag, modified (ISO 8601)."""
    rows = (row for bucket in plan.buckets for row in bucket.table.to_pylist())
    lines = [
        json.dumps(
            {
                "uri": row["uri"],
                "size": row["size"],
                "etag": row["etag"],
                "modified": row["modified"].isoformat(),
            },
            ensure_ascii=False,
        )
        for row in rows
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def read_plan(path: Path) -> pa.Table:
    """Read a plan file to a table of LISTING_SCHEMA.

    Raises CleanseError: no such file, or a line that `format_plan` did not write: of a plan that somebody
    damaged, nothing is done.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CleanseError(f"{path}: the plan cannot be read: {error}") from error
    rows: dict[str, tuple[Any, ...]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            uri, size, etag = record["uri"], record["size"], record["etag"]
            modified = datetime.fromisoformat(record["modified"]).astimezone(UTC)
            bucket, key = split_uri(uri)
            is_right = uri.startswith("s3://") and is_photo(key) and type(size) is int and etag.strip()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad_line(path, number, line) from error
        if not is_right or uri in rows:
            raise _bad_line(path, number, line)
        rows[uri] = (uri, bucket, key, size, etag, modified)
    columns = list(zip(*rows.values(), strict=True)) or [()] * len(LISTING_SCHEMA)
    return pa.table([list(column) for column in columns], schema=LISTING_SCHEMA)


def _bad_line(path: Path, number: int, line: str) -> CleanseError:
    return CleanseError(
        f'{path}: line {number}: expected one photo, {{"uri": "s3://…", "size": …, "etag": "…", '
        f'"modified": "…"}}, and none twice; got {line[:200]}; write the plan anew with --plan'
    )
