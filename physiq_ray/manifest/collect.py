"""Build a manifest from the settings, and describe it as text, for training and the audit."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from physiq_ray.config import Settings, SplitSettings
from physiq_ray.constants import TEST, TRAIN, VALIDATION
from physiq_ray.errors import LabelError, NotFoundError, SettingError, quoted
from physiq_ray.labels import LABEL_SCHEMA, Labels, load_configured_labels
from physiq_ray.manifest.alike import HashPhotos
from physiq_ray.manifest.build import match_photos, require_trainable
from physiq_ray.manifest.manifest import Manifest
from physiq_ray.manifest.report import Alike, Counted
from physiq_ray.storage import (
    REMEDY,
    Bucket,
    Listing,
    PhotoSource,
    absolute_uri,
    follow_settings,
    list_custom,
    list_sources,
    parse_sources,
    read_bytes,
)


def read_manifest(settings: Settings) -> Manifest | None:
    """Read the saved manifest that the settings name, or return None if they name none.

    Raises SettingError if sources are given too; StorageError or DataError if it cannot be read.
    """
    if settings.manifest is None:
        return None
    if settings.sources:
        raise SettingError(
            f"manifest={settings.manifest}: given together with sources={', '.join(settings.sources)}; "
            "a manifest names its photos itself: give one of the two"
        )
    uri = absolute_uri(settings.manifest)
    return Manifest.from_parquet(read_bytes(uri), name=uri)


def collect_manifest(
    settings: SplitSettings,
    poses: Mapping[int, str],
    source: PhotoSource | None = None,
    *,
    hash_photos: HashPhotos | None = None,
) -> Manifest:
    """List the sources, read the labels, join and split. The manifest can be used for training.

    source: replaces the settings' sources. hash_photos: needed if the settings group near-duplicates.
    Raises the errors of parse_sources, load_configured_labels, match_photos and require_trainable.
    """
    return require_trainable(survey_photos(settings, poses, source, hash_photos=hash_photos))


def survey_photos(
    settings: SplitSettings,
    poses: Mapping[int, str],
    source: PhotoSource | None = None,
    *,
    hash_photos: HashPhotos | None = None,
) -> Manifest:
    """List the sources, read the labels, join and split, even if the result cannot be used for training.

    source: replaces the settings' sources. hash_photos: needed if the settings group near-duplicates.
    Raises the errors of parse_sources, load_configured_labels and match_photos.
    """
    if source is not None and settings.sources:
        raise SettingError(
            f"sources={', '.join(settings.sources)}: given together with the source {source.name}; give one"
        )
    sources = () if source is not None else parse_sources(settings.sources)
    follow_settings(settings, [listed.name for listed in sources])
    no_file = None
    try:
        labels = load_configured_labels(settings, poses)
    except LabelError as error:
        # Without a label file, folders named after poses are enough, unless the user named a file. A file
        # that exists must be valid.
        if "labels" in settings.model_fields_set or not isinstance(error.__cause__, NotFoundError):
            raise
        no_file, labels = error, Labels(LABEL_SCHEMA.empty_table())
    listings = list_sources(sources) if source is None else (list_custom(source),)
    manifest = match_configured(listings, labels, poses, settings, hash_photos)
    needs_file = source is not None or any(isinstance(listed, Bucket) for listed in sources)
    if no_file is not None and needs_file and not any(listed.labelled for listed in manifest.report.sources):
        raise no_file
    return manifest


def match_configured(
    listings: Sequence[Listing],
    labels: Labels,
    poses: Mapping[int, str],
    settings: SplitSettings,
    hash_photos: HashPhotos | None = None,
) -> Manifest:
    """Do as `match_photos` does, with the split of the settings.

    Raises SettingError: the settings group near-duplicates, but hash_photos is missing; and the errors of
    match_photos.
    """
    by_hash = settings.group_near_duplicates == "yes"
    if by_hash and hash_photos is None:
        raise SettingError(
            "group_near_duplicates=yes: only train, evaluate and audit read the photos before they divide "
            "them; set group_near_duplicates=no, which gives another split"
        )
    return match_photos(
        listings,
        labels,
        poses,
        source_buckets=settings.source_buckets,
        group_pattern=settings.group_pattern,
        validation_share=settings.validation_share,
        test_share=settings.test_share,
        seed=settings.seed,
        hash_photos=hash_photos if by_hash else None,
    )


def describe_manifest(manifest: Manifest, *, examples: int = 3) -> Iterator[str]:
    """Yield a line for each fact about what was found and what is not used, with some examples by name."""
    report = manifest.report
    for source in report.sources:
        if source.error is not None:
            yield f"{source.source}: left out: {source.error}"
        else:
            unusable = f" ({source.unusable} by unusable labels only)" if source.unusable else ""
            waiting = f" ({source.waiting} stored by the service to be labelled)" if source.waiting else ""
            yield (
                f"{source.source}: {source.total} photos, {source.labelled} labelled{unusable}, "
                f"{source.unlabelled} unlabelled{waiting}, {source.bytes / 1e6:.1f} MB"
            )

    def first(items: Sequence[str], write: Callable[[str], str] = str) -> Counted:
        return Counted(len(items), [write(item) for item in items[:examples]])

    for what, found in (
        ("conflicting labels", first(report.conflicts)),
        ("ambiguous labels, which may mean several photos", first(report.ambiguous, quoted)),
        ("unmatched labels", first(report.labels_without_photo, quoted)),
        ("labels that spell the name of their photo differently", report.loose),
        ("labels whose name fits several photos, which all get its pose", report.shared_names),
        ("labels of unknown poses", first(report.unknown_poses)),
        ("malformed records", first(report.malformed)),
        ("groups whose labels give several splits", first(report.split_conflicts)),
        ("poses with too few photos", first(report.thin_poses)),
        ("poses without a usable photo", first(report.poses_without_photo)),
        (f"photos in a format that cannot be read here ({REMEDY})", first(report.undecodable, quoted)),
    ):
        if found.count:
            shown = found.examples[:examples]
            more = f"; and {found.count - len(shown)} more" if found.count > len(shown) else ""
            yield f"{found.count} {what}: {'; '.join(shown)}{more}"
    if report.num_by_folder:
        yield f"{report.num_by_folder} photos get their pose only from the name of their folder"
    if report.num_poseless:
        yield (
            f"{report.num_poseless} photos show no known pose according to their labels; they teach the "
            "model what to refuse"
        )
    if report.alike is not None:
        yield from _describe_alike(report.alike)
    counts = {name: manifest.split(name).num_rows for name in (TRAIN, VALIDATION, TEST)}
    test = f"{counts[TEST]} to test with, " if counts[TEST] else ""
    yield (
        f"{len(manifest.class_mapping.classes)} poses, {counts[TRAIN]} photos to train on, "
        f"{counts[VALIDATION]} to validate with, {test}{report.num_copies} copies kept with their originals"
    )


def _describe_alike(alike: Alike) -> Iterator[str]:
    if alike.not_fetched.count:
        yield (
            f"{alike.not_fetched.count} photos could not be fetched, so their near-duplicates are not known: "
            f"{'; '.join(alike.not_fetched.examples)}"
        )
    yield f"{alike.num_photos} photos are near-duplicates, joined into {alike.num_groups} groups"
    if alike.is_chained:
        yield (
            f"warning: {alike.largest} of {alike.total} photos are in one group of near-duplicates, because "
            "a chain of similar photos joins them; such a group makes the split uneven: look at its photos "
            "with physiq-ray audit --near-duplicates, or set group_near_duplicates=no"
        )
