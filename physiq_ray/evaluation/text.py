"""An evaluation report as lines for a reader."""

from physiq_ray.evaluation.scores import Report


def describe_report(report: Report) -> list[str]:
    """Describe a model's scores: one line for all photos, then a table with a line per pose."""
    return [
        f"{report.num_photos} photos: accuracy {report.accuracy:.2%}, top 2 {report.top2_accuracy:.2%}, "
        f"macro F1 {report.f1:.2%}; calibration error {report.error_before:.3f}, "
        f"{report.error_after:.3f} at temperature {report.temperature:.2f}",
        f"  {'pose':<22} precision  recall      F1  photos",
        *(
            f"  {pose.name:<22} {pose.precision:>9.1%} {pose.recall:>7.1%} {pose.f1:>7.1%} {pose.count:>7}"
            for pose in report.poses
        ),
    ]
