"""The pose id of each class index: the content of class_mapping.json, and where this file is found.

It is next to the state dict that it belongs to, and a copy of it is in the archive of the state dict.
"""

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from physiq_ray.errors import LabelError
from physiq_ray.labels.values import LARGEST_ID
from physiq_ray.storage import join_uri, read_bytes

MAPPING_FILE = "class_mapping.json"


@dataclass(frozen=True)
class ClassMapping:
    """Pose ids as strings in string order; the position of a pose id is its class index.

    torchvision's ImageFolder numbers folders that are named after the ids in the same order.
    """

    classes: tuple[str, ...]

    @classmethod
    def of_poses(cls, pose_ids: Iterable[int]) -> "ClassMapping":
        """Build the mapping of the poses that have photos."""
        return cls(tuple(sorted({str(pose_id) for pose_id in pose_ids})))

    @classmethod
    def from_dict(cls, value: object) -> "ClassMapping":
        """Read the form that `to_dict` writes.

        Raises LabelError: a key is missing, or the three parts contradict each other.
        """
        try:
            if not isinstance(value, Mapping):
                raise TypeError
            classes = value.get("classes")
            if classes is None:  # files of the original project may hold only the two dictionaries
                classes = sorted(value["class_to_idx"], key=lambda pose: int(value["class_to_idx"][pose]))
            mapping = cls(tuple(str(pose) for pose in classes))
            written = mapping.to_dict()
            idx_to_class = value.get("idx_to_class", written["idx_to_class"])
            consistent = (
                bool(mapping.classes)
                and len(set(mapping.classes)) == len(mapping.classes)
                and all(_is_id(pose) for pose in mapping.classes)
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
        """Class index by pose id (a string)."""
        return {pose: index for index, pose in enumerate(self.classes)}

    @property
    def pose_ids(self) -> tuple[int, ...]:
        """Pose ids in the order of the network's outputs."""
        return tuple(int(pose) for pose in self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of class_mapping.json."""
        return {
            "class_to_idx": self.class_to_idx,
            "idx_to_class": {str(index): pose for pose, index in self.class_to_idx.items()},
            "classes": list(self.classes),
        }


def uri_beside(address: str) -> str:
    """Give the uri of the class mapping next to a file."""
    folder = address.rpartition("/")[0] if address.startswith("s3://") else str(Path(address).parent)
    return join_uri(folder, MAPPING_FILE)


def read_beside(address: str) -> object:
    """Read the class mapping next to a file, unchecked.

    Raises StorageError. LabelError: it is not JSON.
    """
    uri = uri_beside(address)
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise LabelError(f"{uri}: not JSON: {error}") from error


def name_in(archive: zipfile.ZipFile) -> str:
    """Name the copy of the mapping in a state dict's archive; torch refuses entries outside its folder."""
    return f"{archive.namelist()[0].partition('/')[0]}/{MAPPING_FILE}"


def read_inside(file: IO[bytes]) -> object:
    """Read the copy of the mapping in the archive of a state dict, unchecked; None if it has no copy.

    Other programs and old versions do not write one.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return json.loads(archive.read(name_in(archive)))
    except (IndexError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= LARGEST_ID
