"""From the settings to a manifest, and from a manifest to words: what training and the audit both do."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from physiq_ray.config import SplitSettings
from physiq_ray.errors import LabelError
from physiq_ray.labels import LABEL_SCHEMA, Labels, load_labels
from physiq_ray.manifest.table import TRAIN, VALIDATION, Manifest, match_photos, require_trainable
from physiq_ray.storage import Folder, list_sources, parse_sources


def collect_manifest(settings: SplitSettings, poses: Mapping[int, str]) -> Manifest:
    """List the sources, read the labels, join and split: what can be trained on.

    Raises PhysiqError as parse_sources, load_labels and build_manifest do.
    """
    return require_trainable(survey_photos(settings, poses))


def survey_photos(settings: SplitSettings, poses: Mapping[int, str]) -> Manifest:
    """List the sources, read the labels, join and split, whatever comes of it: `match_photos`.

    Raises PhysiqError as parse_sources, load_labels and match_photos do.
    """
    sources = parse_sources(settings.sources)
    try:
        labels = load_labels(Path(settings.labels), poses)
    except LabelError as error:
        # Folders named after poses are labels enough, unless a file was asked for by name; one that is there
        # must be right, though.
        is_missing = isinstance(error.__cause__, FileNotFoundError)
        is_asked_for = "labels" in settings.model_fields_set
        if is_asked_for or not is_missing or not all(isinstance(source, Folder) for source in sources):
            raise
        labels = Labels(LABEL_SCHEMA.empty_table())
    return match_photos(
        list_sources(sources),
        labels,
        poses,
        source_buckets=settings.source_buckets,
        group_pattern=settings.group_pattern,
        validation_share=settings.validation_share,
        seed=settings.seed,
    )


def describe_manifest(manifest: Manifest, *, examples: int = 3) -> Iterator[str]:
    """Say what was found and what was left out, a line each, with some examples by name."""
    report = manifest.report
    for source in report.sources:
        if source.error is not None:
            yield f"{source.source}: left out: {source.error}"
        else:
            unusable = f" ({source.unusable} by unusable labels only)" if source.unusable else ""
            yield (
                f"{source.source}: {source.total} photos, {source.labelled} labelled{unusable}, "
                f"{source.unlabelled} without a label, {source.bytes / 1e6:.1f} MB"
            )
    for what, items in (
        ("conflicting labels", report.conflicts),
        ("labels without a photo", report.labels_without_photo),
        ("labels of unknown poses", report.unknown_poses),
        ("malformed labels", report.malformed),
        ("poses with too few photos", report.thin_poses),
        ("poses without a usable photo", report.poses_without_photo),
        ("photos of a kind that cannot be decoded (HEIC): convert them to JPEG", report.undecodable),
    ):
        if items:
            more = f"; and {len(items) - examples} more" if len(items) > examples else ""
            yield f"{len(items)} {what}: {'; '.join(items[:examples])}{more}"
    counts = {name: manifest.split(name).num_rows for name in (TRAIN, VALIDATION)}
    yield (
        f"{len(manifest.class_mapping.classes)} poses, {counts[TRAIN]} photos to train on, "
        f"{counts[VALIDATION]} to validate with, {report.num_copies} copies kept on one side"
    )
