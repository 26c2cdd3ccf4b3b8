"""A model card: what a model was made of, what it is worth, and what it is not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from physiq_ray.evaluation.scores import Report

FEW_PHOTOS = 20  # under which a pose's scores are hardly more than an anecdote
SHOWN_SETTINGS = (
    *("weights", "image_size", "train_sizes", "batch_size", "gradient_accumulation", "num_workers"),
    *("learning_rate", "schedule", "warmup_epochs", "head_epochs", "backbone_rate", "max_gradient_norm"),
    *("label_smoothing", "class_weights", "augment", "mixup", "ema_decay", "batch_norm", "precision"),
    *("epochs", "patience", "validation_share", "group_pattern", "seed"),
)


@dataclass(frozen=True)
class Facts:
    """What the card tells of a model besides its scores.

    counts: by pose id, photos to train on and to validate with, without those set aside. scored_on: what
    the scores' photos are, in words.
    """

    run_name: str
    sources: Sequence[str]
    counts: Mapping[int, tuple[int, int]]
    num_skipped: int
    num_quarantined: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    best_epoch: int
    num_epochs: int
    scored_on: str = "the validation photos"


def write_card(report: Report, facts: Facts) -> str:
    """Give the card as Markdown."""
    low, high = wilson_interval(round(report.accuracy * report.num_photos), report.num_photos)
    poses = [
        f"| {pose.pose_id} | {pose.name} | {trained} | {validated} "
        f"| {pose.precision:.1%} | {pose.recall:.1%} | {pose.f1:.1%} | {pose.count} |"
        for pose in report.poses
        for trained, validated in [facts.counts.get(pose.pose_id, (0, 0))]
    ]
    settings = [
        f"| `{name}` | `{_shown(facts.settings[name])}` |"
        for name in SHOWN_SETTINGS
        if name in facts.settings
    ]
    versions = ", ".join(f"{name} {number}" for name, number in facts.versions.items())
    return "\n".join(
        [
            f"# Model card: {facts.run_name}",
            "",
            f"A ResNet50 that tells {len(report.poses)} fitness poses apart in photos of "
            f"{facts.settings.get('image_size', '?')} pixels' side; the weights of epoch {facts.best_epoch} "
            f"of {facts.num_epochs}.",
            "",
            "## Data",
            "",
            f"Sources: {', '.join(f'`{source}`' for source in facts.sources) or 'a saved manifest'}. "
            f"{sum(trained for trained, _ in facts.counts.values())} photos were trained on, "
            f"{sum(validated for _, validated in facts.counts.values())} validated with; "
            f"{facts.num_skipped} were skipped for want of a clear label, {facts.num_quarantined} could not "
            "be read.",
            "",
            "## Results",
            "",
            f"On {facts.scored_on}, {report.num_photos} in all:",
            "",
            "| accuracy | 95 % interval | top 2 | macro precision | macro recall | macro F1 |",
            "|---|---|---|---|---|---|",
            f"| {report.accuracy:.1%} | {low:.1%} to {high:.1%} | {report.top2_accuracy:.1%} "
            f"| {report.precision:.1%} | {report.recall:.1%} | {report.f1:.1%} |",
            "",
            "| id | pose | trained on | validated with | precision | recall | F1 | photos scored |",
            "|---|---|---|---|---|---|---|---|",
            *poses,
            "",
            f"Confidence is off by {report.error_before:.3f} on average as trained, and by "
            f"{report.error_after:.3f} with the temperature {report.temperature:.2f} of the model file.",
            "",
            "## Limits",
            "",
            *(f"- {limit}" for limit in _limits(report, facts)),
            "",
            "## Settings",
            "",
            "| setting | value |",
            "|---|---|",
            *settings,
            "",
            f"Made with {versions}.",
            "",
        ]
    )


def wilson_interval(num_right: int, num_photos: int) -> tuple[float, float]:
    """Give the 95 % interval of a share (Wilson 1927); unlike the usual one it stays between 0 and 1."""
    z = 1.959964
    share = num_right / num_photos
    centre = (share + z**2 / (2 * num_photos)) / (1 + z**2 / num_photos)
    spread = math.sqrt(share * (1 - share) / num_photos + z**2 / (4 * num_photos**2))
    half = z * spread / (1 + z**2 / num_photos)
    return max(0.0, centre - half), min(1.0, centre + half)


def _limits(report: Report, facts: Facts) -> list[str]:
    names = ", ".join(pose.name for pose in report.poses)
    limits = [
        f"Every photo is told to be one of {names}; another pose, or no pose at all, is not noticed.",
        f"The epoch was chosen, and the temperature fitted, on {facts.scored_on}: the scores flatter."
        if facts.scored_on == Facts.scored_on
        else f"The scores are those of {facts.scored_on}, and hold for photos like them.",
    ]
    few = [f"{pose.name} ({pose.count})" for pose in report.poses if pose.count < FEW_PHOTOS]
    if few:
        limits.append(f"Few photos were scored of {', '.join(few)}: their figures may be off by far.")
    if not facts.settings.get("group_pattern"):
        limits.append(
            "No group_pattern was set: only copies of one file were kept on one side, so the same athlete "
            "may have been trained on and validated with."
        )
    return limits


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
