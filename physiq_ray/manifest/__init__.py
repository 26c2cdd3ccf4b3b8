"""Join listings and labels to a catalogue of the usable photos.

collect   settings → manifest → text
names     the ways to write a name, and the plain form in which two names are compared
fold      the labels, one entry per name
exact     the photos that a label names exactly
loose     the photo that a label names in another spelling
match     the photos that each label means, and the verdict on each photo (with a truth table)
named     the same for the tools that keep or remove photos
build     listings ⋈ labels → the manifest, with a report of the photos and labels that are not used
findings  the sentences and counts of the report
report    the report of everything that was found and not used
alike     near-duplicates that are joined to groups
split     groups that must stay in one split, and the choice of the validation groups
subset    a bounded number of photos, chosen by a hash
kfold     the photos of K folds, each with a manifest of the photos of the others
manifest  the manifest: one Arrow table, and its file
"""

from physiq_ray.constants import TEST, TRAIN, VALIDATION
from physiq_ray.manifest.alike import HashPhotos, PhotoHashes
from physiq_ray.manifest.build import match_photos, pattern_texts, require_trainable
from physiq_ray.manifest.collect import (
    collect_manifest,
    describe_manifest,
    match_configured,
    read_manifest,
    survey_photos,
)
from physiq_ray.manifest.kfold import Fold, divide
from physiq_ray.manifest.manifest import MANIFEST_FILE, MANIFEST_SCHEMA, Manifest
from physiq_ray.manifest.named import NamedPhotos, find_labelled
from physiq_ray.manifest.report import SourceReport
from physiq_ray.manifest.split import split_groups

__all__ = [
    "MANIFEST_FILE",
    "MANIFEST_SCHEMA",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Fold",
    "HashPhotos",
    "Manifest",
    "NamedPhotos",
    "PhotoHashes",
    "SourceReport",
    "collect_manifest",
    "describe_manifest",
    "divide",
    "find_labelled",
    "match_configured",
    "match_photos",
    "pattern_texts",
    "read_manifest",
    "require_trainable",
    "split_groups",
    "survey_photos",
]
