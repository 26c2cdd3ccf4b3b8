"""Read pose ids and their names from mappings/poses.json, or use the package's eight mandatory poses."""

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol

from physiq_ray.errors import LabelError
from physiq_ray.labels.files import RepeatedKeys, open_records
from physiq_ray.labels.values import WrongValueError, is_blank, is_text, read_pose_id, shown

SHIPPED_FILE = "poses.json"
_ID_COLUMNS = ("id", "poseId", "pose_id")
_NAME_COLUMNS = ("name", "poseName", "pose_name")


class NamesPoses(Protocol):
    """Settings with an address of poses; model_fields_set: the names of the settings that were given."""

    @property
    def poses(self) -> str:
        """A path or s3:// address."""

    @property
    def model_fields_set(self) -> set[str]:
        """The property of pydantic models."""


def load_configured_poses(settings: NamesPoses) -> dict[int, str]:
    """Read the poses that the settings name: pose id → name.

    If no file is named and mappings/poses.json is not in the working directory, the poses are those of the
    package. Raises LabelError like load_poses.
    """
    if "poses" in settings.model_fields_set or Path(settings.poses).exists():
        return load_poses(settings.poses)
    with as_file(files("physiq_ray.labels").joinpath(SHIPPED_FILE)) as path:
        return load_poses(path)


def load_poses(address: str | Path) -> dict[int, str]:
    """Read a file of poses at a path or s3:// address: pose id → name.

    The file has one of the formats of label files, with the columns id and name.
    Raises LabelError: the file does not exist, is not a list of {"id", "name"}, or repeats an id.
    """
    file = open_records(str(address), "poses", lambda column: column in (*_ID_COLUMNS, *_NAME_COLUMNS))
    poses: dict[int, str] = {}
    for number, record in file.records:
        place = file.place(number)
        pose_id, name = _read_pose(place, record)
        if pose_id in poses:
            raise LabelError(f"{place}: pose id {pose_id} occurs twice")
        poses[pose_id] = name
    if not poses:
        raise LabelError(f'{address}: it lists no pose; list each as {{"id": 7, "name": "Back Lat Spread"}}')
    return poses


def _read_pose(place: str, record: Any) -> tuple[int, str]:
    pose_id, name = _first(record, _ID_COLUMNS), _first(record, _NAME_COLUMNS)
    try:
        number = read_pose_id(pose_id)
    except WrongValueError:
        number = None
    if number is None or not is_text(name) or is_blank(name):
        found = dict(record.pairs) if isinstance(record, RepeatedKeys) else record
        raise LabelError(f'{place}: expected {{"id": 7, "name": "Back Lat Spread"}}, got {shown(found)}')
    return number, name.strip()


def _first(record: Any, columns: tuple[str, ...]) -> Any:
    if not isinstance(record, Mapping):
        return None
    return next((record[column] for column in columns if column in record), None)
