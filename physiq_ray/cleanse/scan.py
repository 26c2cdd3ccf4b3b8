"""From the settings to a plan: list the buckets, read the label files, decide."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa

from physiq_ray.cleanse.plan import CleansePlan, plan_cleanse
from physiq_ray.cleanse.watch import LabelFiles, Recheck
from physiq_ray.config import CleanseSettings
from physiq_ray.errors import SettingError
from physiq_ray.storage import LISTING_SCHEMA, Bucket, Source, follow_settings, list_sources, parse_sources


def parse_buckets(texts: Sequence[str]) -> tuple[Bucket, ...]:
    """Read addresses, each of which must be a bucket or a prefix of one. Raises SettingError."""
    sources = parse_sources(texts)
    buckets = tuple(source for source in sources if isinstance(source, Bucket))
    for source in sources:
        if source not in buckets:
            raise SettingError(
                f"sources: {source}: this command only works on buckets; give s3://bucket[/prefix]"
            )
    return buckets


def scan_buckets(
    settings: CleanseSettings,
    *,
    now: datetime,
    reviewed: pa.Table | None = None,
    on_keys: Callable[[Source, int], None] = lambda _source, _num_keys: None,
) -> CleansePlan:
    """List the buckets and decide which photos would be removed; no bucket is changed.

    The plan's `recheck` compares it with the label files at a later time. now: with a time zone. reviewed:
    the photos of a plan file; only these may be removed.
    Raises SettingError: no bucket given. LabelError: the labels are not reliable.
    """
    buckets = parse_buckets(settings.sources)
    follow_settings(settings, [bucket.name for bucket in buckets])
    files = LabelFiles(settings)  # before the listing, which can take long
    listings = list_sources(buckets, on_keys=on_keys)
    files.refresh()

    def plan(reviewed: pa.Table | None, before: CleansePlan | None = None) -> CleansePlan:
        return plan_cleanse(
            listings,
            files.labels,
            files.poses,
            now=now,
            source_buckets=settings.source_buckets,
            max_delete_share=settings.max_delete_share,
            max_unmatched_share=settings.max_unmatched_share,
            min_age=timedelta(hours=settings.min_age_hours),
            reviewed=reviewed,
            before=before,
        )

    first = plan(reviewed)
    confirmed = pa.concat_tables([LISTING_SCHEMA.empty_table(), *(bucket.table for bucket in first.buckets)])
    return replace(first, recheck=Recheck(files, first, lambda: plan(confirmed, before=first)))
