"""The catalogue of what is labelled and where.

collect   settings → manifest → words
names     how a name may be written, and the plain form in which two are compared
fold      the labels, an entry a name
exact     which photos a label names exactly
loose     which photo is called as a label writes it in another way
match     which label means which photo
named     the same for the tools that keep or remove photos
build     listings ⋈ labels → the manifest, with a report of what was left out
findings  what the report says of labels and sources
split     groups that must not be torn apart, and which of them are for validation
table     the manifest: one Arrow table, and its file
"""

from physiq_ray.manifest.build import build_manifest, match_photos, require_trainable
from physiq_ray.manifest.collect import collect_manifest, describe_manifest, survey_photos
from physiq_ray.manifest.fold import SPLITS, TEST, TRAIN, VALIDATION
from physiq_ray.manifest.named import NamedPhotos, find_labelled
from physiq_ray.manifest.report import Counted, ManifestReport, SourceReport
from physiq_ray.manifest.split import split_groups
from physiq_ray.manifest.table import MANIFEST_FILE, MANIFEST_SCHEMA, Manifest

__all__ = [
    "MANIFEST_FILE",
    "MANIFEST_SCHEMA",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Counted",
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
