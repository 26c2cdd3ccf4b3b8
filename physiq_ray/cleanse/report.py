"""The results of `cleanse` as text and as JSON: plans, removals, restored photos, and missing rights."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from physiq_ray.cleanse.plan import EXAMPLES, BucketPlan, CleansePlan, Kept, name_some
from physiq_ray.errors import quoted, shown
from physiq_ray.storage import REMEDY, Bucket
from physiq_ray.storage.deletion import Condition

MB = 1e6
ONLY_SCANNED = (
    "Nothing was deleted: this was only a scan. --delete deletes these photos, --plan writes a plan."
)


@dataclass(frozen=True)
class SourceReport:
    """What removing and tagging say about the photos of one source.

    kept: photos that a label names, or that resemble a label, only since the plan was made. failures: "uri:
    reason". stopped: why the rest was not tried; None if all were. missing_rights: actions that were refused,
    "" if S3 did not name one.
    """

    source: Bucket
    _: KW_ONLY
    changed: tuple[str, ...] = ()
    gone: int = 0
    kept: tuple[Kept, ...] = ()
    failures: tuple[str, ...] = ()
    stopped: str | None = None
    missing_rights: frozenset[str] = frozenset()

    @property
    def is_complete(self) -> bool:
        """Whether nothing failed; photos that had changed or were gone are no failures."""
        return not self.failures and self.stopped is None


@dataclass(frozen=True)
class RemovalReport(SourceReport):
    """What happened to the photos that one source's plan names.

    deleted also counts the moved ones, but none of kept, changed and gone.
    """

    planned: int
    deleted: int = 0
    freed_bytes: int = 0
    condition: Condition | None = None


@dataclass(frozen=True)
class TagReport(SourceReport):
    """What happened to the tags of one source's photos.

    photos: those that were to be tagged, or were to lose the tag. tagged: with today's date. untagged: they
    had the tag and lost it. untouched: they already had the tag, or did not have the one to be removed.
    values: those of the tag, on the tagged photos.
    """

    photos: int
    tagged: int = 0
    untagged: int = 0
    untouched: int = 0
    values: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RestoreReport:
    """What happened to a journal's photos; failures: "uri: reason".

    missing_rights: actions that were refused, "" if S3 did not name one.
    """

    total: int
    restored: int
    in_place: int
    failures: tuple[str, ...] = ()
    missing_rights: frozenset[str] = frozenset()


def describe_plan(plan: CleansePlan) -> Iterator[str]:
    """Give the lines that describe a plan: each bucket, then all of them."""
    for bucket in plan.buckets:
        yield from _describe_bucket(bucket)
    listed = [bucket for bucket in plan.buckets if bucket.error is None]
    total = sum(bucket.total for bucket in listed)
    labelled = sum(bucket.labelled for bucket in listed)
    not_listed = len(plan.buckets) - len(listed)
    yield "🎯 OVERALL TOTALS" + (f" (without {not_listed} not listed):" if not_listed else ":")
    yield f"   Total: {total}, Labeled: {labelled}, Unlabeled: {total - labelled}"
    yield (
        f"   Would go: {plan.num_photos} photos, storage to be freed: {plan.freed_bytes / MB:.1f} MB "
        f"of {sum(bucket.num_bytes for bucket in listed) / MB:.1f} MB"
    )
    for sentence in plan.kept[:EXAMPLES]:
        yield f"   stays: {sentence}"
    if len(plan.kept) > EXAMPLES:
        yield f"   … and {len(plan.kept) - EXAMPLES} more photos of the plan stay"


def _describe_bucket(bucket: BucketPlan) -> Iterator[str]:
    yield f"📦 {str(bucket.source).removeprefix('s3://')}:"
    if bucket.error is not None:
        yield f"   NOT LISTED: {bucket.error}"
        return
    yield f"   Total: {bucket.total}, Labeled: {bucket.labelled}, Unlabeled: {bucket.unlabelled}"
    notes = [f"{bucket.num_bytes / MB:.1f} MB, {bucket.freed_bytes / MB:.1f} MB of it would be freed"]
    if bucket.num_young:
        notes.append(f"{bucket.num_young} unlabelled stay: they are younger than --min-age-hours")
    if bucket.num_undecodable:
        notes.append(
            f"{bucket.num_undecodable} unlabelled stay: their format cannot be decoded here ({REMEDY})"
        )
    if bucket.num_waiting:
        notes.append(f"{bucket.num_waiting} unlabelled stay: the service stored them to be labelled")
    if bucket.num_without_etag:
        notes.append(f"{bucket.num_without_etag} unlabelled stay: they have no ETag")
    if bucket.num_others:
        notes.append(f"{bucket.num_others} objects are not photos")
    yield f"   {'; '.join(notes)}"
    if bucket.unmatched:
        num, total = len(bucket.unmatched), bucket.num_labels
        yield f"   {num} of {total} labels match no photo: {name_some(bucket.unmatched)}"
    if bucket.refusal is not None:
        yield f"   REFUSED: {bucket.refusal}"
    if num := bucket.resembling.num_rows:
        yield f"   {num} unlabelled photos stay: each resembles a label that matches no photo"
        for row in bucket.resembling.slice(0, EXAMPLES).to_pylist():
            yield f"     {shown(row['uri'])} resembles {quoted(row['label'])}"
        if num > EXAMPLES:
            yield f"     … and {num - EXAMPLES} more"
    for row in bucket.table.slice(0, EXAMPLES).to_pylist():
        yield f"     {shown(row['uri'])}  {row['size'] / 1e3:.1f} kB  {row['modified']:%Y-%m-%d}"
    if bucket.table.num_rows > EXAMPLES:
        yield f"     … and {bucket.table.num_rows - EXAMPLES} more"


def plan_as_dict(plan: CleansePlan) -> dict[str, Any]:
    """Give a plan as plain values, for JSON; `samples` are some of the photos that would be removed."""
    return {
        "buckets": [
            {
                "source": str(bucket.source),
                "total": bucket.total,
                "labelled": bucket.labelled,
                "unlabelled": bucket.unlabelled,
                "labels": bucket.num_labels,
                "unmatched": len(bucket.unmatched),
                "unmatched_labels": list(bucket.unmatched),
                "resembling": bucket.resembling.num_rows,
                "resembling_photos": bucket.resembling.to_pylist(),
                "too_young": bucket.num_young,
                "undecodable": bucket.num_undecodable,
                "waiting": bucket.num_waiting,
                "without_etag": bucket.num_without_etag,
                "others": bucket.num_others,
                "bytes": bucket.num_bytes,
                "would_go": bucket.table.num_rows,
                "would_free_bytes": bucket.freed_bytes,
                "samples": bucket.table["uri"].slice(0, EXAMPLES).to_pylist(),
                "error": str(bucket.error) if bucket.error is not None else None,
                "refusal": bucket.refusal,
            }
            for bucket in plan.buckets
        ],
        "would_go": plan.num_photos,
        "would_free_bytes": plan.freed_bytes,
        "kept": list(map(str, plan.kept)),
    }


def describe_removals(removals: Sequence[RemovalReport], *, is_move: bool) -> Iterator[str]:
    """Give the lines that say what happened to a plan's photos."""
    verb = "moved" if is_move else "deleted"
    for removal in removals:
        parts = [f"{removal.deleted} of {removal.planned} {verb}", f"{removal.freed_bytes / MB:.1f} MB freed"]
        yield from _describe_result(removal, parts)


