"""An evaluation report and a comparison as lines for a reader."""

from collections.abc import Sequence

from physiq_ray.evaluation.compare import SIGNIFICANCE, Change, Comparison
from physiq_ray.evaluation.scores import Report

NEVER_SAW = "the model never saw a photo labelled as no known pose: only its mistakes chose the floor"


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
        *describe_floor(report),
    ]


def describe_floor(report: Report) -> list[str]:
    """Describe when the model answers that a photo shows no known pose, and how well that works."""
    floor, scores = report.floor, report.floor_scores
    if floor is None:
        return ["No floor: each photo gets a pose, also one that shows no known pose"]
    lines = []
    if (choice := floor.choice) is not None:
        areas = ", ".join(f"{name} {area:.3f}" for name, area in choice.aurocs.items())
        missed = "" if choice.is_reached else f", because no threshold reaches {choice.target_precision:.0%}"
        lines = [
            f"No known pose below {floor.score} {floor.threshold:.4g} (AUROC: {areas})",
            f"  chosen on {choice.num_photos} validation photos and {choice.num_null} of no known pose: "
            f"precision {choice.precision:.1%}{missed}, {choice.coverage:.1%} of the poses answered"
            + (f", {choice.refused:.1%} of the others refused" if choice.refused is not None else ""),
        ]
        if not choice.num_null:
            lines.append(f"  {NEVER_SAW}")
    if scores is not None:
        lines.append(
            f"  on the scored photos: precision {scores.precision:.1%} ({scores.precision_interval}), "
            f"{scores.coverage:.1%} ({scores.coverage_interval}) of {scores.num_photos} poses answered"
            + (
                f", {scores.refused:.1%} ({scores.refused_interval}) of {scores.num_null} others refused"
                if scores.refused is not None
                else ""
            )
            + (f", AUROC {scores.auroc:.3f}" if scores.auroc is not None else "")
        )
    return lines


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
