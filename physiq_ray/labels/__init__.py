"""Poses, label records and the class mapping: files in, checked values out.

files     an address → records, each with its place: JSON, JSON Lines, CSV, Parquet
values    how a value of a record is read: pose ids, texts, splits
poses     pose ids and their names
labels    who saw which pose in which photo, as an Arrow table
mapping   which output of the network means which pose
"""

from physiq_ray.labels.labels import (
    LABEL_SCHEMA,
    NAMED_SCHEMA,
    Labels,
    load_configured_labels,
    load_labels,
)
from physiq_ray.labels.mapping import ClassMapping
from physiq_ray.labels.poses import load_configured_poses, load_poses

__all__ = [
    "LABEL_SCHEMA",
    "NAMED_SCHEMA",
    "ClassMapping",
    "Labels",
    "load_configured_labels",
    "load_configured_poses",
    "load_labels",
    "load_poses",
]
