"""Tag the photos of a plan for a lifecycle rule of S3, and remove the tag from the photos that stay.

A rule counts `Days` from the upload of an object, so an old photo would expire at the next midnight.
Therefore the tag's value is the UTC date of tagging, and a rule has the `Date` on which photos of one value
expire.

Removing the tag is always safe, so it needs no confirmation: after a refusal of a bucket, none of its photos
keeps the tag. The bucket is the only state; a second run completes one that was interrupted.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.cleanse.batches import SMALL_BATCH, THREADS, Batches, OnProgress
from physiq_ray.cleanse.plan import BucketPlan, CleansePlan
from physiq_ray.cleanse.report import TagReport
from physiq_ray.cleanse.scan import parse_buckets
from physiq_ray.config import CleanseSettings
from physiq_ray.errors import StorageError
from physiq_ray.storage import Source, follow_settings, list_sources
from physiq_ray.storage.deletion import ObjectOutcome, State, compare_with_listing, failed
from physiq_ray.storage.refusal import find_missing_right
from physiq_ray.storage.tags import MAX_TAGS, read_tags, remove_tag, write_tags
from physiq_ray.storage.versions import Target

TAG: Final = "physiq-ray-unlabelled"
GRACE: Final = timedelta(days=30)  # between tagging and expiration


def tag_photos(
    plan: CleansePlan,
    today: date,
    *,
    on_progress: OnProgress = lambda _source, _done, _total: None,
) -> tuple[TagReport, ...]:
    """Tag the plan's photos with today's date, in UTC; a photo that has the tag keeps its date.

    The plan's recheck decides before each batch what stays. Photos that a label has taken out of the plan by
    the end lose the tag. KeyboardInterrupt: after the running batches.
    """
    return tuple(
        _Tagging(bucket, plan.recheck, on_progress, today).run()
        for bucket in plan.buckets
        if bucket.table.num_rows
    )


def untag_staying(
    plan: CleansePlan, *, on_progress: OnProgress = lambda _source, _done, _total: None
) -> tuple[TagReport, ...]:
    """Remove the tag from all listed photos that are not in the plan."""
    return tuple(
        _Untagging(bucket.source, _without(bucket.photos, bucket.table), on_progress).run()
        for bucket in plan.buckets
        if bucket.error is None
    )


def untag_buckets(
    settings: CleanseSettings,
    *,
    on_keys: Callable[[Source, int], None] = lambda _source, _num_keys: None,
    on_progress: OnProgress = lambda _source, _done, _total: None,
) -> tuple[TagReport, ...]:
    """Remove the tag from all photos of the sources. No label file is read.

    Raises SettingError: no bucket given.
    """
    buckets = parse_buckets(settings.sources)
    follow_settings(settings, [bucket.name for bucket in buckets])
    reports = []
    for bucket, listing in zip(buckets, list_sources(buckets, on_keys=on_keys), strict=True):
        if listing.table is not None:
            reports.append(_Untagging(bucket, listing.table, on_progress).run())
            continue
        right = find_missing_right(listing.error)
        rights = frozenset({right} if right is not None else ())
        reports.append(TagReport(bucket, 0, stopped=str(listing.error), missing_rights=rights))
    return tuple(reports)


def expiry_of(value: str | None) -> date | None:
    """Give the day on which photos with this value of the tag expire; None if it is not a date."""
    try:
        return date.fromisoformat(value or "") + GRACE
    except (ValueError, OverflowError):
        return None


def make_lifecycle(values: Iterable[str]) -> dict[str, Any]:
    """Give a lifecycle configuration with one rule for each value of the tag, as S3's API takes it."""
    rules = []
    for value in sorted(values):
        expiry = expiry_of(value)
        if expiry is not None:
            rules.append(
                {
                    "ID": f"{TAG}-{value}",
                    "Status": "Enabled",
                    "Filter": {"Tag": {"Key": TAG, "Value": value}},
                    # S3 accepts only midnight in UTC.
                    "Expiration": {"Date": f"{datetime.combine(expiry, time()).isoformat()}Z"},
                }
            )
    return {"Rules": rules}


