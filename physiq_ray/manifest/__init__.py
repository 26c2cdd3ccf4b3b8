"""The catalogue of what is labelled and where.

collect   settings → manifest → words
match     which label means which photo
table     listings ⋈ labels → one Arrow table, with a report of what was left out
split     groups that must not be torn apart, and which of them are for validation
"""

from physiq_ray.manifest.collect import collect_manifest, describe_manifest, survey_photos
from physiq_ray.manifest.match import NamedPhotos, find_labelled
from physiq_ray.manifest.split import split_groups
from physiq_ray.manifest.table import (
    MANIFEST_FILE,
    MANIFEST_SCHEMA,
    TRAIN,
    VALIDATION,
    Manifest,
    ManifestReport,
    SourceReport,
    build_manifest,
    match_photos,
    require_trainable,
)

__all__ = [
    "MANIFEST_FILE",
    "MANIFEST_SCHEMA",
    "TRAIN",
    "VALIDATION",
    "Manifest",
    "ManifestReport",
    "NamedPhotos",
    "SourceReport",
    "build_manifest",
    "collect_manifest",
    "describe_manifest",
    "find_labelled",
    "match_photos",
    "require_trainable",
    "split_groups",
    "survey_photos",
]
