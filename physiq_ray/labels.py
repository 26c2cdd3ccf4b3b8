"""Poses, label records and the class mapping: JSON in, checked values out.

Every record of the label file is looked at once; what cannot be used is kept by name, so that a report
can list it, and the rest goes on. A million records take about two seconds.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from physiq_ray.errors import LabelError

LABEL_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("source", pa.string()),
        ("pose_id", pa.int32()),
        ("group", pa.string()),
        ("split", pa.string()),
    ]
)
NAMED_SCHEMA = pa.schema([("name", pa.string()), ("source", pa.string())])


@dataclass(frozen=True)
class Labels:
    """The label file as a table, and what of it could not be used.

    table: one row a usable record: name (exactly as written), source (null where the record has none),
    pose_id (null where a person saw no known pose), group and split (null where the record has none).
    malformed and unknown_poses: one sentence a record, naming it.
    unusable: name and source of these records where a name can be read. Somebody labelled such a photo:
    it must not pass for one that nobody did, as those are deleted.
    """

    table: pa.Table
    malformed: tuple[str, ...] = ()
    unknown_poses: tuple[str, ...] = ()
    unusable: pa.Table = field(default_factory=NAMED_SCHEMA.empty_table)


@dataclass(frozen=True)
class ClassMapping:
    """Which output of the network means which pose: pose ids as strings, in string order.

    That is the order in which torchvision's ImageFolder would number folders named after the ids.
    """

    classes: tuple[str, ...]

    @classmethod
    def of_poses(cls, pose_ids: Iterable[int]) -> "ClassMapping":
        """Build the mapping of the poses that have photos."""
        return cls(tuple(sorted({str(pose_id) for pose_id in pose_ids})))

    @classmethod
    def from_dict(cls, value: object) -> "ClassMapping":
        """Read the form that `to_dict` writes.

        Raises LabelError: keys missing, or the three parts contradict each other.
        """
        try:
            if not isinstance(value, Mapping):
                raise TypeError
            classes = value.get("classes")
            if classes is None:  # the origin's files may hold the two dictionaries only
                classes = sorted(value["class_to_idx"], key=lambda pose: int(value["class_to_idx"][pose]))
            mapping = cls(tuple(str(pose) for pose in classes))
            written = mapping.to_dict()
            idx_to_class = value.get("idx_to_class", written["idx_to_class"])
            consistent = (
                bool(mapping.classes)
                and len(set(mapping.classes)) == len(mapping.classes)
                and all(_is_pose_id(pose) for pose in mapping.classes)
                and {str(pose): int(index) for pose, index in value["class_to_idx"].items()}
                == written["class_to_idx"]
                and {str(index): str(pose) for index, pose in idx_to_class.items()} == written["idx_to_class"]
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            consistent = False
        if not consistent:
            raise LabelError(
                'class mapping: expected {"class_to_idx": {"1": 0, …}, "idx_to_class": {"0": "1", …}, '
                f'"classes": ["1", …]}} in agreement, got {str(value)[:200]}'
            )
        return mapping

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Pose id as a string → class index."""
        return {pose: index for index, pose in enumerate(self.classes)}

    @property
    def pose_ids(self) -> tuple[int, ...]:
        """Pose ids in the order of the network's outputs."""
        return tuple(int(pose) for pose in self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Give the content of class_mapping.json."""
        return {
            "class_to_idx": self.class_to_idx,
            "idx_to_class": {str(index): pose for pose, index in self.class_to_idx.items()},
            "classes": list(self.classes),
        }


def load_poses(path: Path) -> dict[int, str]:
    """Read mappings/poses.json: pose id → name.

    Raises LabelError: no such file, not a JSON list of {"id", "name"}, an id twice.
    """
    poses: dict[int, str] = {}
    for number, record in enumerate(_read_records(path, "poses"), start=1):
        pose_id, name = _fields(record, "id", "name")
        if not _is_pose_id(pose_id) or not _is_text(name) or not name.strip():
            raise LabelError(
                f'{path}: record {number}: expected {{"id": 7, "name": "Back Lat Spread"}}, '
                f"got {json.dumps(record)[:200]}"
            )
        if int(pose_id) in poses:
            raise LabelError(f"{path}: record {number}: pose id {pose_id} stands there twice")
        poses[int(pose_id)] = name.strip()
    if not poses:
        raise LabelError(f"{path}: no poses in it; list each as {{'id': …, 'name': …}}")
    return poses


def load_labels(path: Path, poses: Mapping[int, str]) -> Labels:
    """Read mappings/db_labels.json, keeping what cannot be used by name.

    Raises LabelError: no such file, or not a JSON list. A single bad record never does.
    """
    names: list[str] = []
    sources: list[str | None] = []
    pose_ids: list[int | None] = []
    groups: list[str | None] = []
    splits: list[str | None] = []
    malformed: list[str] = []
    unknown: list[str] = []
    unusable: list[tuple[str, str | None]] = []
    for number, record in enumerate(_read_records(path, "labels"), start=1):
        pose_id, name, source, group, split = _fields(
            record, "poseId", "s3Filename", "source", "athleteId", "split"
        )
        has_name = _is_text(name) and bool(name.rpartition("/")[2].strip())
        is_poseless = isinstance(record, dict) and "poseId" in record and pose_id is None
        is_right = (is_poseless or _is_pose_id(pose_id)) and all(
            value is None or _is_text(value) for value in (source, group)
        )
        if not has_name or not is_right or split not in {None, "train", "validation", "test"}:
            malformed.append(
                f'record {number}: expected {{"poseId": 7, "s3Filename": "…"}}, '
                f"got {json.dumps(record)[:200]}"
            )
            if has_name:
                # A source that cannot be read may be any: the photo of this name counts in every bucket.
                unusable.append((name, source if _is_text(source) else None))
        elif not is_poseless and int(pose_id) not in poses:
            unknown.append(f"record {number}: {name}: pose {pose_id} is not among the known poses")
            unusable.append((name, source))
        else:
            names.append(name)
            sources.append(source)
            pose_ids.append(None if is_poseless else int(pose_id))
            groups.append(group)
            splits.append(split)
    table = pa.table([names, sources, pose_ids, groups, splits], schema=LABEL_SCHEMA)
    named = pa.table(
        [[name for name, _ in unusable], [source for _, source in unusable]], schema=NAMED_SCHEMA
    )
    return Labels(table, tuple(malformed), tuple(unknown), named)


def _read_records(path: Path, what: str) -> list[Any]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LabelError(
            f"{path}: no such {what} file; give its path with --{what} or PHYSIQ_{what.upper()}"
        ) from error
    except OSError as error:
        raise LabelError(f"{path}: the {what} file cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested a thousand deep
        raise LabelError(f"{path}: the {what} file is not JSON: {error}") from error
    if not isinstance(records, list):
        raise LabelError(f"{path}: expected a JSON list of {what}, got a {type(records).__name__}")
    return records


def _fields(record: object, *keys: str) -> tuple[Any, ...]:
    return tuple(record.get(key) if isinstance(record, dict) else None for key in keys)


def _is_text(value: object) -> bool:
    # JSON's \ud800 is half a character: Python takes it, no key and no Arrow column does.
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_pose_id(value: object) -> bool:
    # A database export may quote its numbers; True is an int to Python, but no pose.
    if isinstance(value, str):
        return value.isascii() and value.isdecimal() and len(value) <= 10 and int(value) < 2**31
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
