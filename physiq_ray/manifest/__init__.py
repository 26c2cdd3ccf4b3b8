"""The catalogue of what is labelled and where.

collect   settings → manifest → text
names     how a name may be written, and the plain form in which two names are compared
fold      the labels, one entry per name
exact     which photos a label names exactly
loose     which photo a label names in another spelling
match     which photos each label names, and what the labels say of each photo
named     the same for the tools that keep or remove photos
build     listings ⋈ labels → the manifest, with a report of what was left out
findings  what the report says of labels and sources
report    the report of what was found and not used
split     groups that must stay in one split, and which of them are for validation
manifest  the manifest: one Arrow table, and its file
"""

from physiq_ray.manifest.build import match_photos, require_trainable
from physiq_ray.manifest.collect import collect_manifest, describe_manifest, read_manifest, survey_photos
from physiq_ray.manifest.fold import TEST, TRAIN, VALIDATION
from physiq_ray.manifest.manifest import MANIFEST_FILE, MANIFEST_SCHEMA, Manifest
from physiq_ray.manifest.named import NamedPhotos, find_labelled
from physiq_ray.manifest.report import Counted, ManifestReport, SourceReport
from physiq_ray.manifest.split import split_groups

__all__ = [
    "MANIFEST_FILE",
    "MANIFEST_SCHEMA",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Counted",
    "Manifest",
    "ManifestReport",
    "NamedPhotos",
    "SourceReport",
    "collect_manifest",
    "describe_manifest",
    "find_labelled",
    "match_photos",
    "read_manifest",
    "require_trainable",
    "split_groups",
    "survey_photos",
]
