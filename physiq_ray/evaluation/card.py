"""The model card: the training data of a model, its scores and its limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from physiq_ray.evaluation.behaviour import Behaviour
from physiq_ray.evaluation.scores import Report
from physiq_ray.evaluation.sections import card_limits, card_sections
from physiq_ray.evaluation.slices import Slices
from physiq_ray.evaluation.text import describe_floor

FEW_PHOTOS = 20  # with fewer photos, the scores of a pose are very uncertain
SHOWN_SETTINGS = (
    *("weights", "image_size", "train_sizes", "batch_size", "gradient_accumulation", "num_workers"),
    *("learning_rate", "schedule", "warmup_epochs", "head_epochs", "backbone_rate", "max_gradient_norm"),
    *("label_smoothing", "class_weights", "augment", "mixup", "ema_decay", "batch_norm", "precision"),
    *("epochs", "patience", "validation_share", "test_share", "group_pattern", "group_near_duplicates"),
    *("target_precision", "seed"),
)


@dataclass(frozen=True)
class TrainingPhotos:
    """The photos of a training.

    counts: pose id → number of training photos, number of validation photos. num_skipped: photos without a
    clear label. num_quarantined: unreadable photos, which are not in counts. Both are None if only the
    manifest of the run is known; then counts may include unreadable photos.
    """

    counts: Mapping[int, tuple[int, int]]
    num_skipped: int | None = None
    num_quarantined: int | None = None


@dataclass(frozen=True)
class ScoredPhotos:
    """The photos that were scored.

    words: their name. num_trained_on, num_validated_with: how many of them were training and validation
    photos, None if the photos of the training are not known. num_unreadable, num_unknown: photos without a
    score, because they are unreadable or show poses that the model does not know.
    """

    words: str = "the validation photos"
    num_trained_on: int | None = None
    num_validated_with: int | None = None
    num_unreadable: int = 0
    num_unknown: int = 0


@dataclass(frozen=True)
class Facts:
    """The facts on the card that are not scores.

    trained: None if it is not known. settings, versions: those of the training, empty if the model file has
    none. num_epochs: 0 if the model file has no history.
    """

    run_name: str
    image_size: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    best_epoch: int
    num_epochs: int
    trained: TrainingPhotos | None
    scored: ScoredPhotos


def write_card(
    report: Report, facts: Facts, slices: Slices | None = None, behaviour: Behaviour | None = None
) -> str:
    """Give the card as Markdown."""
    epoch = f", the weights of epoch {facts.best_epoch} of {facts.num_epochs}" if facts.num_epochs else ""
    return "\n".join(
        [
            f"# Model card: {facts.run_name}",
            "",
            f"This model is a ResNet50 that recognises {len(report.poses)} fitness poses in photos of "
            f"{facts.image_size} × {facts.image_size} pixels{epoch}.",
            "",
            "## Data",
            "",
            f"{_trained_on(facts)}{_left_out(facts.scored)}",
            "",
            "## Results",
            "",
            f"The model was scored on {facts.scored.words}, {report.num_photos} in total"
            f"{_in_groups(report)}:",
            "",
            "| accuracy | 95 % interval | top 2 | macro precision | macro recall | macro F1 | interval |",
            "|---|---|---|---|---|---|---|",
            f"| {report.accuracy:.1%} | {report.accuracy_interval} | {report.top2_accuracy:.1%} "
            f"| {report.precision:.1%} | {report.recall:.1%} | {report.f1:.1%} | {report.f1_interval} |",
            "",
            *_pose_table(report, facts.trained),
            "",
            f"The expected calibration error is {report.error_before:.3f} without a temperature, and "
            f"{report.error_after:.3f} with the temperature {report.temperature:.2f} of the model file.",
            "",
            *card_sections(slices, behaviour),
            "## Limits",
            "",
            *(f"- {limit}" for limit in (*_limits(report, facts), *card_limits(slices, behaviour))),
            "",
            "## No known pose",
            "",
            *(line.strip() + "  " for line in describe_floor(report)),
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
        return (
            f"The model was trained on {photos}. Their number is not known, because the manifest of the run "
            "was not found."
        )
    num_trained, num_validated = (sum(pair[side] for pair in trained.counts.values()) for side in (0, 1))
    if trained.num_skipped is None or trained.num_quarantined is None:
        return (
            f"The model was trained on {photos}. The manifest of the run names {num_trained} training photos "
            f"and {num_validated} validation photos."
        )
    return (
        f"The model was trained on {photos}: {num_trained} training photos and {num_validated} validation "
        f"photos. Photos without a clear label were skipped: {trained.num_skipped}. Unreadable photos were "
        f"quarantined: {trained.num_quarantined}."
    )


def _in_groups(report: Report) -> str:
    if report.num_groups == report.num_photos:
        return ""
    return f" from {report.num_groups} groups of photos that belong together, which widen the intervals"


def _left_out(scored: ScoredPhotos) -> str:
    parts = [
        f"{count} {why}"
        for count, why in (
            (scored.num_unreadable, "unreadable"),
            (scored.num_unknown, "with poses that the model does not know"),
        )
        if count
    ]
    return f" Some of {scored.words} were not scored: {', '.join(parts)}." if parts else ""


def _pose_table(report: Report, trained: TrainingPhotos | None) -> list[str]:
    """Give one line for each pose, with the photos of the training if they are known."""
    known = ["trained on", "validated with"] if trained is not None else []
    titles = ["id", "pose", *known, "precision", "recall", "F1", "95 % interval of F1", "photos scored"]
    lines = [
        [
            *(pose.pose_id, pose.name),
            *(trained.counts.get(pose.pose_id, (0, 0)) if trained is not None else ()),
            *(f"{pose.precision:.1%}", f"{pose.recall:.1%}", f"{pose.f1:.1%}", pose.f1_interval, pose.count),
        ]
        for pose in report.poses
    ]
    return [f"| {' | '.join(map(str, line))} |" for line in (titles, ["---"] * len(titles), *lines)]


def _settings_table(settings: Mapping[str, Any]) -> list[str]:
    shown = [f"| `{name}` | `{_shown(settings[name])}` |" for name in SHOWN_SETTINGS if name in settings]
    return ["| setting | value |", "|---|---|", *shown] if shown else ["The model file contains no settings."]


def _made_with(versions: Mapping[str, str]) -> str:
    if not versions:
        return "The model file does not name the versions of the software that made it."
    return f"The model was made with {', '.join(f'{name} {number}' for name, number in versions.items())}."


def _limits(report: Report, facts: Facts) -> list[str]:
    names = ", ".join(pose.name for pose in report.poses)
    refuses = (
        "It does so even if the photo shows another pose or no pose."
        if report.floor is None
        else "It refuses photos below its floor, but some photos of another pose or of no pose are above it."
    )
    limits = [
        f"The model knows only these poses: {names}. {refuses}",
        _worth(report, facts.scored),
    ]
    few = [f"{pose.name} ({pose.count})" for pose in report.poses if pose.count < FEW_PHOTOS]
    if few:
        limits.append(
            f"Few photos were scored for {', '.join(few)}, so the scores of these poses are very uncertain."
        )
    # A saved manifest has its own groups, and a model file without settings says nothing about groups.
    own_split = "group_pattern" in facts.settings and not facts.settings.get("manifest")
    if own_split and not facts.settings["group_pattern"]:
        near = " and near-duplicates" if facts.settings.get("group_near_duplicates") == "yes" else ""
        limits.append(
            f"No group_pattern was set. Only copies of one file{near} were "
            "kept in the same split, so training and validation photos may show the same athlete."
        )
    return limits


def _worth(report: Report, scored: ScoredPhotos) -> str:
    """Say what the scores mean for new photos; this depends on how the training used the scored photos."""
    trained, validated, total = scored.num_trained_on, scored.num_validated_with, report.num_photos
    if trained is None or validated is None:
        return (
            f"It is not known whether the model was trained on any of {scored.words}. If it was, the scores "
            "are too high; if not, they are valid for similar photos."
        )
    if trained == total:
        return (
            f"All {total} scored photos were training photos: the scores show how well the model learned "
            "them, and say nothing about new photos."
        )
    if trained:
        return (
            f"{trained} of the {total} scored photos were training photos and {validated} were validation "
            "photos, so the scores are too high."
        )
    if validated == total:
        return f"The epoch and the temperature were chosen on {scored.words}, so the scores are too high."
    if validated:
        return (
            f"The epoch and the temperature were chosen on {validated} of the {total} scored photos, so the "
            "scores are too high."
        )
    return (
        f"None of {scored.words} has the address of a photo of the training, so the scores are valid for "
        "similar photos."
    )


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