def _describe_result(report: RemovalReport | TagReport, parts: list[str]) -> Iterator[str]:
    """Give the line of one source, which starts with `parts`, and some photos that stay."""
    if report.kept:
        parts.append(f"{len(report.kept)} stay: the labels changed since the scan")
    if report.changed:
        parts.append(f"{len(report.changed)} stay: changed since the scan")
    if report.gone:
        parts.append(f"{report.gone} were already deleted")
    if report.failures:
        parts.append(f"{len(report.failures)} failed")
    yield f"{report.source}: {', '.join(parts)}"
    for stays in (report.kept, report.changed):
        for sentence in stays[:EXAMPLES]:
            yield f"  stays: {sentence}"


def removal_as_dict(removal: RemovalReport) -> dict[str, Any]:
    """Give what happened to one source's photos as plain values, for JSON."""
    return {
        "source": str(removal.source),
        "planned": removal.planned,
        "deleted": removal.deleted,
        "freed_bytes": removal.freed_bytes,
        "kept": list(map(str, removal.kept)),
        "changed": list(removal.changed),
        "gone": removal.gone,
        "failures": list(removal.failures),
        "stopped": removal.stopped,
        "condition": str(removal.condition) if removal.condition is not None else None,
    }


def describe_tags(reports: Sequence[TagReport]) -> Iterator[str]:
    """Give the lines that say what happened to the photos that were to be tagged."""
    for report in reports:
        parts = [f"{report.tagged} of {report.photos} tagged"]
        if report.untouched:
            parts.append(f"{report.untouched} were tagged before")
        if report.untagged:
            parts.append(f"{report.untagged} lost the tag")
        yield from _describe_result(report, parts)


