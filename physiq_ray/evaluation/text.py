"""An evaluation report and a comparison as lines for a reader."""

from collections.abc import Sequence

from physiq_ray.evaluation.compare import SIGNIFICANCE, Change, Comparison
from physiq_ray.evaluation.scores import Report


def describe_report(report: Report) -> list[str]:
    """Describe a model's scores: one line for all photos, then a table with a line per pose."""
    return [
        f"{report.num_photos} photos: accuracy {report.accuracy:.2%} ({report.accuracy_interval}), "
        f"top 2 {report.top2_accuracy:.2%}, macro F1 {report.f1:.2%} ({report.f1_interval}); "
        f"calibration error {report.error_before:.3f}, "
        f"{report.error_after:.3f} at temperature {report.temperature:.2f}",
        f"  {'pose':<22} precision  recall      F1  95 % interval of F1  photos",
        *(
            f"  {pose.name:<22} {pose.precision:>9.1%} {pose.recall:>7.1%} {pose.f1:>7.1%}  "
            f"{pose.f1_interval!s:<19}  {pose.count:>6}"
            for pose in report.poses
        ),
    ]


def describe_comparison(comparison: Comparison, *, new: str, old: str) -> list[str]:
    """Describe how a new model differs from an old one; new, old: their addresses."""
    overall, changes = comparison.overall, (comparison.overall, *comparison.poses)
    groups = "" if overall.num_groups == overall.num_photos else f" in {overall.num_groups} groups"
    better = [change for change in changes if change.is_significant and not change.is_worse]
    return [
        f"{new} (new) against {old} (old) on {overall.num_photos} photos{groups}:",
        f"  {'pose':<22}     old     new   change       p  photos",
        *(
            f"  {change.name:<22} {change.old:>7.1%} {change.new:>7.1%} "
            f"{100 * (change.new - change.old):>+8.1f} {change.adjusted:>7.3f} {change.num_photos:>7}"
            for change in changes
        ),
        "  p: exact paired test by groups, corrected for several tests; "
        f"a change is significant below {SIGNIFICANCE:g}",
        *(
            f"  {count} photos show poses that only the {name} model knows; they are wrong for the other one"
            for count, name in ((comparison.num_only_new, "new"), (comparison.num_only_old, "old"))
            if count
        ),
        *(f"  {caution}" for caution in comparison.cautions),
        *_verdicts(comparison.worse, better),
    ]


def _verdicts(worse: Sequence[Change], better: Sequence[Change]) -> list[str]:
    verdicts = [
        f"The new model is significantly {word} on {', '.join(change.name for change in changes)}."
        for word, changes in (("worse", worse), ("better", better))
        if changes
    ]
    return verdicts or ["The new model is neither significantly better nor significantly worse."]
