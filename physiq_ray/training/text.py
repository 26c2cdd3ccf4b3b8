"""The result of a training as lines for a reader, and as a dict for JSON."""

from typing import Any

from physiq_ray.constants import TEST
from physiq_ray.evaluation.sections import describe_slices
from physiq_ray.evaluation.text import describe_report
from physiq_ray.quarantine import count_steps
from physiq_ray.training.finish import TrainingResult

SHOWN_PHOTOS = 3  # quarantined ones that are named


def describe_result(result: TrainingResult) -> list[str]:
    """Describe the best epoch, its scores, the photos and the files. Failed sources are not among them."""
    used = " + ".join(f"{count} {split}" for split, count in result.num_used.items())
    steps = ", ".join(f"{count} {step}" for step, count in count_steps(result.unreadable).items())
    return [
        *([result.stopped] if result.stopped is not None else ()),
        f"Best validation accuracy {result.best_accuracy:.2%} in epoch {result.best_epoch}",
        *(["Scores on the test photos, which chose nothing:"] if result.scored_split == TEST else ()),
        *(describe_report(result.report) if result.report is not None else ()),
        *(describe_slices(result.slices) if result.slices is not None else ()),
        f"Photos: {used} used, {result.num_skipped} skipped, {len(result.unreadable)} quarantined"
        + (f" ({steps})" if steps else ""),
        *(f"  quarantined {item.uri}: {item.error}" for item in result.unreadable[:SHOWN_PHOTOS]),
        "Files:",
        *(f"  {uri}" for uri in result.files),
    ]


def result_as_dict(result: TrainingResult) -> dict[str, Any]:
    """Give what `train --json` prints."""
    return {
        "run_name": result.run_name,
        "best_epoch": result.best_epoch,
        "stopped": result.stopped,
        "best_validation_accuracy": result.best_accuracy,
        "scored_split": result.scored_split,
        "report": result.report.to_dict() if result.report is not None else None,
        "slices": result.slices.to_dict() if result.slices is not None else None,
        "files": list(result.files),
        "photos": {**result.num_used, "skipped": result.num_skipped, "quarantined": len(result.unreadable)},
        "quarantined_by_step": count_steps(result.unreadable),
        "failed_sources": list(result.failed_sources),
        "history": list(result.history),
    }