def describe_untagging(reports: Sequence[TagReport], photos: str) -> Iterator[str]:
    """Give the lines that say how many photos lost the tag; photos: what they are called."""
    for report in reports:
        first = f"the tag was removed from {report.untagged} of {report.photos} {photos}"
        yield from _describe_result(report, [first])


def tags_as_dict(report: TagReport) -> dict[str, Any]:
    """Give what happened to the tags of one source's photos as plain values, for JSON."""
    return {
        "source": str(report.source),
        "photos": report.photos,
        "tagged": report.tagged,
        "untagged": report.untagged,
        "untouched": report.untouched,
        "kept": list(map(str, report.kept)),
        "changed": list(report.changed),
        "gone": report.gone,
        "failures": list(report.failures),
        "stopped": report.stopped,
    }


def describe_restoral(restoral: RestoreReport) -> str:
    """Give the line that says what happened to a journal's photos."""
    return (
        f"{restoral.total} photos in the journal: {restoral.restored} restored, "
        f"{restoral.in_place} already in place, {len(restoral.failures)} failed"
    )


def restoral_as_dict(restoral: RestoreReport) -> dict[str, Any]:
    """Give what happened to a journal's photos as plain values, for JSON."""
    return {
        "photos": restoral.total,
        "restored": restoral.restored,
        "in_place": restoral.in_place,
        "failures": list(restoral.failures),
    }


def find_needed_policy(
    missing_rights: Collection[str],
    sources: Sequence[Bucket],
    *,
    move_to: Bucket | None = None,
    restores: bool = False,
    tags: bool = False,
) -> str | None:
    """Give the IAM policy that `cleanse` needs, as JSON, if it grants what is missing; otherwise None.

    missing_rights: actions as S3 names them, "" for one that it does not name.
    """
    policy = _needed_policy(sources, move_to=move_to, restores=restores, tags=tags)
    granted = {action for statement in json.loads(policy)["Statement"] for action in statement["Action"]}
    return policy if granted.union({""}).intersection(missing_rights) else None


def _needed_policy(sources: Sequence[Bucket], *, move_to: Bucket | None, restores: bool, tags: bool) -> str:
    """Give the IAM policy for a scan and tags, or for a scan and a removal, with moving and restoring.

    S3 compares the ETag of a deletion only with s3:GetObject; s3:PutObject is for the object on which
    `find_condition` tests whether the server does.
    """
    buckets = [f"arn:aws:s3:::{name}" for name in dict.fromkeys(source.name for source in sources)]
    objects = [f"arn:aws:s3:::{source.name}/{source.prefix}*" for source in sources]
    probes = [f"arn:aws:s3:::{source.name}/{source.prefix}.physiq-ray-probe-*" for source in sources]
    if tags:
        rights = ["s3:GetObject", "s3:GetObjectTagging", "s3:PutObjectTagging"]
        statements = [_allow(["s3:ListBucket"], buckets), _allow(rights, objects)]
        return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)
    statements = [
        _allow(["s3:ListBucket"], buckets),
        _allow(["s3:GetObject", "s3:DeleteObject"], objects),
        _allow(["s3:PutObject"], objects if restores else probes),
    ]
    if move_to is not None:
        rights = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
        statements.append(_allow(rights, [f"arn:aws:s3:::{move_to.name}/{move_to.prefix}*"]))
    if restores:
        statements.append(_allow(["s3:ListBucketVersions"], buckets))
        statements.append(_allow(["s3:DeleteObjectVersion"], objects))
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}
