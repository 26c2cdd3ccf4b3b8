"""Write an audit as text or as plain values."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from physiq_ray.auditing.count import Audit
from physiq_ray.errors import quoted
from physiq_ray.manifest import describe_manifest
from physiq_ray.near import HASH_BITS

UNEVEN = 3.0  # above this imbalance, the report warns
EXAMPLES = 10


def to_dict(audit: Audit) -> dict[str, Any]:
    """Convert the audit to plain values, for JSON."""
    report = audit.manifest.report
    return {
        "sources": [asdict(source) | {"unlabelled": source.unlabelled} for source in report.sources],
        "poses": [asdict(pose) for pose in audit.poses],
        "imbalance": audit.imbalance,
        "conflicts": list(report.conflicts),
        "labels_without_photo": list(report.labels_without_photo),
        "ambiguous": list(report.ambiguous),
        "loose": asdict(report.loose),
        "shared_names": asdict(report.shared_names),
        "no_known_pose": report.num_poseless,
        "by_folder": report.num_by_folder,
        "split_conflicts": list(report.split_conflicts),
        "unknown_poses": list(report.unknown_poses),
        "malformed": list(report.malformed),
        "thin_poses": list(report.thin_poses),
        "poses_without_photo": list(report.poses_without_photo),
        "undecodable": list(report.undecodable),
        "problem": str(report.problem) if report.problem else None,
        "near_duplicate_groups": asdict(report.alike) if report.alike else None,
        "copies": [list(uris) for uris in audit.copies],
        "not_looked_at": list(audit.not_looked_at),
        "check": asdict(audit.check) if audit.check else None,
        "near_duplicates_across_splits": audit.num_near_across,
    }


def describe(audit: Audit) -> Iterator[str]:
    """Yield the lines of the report as text."""
    yield from describe_manifest(audit.manifest, examples=EXAMPLES)
    yield ""
    has_test = any(pose.test for pose in audit.poses)  # most label files give no test split
    yield (
        f"{'pose':>28}  {'train':>7}  {'validation':>10}  {'test':>6}  {'share':>6}"
        if has_test
        else f"{'pose':>28}  {'train':>7}  {'validation':>10}  {'share':>6}"
    )
    for pose in audit.poses:
        name, test = f"{pose.name} ({pose.pose_id})", f"{pose.test:>6}  " if has_test else ""
        yield f"{name:>28}  {pose.train:>7}  {pose.validation:>10}  {test}{pose.share:>6.1%}"
    if (ratio := audit.imbalance) is not None:
        uneven = " – uneven: the model will recognise the rare poses less well" if ratio > UNEVEN else ""
        yield f"the largest pose has {ratio:.1f} times the photos of the smallest{uneven}"
    yield from _listed(
        "contents stored more than once", [" = ".join(map(quoted, uris)) for uris in audit.copies]
    )
    if audit.check is None:
        return
    bad, not_fetched = audit.check.of_step("decode"), audit.check.of_step("fetch")
    yield from _listed("photos cannot be decoded", [f"{quoted(photo.uri)}: {photo.error}" for photo in bad])
    if not_fetched:
        yield from _listed("photos could not be fetched", [photo.error for photo in not_fetched])
    if audit.check.near_duplicates is not None:
        pairs = [
            f"{quoted(a)} ~ {quoted(b)} ({bits} of {HASH_BITS} bits)"
            for a, b, bits in audit.check.near_duplicates
        ]
        yield from _listed("pairs of photos look nearly the same", pairs)
        if across := audit.num_near_across:
            yield (
                f"  {across} of them are in different splits: the validation accuracy will be too high; keep "
                "them together with --group-near-duplicates yes or --group-pattern"
            )


def _listed(what: str, items: Sequence[str]) -> Iterator[str]:
    yield f"{len(items)} {what}"
    yield from (f"  {item}" for item in items[:EXAMPLES])
    if len(items) > EXAMPLES:
        yield f"  and {len(items) - EXAMPLES} more"