def describe_lifecycle(configuration: Mapping[str, Any], reports: Sequence[TagReport]) -> Iterator[str]:
    """Give the lines that print a lifecycle configuration and say how the tagged buckets get it."""
    first = min(rule["Expiration"]["Date"] for rule in configuration["Rules"]).partition("T")[0]
    yield (
        f"The tag alone deletes nothing. With these lifecycle rules, S3 expires each photo {GRACE.days} days "
        f"after its tagging, the first on {first}:"
    )
    yield from json.dumps(configuration, indent=2).splitlines()
    yield (
        "put-bucket-lifecycle-configuration replaces all rules of a bucket. So save these rules in one file "
        "with those that the bucket already has:"
    )
    for name in dict.fromkeys(report.source.name for report in reports if report.values):
        yield f"  aws s3api get-bucket-lifecycle-configuration --bucket {name} --query '{{Rules: Rules}}'"
        yield (
            f"  aws s3api put-bucket-lifecycle-configuration --bucket {name} "
            "--lifecycle-configuration file://rules.json"
        )
    yield "Run cleanse --tag again before each of these days: photos that are labelled by then lose the tag."


class _Untagging(Batches):
    """Removes the tag from photos of one bucket."""

    def process(self, batch: pa.Table) -> list[ObjectOutcome]:
        return [self._remove(key) for key in batch["key"].to_pylist()]

    def _remove(self, key: str) -> ObjectOutcome:
        try:
            return ObjectOutcome(key, remove_tag(self.source.name, key, TAG))
        except StorageError as error:
            return failed(key, error)

    def run(self) -> TagReport:
        self.run_batches(SMALL_BATCH, THREADS)
        return _report(self)


class _Tagging(Batches):
    """Tags the photos of one bucket."""

    def __init__(
        self,
        plan: BucketPlan,
        recheck: Callable[[], CleansePlan] | None,
        on_progress: OnProgress,
        today: date,
    ) -> None:
        super().__init__(plan.source, plan.table, on_progress, plan=plan, recheck=recheck)
        self.today = today.isoformat()
        self.values: set[str] = set()  # of the tag, on the photos that have it now

    def run(self) -> TagReport:
        self.run_batches(SMALL_BATCH, THREADS)
        if self.stopped is None:
            self.look_at_labels()  # the running batches may have tagged photos that are labelled by now
        report = _report(self, values=frozenset(self.values))
        if self.latest is None:
            return report
        labelled = _without(self.photos, self.latest.table)
        untagged = _Untagging(self.source, labelled, lambda _source, _done, _total: None).run()
        return replace(
            report,
            untagged=untagged.untagged,
            failures=report.failures + untagged.failures,
            stopped=report.stopped or untagged.stopped,
            missing_rights=report.missing_rights | untagged.missing_rights,
        )

    def process(self, batch: pa.Table) -> list[ObjectOutcome]:
        return [self._tag(Target(row["key"], row["etag"], row["size"])) for row in batch.to_pylist()]

    def _tag(self, target: Target) -> ObjectOutcome:
        bucket, key = self.source.name, target.key
        try:
            tags = read_tags(bucket, key)
            if tags is None:
                return ObjectOutcome(key, State.GONE)
            if expiry_of(tags.get(TAG)) is not None:
                self.values.add(tags[TAG])
                return ObjectOutcome(key, State.UNTOUCHED)
            if len(tags.keys() - {TAG}) >= MAX_TAGS:
                sentence = f"it has {MAX_TAGS} tags, the most that S3 allows; remove one of them"
                return ObjectOutcome(key, State.FAILED, error=sentence)
            if not write_tags(bucket, key, tags | {TAG: self.today}):
                return ObjectOutcome(key, State.GONE)
        except StorageError as error:
            return failed(key, error)
        # S3 tags whatever is there now. So the tag is removed again unless that is the planned content.
        try:
            changed = compare_with_listing(bucket, target, may_be_deleted=False)
        except StorageError as error:
            changed = failed(key, error)
        if changed is None:
            self.values.add(self.today)
            return ObjectOutcome(key, State.TAGGED)
        return changed if changed.state == State.GONE else _undone(bucket, changed)


def _undone(bucket: str, outcome: ObjectOutcome) -> ObjectOutcome:
    try:
        remove_tag(bucket, outcome.key, TAG)
    except StorageError as error:
        sentence = f"{outcome.error}; its tag could not be removed, give --untag: {error}"
        return replace(outcome, state=State.FAILED, error=sentence, fault=error)
    return outcome


def _without(photos: pa.Table, others: pa.Table) -> pa.Table:
    return photos.filter(pc.invert(pc.is_in(photos["uri"], others["uri"].combine_chunks())))


def _report(batches: Batches, *, values: Sequence[str] | frozenset[str] = ()) -> TagReport:
    return TagReport(
        **batches.common(),
        photos=batches.photos.num_rows,
        tagged=batches.counts[State.TAGGED],
        untagged=batches.counts[State.UNTAGGED],
        untouched=batches.counts[State.UNTOUCHED],
        values=frozenset(values),
    )
