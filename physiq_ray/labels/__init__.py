"""Read poses, label records and the class mapping, and check their values.

files     the records of a file (JSON, JSON Lines, CSV, Parquet), each with its line or number
values    the rules by which a value of a record is read: pose ids, texts, splits
poses     pose ids and their names
labels    the label records as an Arrow table
mapping   the pose id of each class index
merge     decisions about photos → the new text of a label file, and conflicts

A name is imported from its file when it is used first: the file of label records needs Arrow.
"""

from typing import TYPE_CHECKING

from physiq_ray.lazy import import_when_used

if TYPE_CHECKING:
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

__getattr__ = import_when_used(
    __name__,
    {
        "labels": ("LABEL_SCHEMA", "NAMED_SCHEMA", "Labels", "load_configured_labels", "load_labels"),
        "mapping": ("ClassMapping",),
        "poses": ("load_configured_poses", "load_poses"),
    },
)
