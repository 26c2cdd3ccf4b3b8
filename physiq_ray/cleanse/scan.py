"""From the settings to a plan: list the buckets, read the labels, decide."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa

from physiq_ray.cleanse.plan import CleansePlan, plan_cleanse
from physiq_ray.config import CleanseSettings
from physiq_ray.errors import SettingError
from physiq_ray.labels import load_labels, load_poses
from physiq_ray.storage import Bucket, Source, list_sources, parse_sources


def parse_buckets(texts: Sequence[str]) -> tuple[Bucket, ...]:
    """Read addresses that must be buckets or prefixes of them. Raises SettingError."""
    sources = parse_sources(texts)
    buckets = tuple(source for source in sources if isinstance(source, Bucket))
    for source in sources:
        if source not in buckets:
            raise SettingError(f"sources: {source}: cleanse keeps buckets; give s3://bucket[/prefix]")
    return buckets


def scan_buckets(
    settings: CleanseSettings,
    *,
    now: datetime,
    reviewed: pa.Table | None = None,
    on_keys: Callable[[Source, int], None] = lambda _source, _num_keys: None,
) -> CleansePlan:
    """List the buckets and say which photos would go; nothing is touched.

    now: with a time zone. reviewed: a plan file's photos, of which only those go that still may.
    Raises SettingError: no bucket given. LabelError: the labels cannot be relied on.
    """
    buckets = parse_buckets(settings.sources)
    poses = load_poses(Path(settings.poses))
    labels = load_labels(Path(settings.labels), poses)  # before the listing, which may take long
    return plan_cleanse(
        list_sources(buckets, on_keys=on_keys),
        labels,
        poses,
        now=now,
        source_buckets=settings.source_buckets,
        max_delete_share=settings.max_delete_share,
        min_age=timedelta(hours=settings.min_age_hours),
        reviewed=reviewed,
    )
