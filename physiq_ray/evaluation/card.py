"""A model card: what a model was made of, what it is worth, and what it is not."""

import math
from collections.abc import Mapping
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
class TrainingPhotos:
    """What a model was trained on.

    counts: by pose id, photos to train on and to validate with. num_skipped: for want of a clear label;
    num_quarantined: not in the counts, as they cannot be read; both None where only the run's manifest
    speaks, whose counts have photos in them that may have been unreadable.
    """

    counts: Mapping[int, tuple[int, int]]
    num_skipped: int | None = None
    num_quarantined: int | None = None


@dataclass(frozen=True)
class ScoredPhotos:
    """What the scores are of.

    words: the photos by name. num_trained_on, num_validated_with: how many of those scored the training
    used so, None where its photos are not known. num_unreadable, num_unknown: left out, as they cannot be
    read or show poses that the model does not know.
    """

    words: str = "the validation photos"
    num_trained_on: int | None = None
    num_validated_with: int | None = None
    num_unreadable: int = 0
    num_unknown: int = 0


@dataclass(frozen=True)
class Facts:
    """What the card tells of a model besides its scores.

    trained: None where it is not known. settings, versions: of the training, empty where the model's file
    holds none. num_epochs: 0 where it holds no history.
    """

    run_name: str
    image_size: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    best_epoch: int
    num_epochs: int
    trained: TrainingPhotos | None
    scored: ScoredPhotos


def write_card(report: Report, facts: Facts) -> str:
    """Give the card as Markdown."""
    low, high = wilson_interval(round(report.accuracy * report.num_photos), report.num_photos)
    epoch = f"; the weights of epoch {facts.best_epoch} of {facts.num_epochs}" if facts.num_epochs else ""
    return "\n".join(
        [
            f"# Model card: {facts.run_name}",
            "",
            f"A ResNet50 that tells {len(report.poses)} fitness poses apart in photos of "
            f"{facts.image_size} pixels' side{epoch}.",
            "",
            "## Data",
            "",
            f"{_trained_on(facts)}{_left_out(facts.scored)}",
            "",
            "## Results",
            "",
            f"On {facts.scored.words}, {report.num_photos} in all:",
            "",
            "| accuracy | 95 % interval | top 2 | macro precision | macro recall | macro F1 |",
            "|---|---|---|---|---|---|",
            f"| {report.accuracy:.1%} | {low:.1%} to {high:.1%} | {report.top2_accuracy:.1%} "
            f"| {report.precision:.1%} | {report.recall:.1%} | {report.f1:.1%} |",
            "",
            *_pose_table(report, facts.trained),
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
            *_settings_table(facts.settings),
            "",
            _made_with(facts.versions),
            "",
        ]
    )


def _trained_on(facts: Facts) -> str:
    sources, manifest, trained = facts.settings.get("sources"), facts.settings.get("manifest"), facts.trained
    if sources:
        photos = f"photos of {', '.join(f'`{source}`' for source in sources)}"
    else:
        photos = f"photos of the manifest `{manifest}`" if manifest else "photos that its file does not name"
    if trained is None:
        return f"Trained on {photos}; how many is not known here, as the run's manifest was not found."
    num_trained, num_validated = (sum(pair[side] for pair in trained.counts.values()) for side in (0, 1))
    if trained.num_skipped is None or trained.num_quarantined is None:
        return (
            f"Trained on {photos}; the run's manifest names {num_trained} to train on and {num_validated} to "
            "validate with."
        )
    return (
        f"Of {photos} {num_trained} were trained on, {num_validated} validated with; {trained.num_skipped} "
        f"were skipped for want of a clear label, {trained.num_quarantined} could not be read."
    )


def _left_out(scored: ScoredPhotos) -> str:
    parts = [
        f"{count} {why}"
        for count, why in (
            (scored.num_unreadable, "could not be read"),
            (scored.num_unknown, "show poses that the model does not know"),
        )
        if count
    ]
    return f" Of {scored.words}, {' and '.join(parts)}: left out." if parts else ""


def _pose_table(report: Report, trained: TrainingPhotos | None) -> list[str]:
    """Give a line a pose; what was trained on only where it is known."""
    known = ["trained on", "validated with"] if trained is not None else []
    titles = ["id", "pose", *known, "precision", "recall", "F1", "photos scored"]
    lines = [
        [
            *(pose.pose_id, pose.name),
            *(trained.counts.get(pose.pose_id, (0, 0)) if trained is not None else ()),
            *(f"{pose.precision:.1%}", f"{pose.recall:.1%}", f"{pose.f1:.1%}", pose.count),
        ]
        for pose in report.poses
    ]
    return [f"| {' | '.join(map(str, line))} |" for line in (titles, ["---"] * len(titles), *lines)]


def _settings_table(settings: Mapping[str, Any]) -> list[str]:
    shown = [f"| `{name}` | `{_shown(settings[name])}` |" for name in SHOWN_SETTINGS if name in settings]
    return ["| setting | value |", "|---|---|", *shown] if shown else ["The model's file names none."]


def _made_with(versions: Mapping[str, str]) -> str:
    if not versions:
        return "The model's file does not say which versions it was made with."
    return f"Made with {', '.join(f'{name} {number}' for name, number in versions.items())}."


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
        _worth(report, facts.scored),
    ]
    few = [f"{pose.name} ({pose.count})" for pose in report.poses if pose.count < FEW_PHOTOS]
    if few:
        limits.append(f"Few photos were scored of {', '.join(few)}: their figures may be off by far.")
    # A saved manifest brings its own groups, and a file without settings says nothing of them.
    own_split = "group_pattern" in facts.settings and not facts.settings.get("manifest")
    if own_split and not facts.settings["group_pattern"]:
        limits.append(
            "No group_pattern was set: only copies of one file were kept on one side, so the same athlete "
            "may have been trained on and validated with."
        )
    return limits


def _worth(report: Report, scored: ScoredPhotos) -> str:
    """Say what the scores promise of new photos: it depends on what the training had of those scored."""
    trained, validated, total = scored.num_trained_on, scored.num_validated_with, report.num_photos
    if trained is None or validated is None:
        return (
            f"Whether any of {scored.words} were trained on is not known here; if so, the scores flatter; if "
            "not, they hold for photos like them."
        )
    if trained == total:
        return (
            f"All {total} photos scored were trained on: the scores say how well they were learnt, and "
            "nothing of new photos."
        )
    if trained:
        return (
            f"{trained} of the {total} photos scored were trained on, {validated} validated with: the scores "
            "flatter."
        )
    if validated == total:
        return f"The epoch was chosen, and the temperature fitted, on {scored.words}: the scores flatter."
    if validated:
        return (
            f"The epoch was chosen, and the temperature fitted, on {validated} of the {total} photos scored: "
            "the scores flatter."
        )
    return (
        f"None of {scored.words} is among the photos of the training, by their addresses: the scores hold "
        "for photos like them."
    )


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
