"""Read label files into one Arrow table.

Every record is read once. Records that cannot be used are kept by name, so that a report can list them; the
other records are used. A million JSON records take five to six seconds.
"""

import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from physiq_ray.errors import LabelError
from physiq_ray.labels.files import RaggedRow, RecordFile, RepeatedKeys, open_records
from physiq_ray.labels.values import (
    LARGEST_ID,
    WrongValueError,
    is_blank,
    is_text,
    read_bucket,
    read_group,
    read_name,
    read_pose_id,
    read_split,
    read_text,
    shown,
)

LABEL_SCHEMA = pa.schema(
    [
        ("name", pa.large_string()),
        ("source", pa.large_string()),
        ("pose_id", pa.int32()),
        ("group", pa.large_string()),
        ("split", pa.large_string()),
    ]
)
NAMED_SCHEMA = pa.schema([("name", pa.large_string()), ("source", pa.large_string())])
# The usual column names of each field, compared without case, blanks, "_" and "-".
USUAL_COLUMNS = {
    "pose_id": ("poseid",),
    "name": ("s3filename", "key", "filename", "uri"),
    "source": ("source", "bucket"),  # if a record has both, the bucket is used
    "group": ("athleteid", "group"),
    "split": ("split",),
}
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "pose_id": read_pose_id,
    "name": read_name,
    "source": read_text,
    "bucket": read_bucket,
    "group": read_group,
    "split": read_split,
}
_SHOWN_COLUMNS = 20
_ROWS_AT_ONCE = 2**16
_KEPT_LAYOUTS = 1000  # records of one export have a few sets of keys


@dataclass(frozen=True)
class Labels:
    """The label files as a table, and the records that could not be used.

    table: one row per usable record: name (exactly as it is written), source (null if the record has none),
    pose_id (null: a person looked and saw no known pose), group (for example an athlete; or null), split
    ("train", "validation", "test" or null).
    malformed, unknown_poses: one sentence per record, which says where the record is.
    unusable: name and source of these records, if a name can be read. Their photos are labelled, and must
    not count as unlabelled, because unlabelled photos may be deleted.
    """

    table: pa.Table
    malformed: tuple[str, ...] = ()
    unknown_poses: tuple[str, ...] = ()
    unusable: pa.Table = field(default_factory=NAMED_SCHEMA.empty_table)


class NamesLabels(Protocol):
    """Settings that name label files and their columns."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Paths or s3:// addresses."""

    @property
    def label_fields(self) -> dict[str, str]:
        """Columns by field."""


def load_configured_labels(settings: NamesLabels, poses: Mapping[int, str]) -> Labels:
    """Read the label files and columns that the settings name; see load_labels."""
    group_field = getattr(settings, "group_field", None)  # missing in commands that do not split photos
    return load_labels(settings.labels, poses, fields=settings.label_fields, group_field=group_field)


def load_labels(
    addresses: Sequence[Any],
    poses: Mapping[int, str],
    *,
    fields: Mapping[str, str] | None = None,
    group_field: str | None = None,
) -> Labels:
    """Read label files at paths or s3:// addresses, and list the records that cannot be used.

    fields: the column that holds "pose_id", "name", "source" or "split", if it has none of the usual names.
    group_field: the column that says which photos belong together. If a record has a named column, only this
    column is read for the field. Several columns of one field in a record must agree. Blank ones are
    ignored, but a null pose is a value.
    Raises LabelError: a file that does not exist or is damaged, a table without a column for pose or name,
    a named column that no record has, a draft that nobody confirmed. A single bad record does not raise it.
    """
    named = {**(fields or {}), **({"group": group_field} if group_field else {})}
    columns = _Columns(named)
    found = _Found(poses, columns)
    for address in addresses:
        found.add(open_records(str(address), "labels", columns.is_used))
    columns.check_named(", ".join(map(str, addresses)))
    return found.to_labels()


def read_label_records(
    address: str,
    records: Sequence[Any],
    poses: Mapping[int, str],
    *,
    fields: Mapping[str, str] | None = None,
) -> tuple[Labels, tuple[int, ...]]:
    """Read the parsed records of one label file; also give the position of each row of the table in them."""
    found = _Found(poses, _Columns(fields or {}))
    found.add(RecordFile(address, "record", None, enumerate(records)))
    return found.to_labels(), tuple(found.numbers)


def find_pose_keys(record: Mapping[str, Any], fields: Mapping[str, str]) -> tuple[str, ...]:
    """Give the keys of a record that hold its pose id."""
    return _Columns(fields).layout(tuple(record)).pose_id


@dataclass(frozen=True)
class _Layout:
    """The columns of a record that hold each field.

    plain: the only column of each field in the order of USUAL_COLUMNS, None for a field without a column.
    It is None as a whole if a field has two columns, or if pose or name has none.
    source_kind: "bucket" if a column of that name holds the source, else "source".
    """

    pose_id: tuple[str, ...]
    name: tuple[str, ...]
    source: tuple[str, ...]
    group: tuple[str, ...]
    split: tuple[str, ...]
    plain: tuple[Any, ...] | None
    source_kind: str

    @classmethod
    def of(cls, columns: Mapping[str, tuple[str, ...]]) -> "_Layout":
        """Build a layout from the columns of each field."""
        named = tuple(column for column in columns["source"] if _plain(column) == "bucket")
        columns = {**columns, "source": named or columns["source"]}
        is_plain = (
            all(len(found) < 2 for found in columns.values()) and columns["pose_id"] and columns["name"]
        )
        one_each = tuple(columns[name][0] if columns[name] else None for name in columns)
        return cls(
            **columns,
            plain=one_each if is_plain else None,
            source_kind="bucket" if named else "source",
        )


class _Columns:
    """Find the columns of each field, by the settings or by the usual names."""

    def __init__(self, named: Mapping[str, str]) -> None:
        self._named = named
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._seen: dict[str, None] = {}
        self._missing = dict(named)
        # A column that the settings assign to one field is not used for another, whatever its name.
        self._taken = {column for name, column in named.items() if name != "group"}

    def is_used(self, column: str) -> bool:
        return column in self._named.values() or any(
            _plain(column) in usual for usual in USUAL_COLUMNS.values()
        )

    def layout(self, keys: tuple[str, ...]) -> _Layout:
        """Assign the keys of a record to fields; the result is cached, as most records have the same keys."""
        layout = self._layouts.get(keys)
        if layout is None:
            if len(self._layouts) >= _KEPT_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[keys] = _Layout.of(
                {name: self._find(name, keys) for name in USUAL_COLUMNS}
            )
            for key in keys[:_SHOWN_COLUMNS]:
                if len(self._seen) < _SHOWN_COLUMNS:
                    self._seen[key] = None
            self._missing = {name: key for name, key in self._missing.items() if key not in keys}
        return layout

    def _find(self, name: str, keys: tuple[str, ...]) -> tuple[str, ...]:
        if self._named.get(name) in keys:
            return (self._named[name],)
        return tuple(key for key in keys if _plain(key) in USUAL_COLUMNS[name] and key not in self._taken)

    def check_table(self, file: RecordFile) -> None:
        """Raise LabelError if a table has no column for the pose or the name."""
        if file.columns is None:
            return
        layout = self.layout(file.columns)
        for name, usual in (("pose_id", "poseId or pose_id"), ("name", "s3Filename, key, filename or uri")):
            if not getattr(layout, name):
                raise LabelError(
                    f"{file.address}: no column {self._named.get(name, usual)}; name the column that holds "
                    f"it with label_fields, for example {name}=COLUMN"
                )

    def check_named(self, addresses: str) -> None:
        """Raise LabelError if no record has a named column: a typing error would ignore all groups."""
        if self._seen and self._missing:
            name, column = next(iter(self._missing.items()))
            setting = f"group_field={column}" if name == "group" else f"label_fields {name}={column}"
            raise LabelError(
                f"{setting}: no record of {addresses} has a column {column!r}; found: {', '.join(self._seen)}"
            )


class _Found:
    """Collect the columns of the table while files are read."""

    def __init__(self, poses: Mapping[int, str], columns: _Columns) -> None:
        self._poses = poses
        self._columns = columns
        self._rows: tuple[list[Any], ...] = ([], [], [], [], [])
        self._tables: list[pa.Table] = []
        self.numbers = array("q")  # of the records in these rows
        self._malformed: list[str] = []
        self._unknown: list[str] = []
        self._unusable: list[tuple[str, str | None]] = []
        self._known: dict[str, dict[str, Any]] = {name: {} for name in _READERS}  # text → value

    def add(self, file: RecordFile) -> None:
        self._columns.check_table(file)
        names, sources, pose_ids, groups, splits = self._rows
        for number, record in file.records:
            if type(record) is dict and record.get("draft") is True:
                raise LabelError(
                    f"{file.place(number)}: a draft of predict --draft-labels, which nobody has confirmed; "
                    "confirm drafts with: physiq-ray review --drafts"
                )
            try:
                name, source, pose_id, group, split = self._read(record)
            except WrongValueError as error:
                self._malformed.append(f"{file.place(number)}: {error}")
                self._keep_names(record)
                continue
            if pose_id is not None and pose_id not in self._poses:
                self._unknown.append(
                    f"{file.place(number)}: {shown(name)}: pose {pose_id} is not among the known poses"
                )
                self._unusable.append((name, source))
                continue
            names.append(name)
            sources.append(source)
            pose_ids.append(pose_id)
            groups.append(group)
            splits.append(split)
            self.numbers.append(number)
            if len(names) == _ROWS_AT_ONCE:
                self._convert()

    def _convert(self) -> None:
        """Move the rows to a table: as Python values, they take six times the memory."""
        self._tables.append(pa.table(list(self._rows), schema=LABEL_SCHEMA))
        for column in self._rows:
            column.clear()

    def to_labels(self) -> Labels:
        self._convert()
        table = pa.concat_tables(self._tables)
        unusable = pa.table(
            [[name for name, _ in self._unusable], [source for _, source in self._unusable]],
            schema=NAMED_SCHEMA,
        )
        return Labels(table, tuple(self._malformed), tuple(self._unknown), unusable)

    def _read(self, record: Any) -> tuple[str, str | None, int | None, str | None, str | None]:
        if type(record) is not dict:
            raise WrongValueError(_why_no_record(record))
        layout = self._columns.layout(tuple(record))
        if layout.plain is not None:  # the usual case has few calls, because there are millions of records
            columns = layout.plain
            name = record[columns[1]]
            if type(name) is str and name.isascii() and name[-1:] > " " and name[-1] != "/":
                pose_id = record[columns[0]]
                if type(pose_id) is not int or not 0 <= pose_id <= LARGEST_ID:
                    pose_id = self._read_known(record, columns[0], "pose_id")
                return (
                    name,
                    None if columns[2] is None else self._read_known(record, columns[2], layout.source_kind),
                    pose_id,
                    None if columns[3] is None else self._read_known(record, columns[3], "group"),
                    None if columns[4] is None else self._read_known(record, columns[4], "split"),
                )
        if not layout.pose_id or not layout.name:
            missing = "poseId" if not layout.pose_id else "s3Filename"
            raise WrongValueError(
                f'no {missing}: expected {{"poseId": 7, "s3Filename": "…"}}, got {shown(record)}'
            )
        return (
            _read_field(record, layout.name, read_name),
            _read_field(record, layout.source, _READERS[layout.source_kind]),
            _read_field(record, layout.pose_id, read_pose_id, null_counts=True),
            _read_field(record, layout.group, read_group),
            _read_field(record, layout.split, read_split),
        )

    def _read_known(self, record: Mapping[str, Any], column: str, what: str) -> Any:
        """Read a column, and cache the value by its text: a million records name only a few sources."""
        value = record[column]
        if type(value) is not str:
            return _read_field(record, (column,), _READERS[what])
        known = self._known[what]
        if value not in known:
            known[value] = _read_field(record, (column,), _READERS[what])
        return known[value]

    def _keep_names(self, record: Any) -> None:
        """Keep every name that a record may mean, so that its photo counts as labelled."""
        pairs = _pairs(record)
        layout = self._columns.layout(tuple(dict(pairs)))
        names = [value for key, value in pairs if key in layout.name]
        sources = {value.strip() for key, value in pairs if key in layout.source and _is_filled(value)}
        is_readable = all(
            _is_filled(value) or is_blank(value) for key, value in pairs if key in layout.source
        )
        if isinstance(record, RaggedRow):  # its cells may be in the wrong columns
            names, sources = [text for name in layout.name for text in record.texts.get(name, ())], set()
        # An unreadable source may mean any bucket, so photos of this name count as labelled in every bucket.
        source = sources.pop() if len(sources) == 1 and is_readable else None
        self._unusable += [(name, source) for name in dict.fromkeys(filter(_is_filled, names))]


def _read_field(
    record: Mapping[str, Any],
    columns: tuple[str, ...],
    read: Callable[[Any], Any],
    *,
    null_counts: bool = False,
) -> Any:
    """Read the columns of one field; raise WrongValueError if they disagree."""
    if len(columns) > 1 and not null_counts:
        columns = tuple(column for column in columns if not is_blank(record[column])) or columns[:1]
    values = []
    for column in columns:
        try:
            values.append(read(record[column]))
        except WrongValueError as error:
            raise WrongValueError(f"{column} {error}") from error
    if any(value != values[0] for value in values):
        both = ", ".join(f"{column} {shown(record[column])}" for column in columns)
        raise WrongValueError(
            f"{both}: they disagree; name the column to read with label_fields or group_field"
        )
    return values[0] if values else None


def _why_no_record(record: Any) -> str:
    if isinstance(record, RepeatedKeys):
        keys = [key for key, _ in record.pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        values = ", ".join(shown(value) for key, value in record.pairs if key == twice)
        return f"key {shown(twice)} occurs twice: {values}; expected it once"
    if isinstance(record, RaggedRow):
        return (
            f"{record.num_cells} cells under {record.num_columns} columns: "
            f"a name with a comma needs quotation marks: got {shown(record.cells)}"
        )
    return f'expected {{"poseId": 7, "s3Filename": "…"}}, got {shown(record)}'


def _pairs(record: Any) -> list[tuple[str, Any]]:
    if isinstance(record, RepeatedKeys):
        return record.pairs
    if isinstance(record, RaggedRow):
        return list(record.cells.items())
    return list(record.items()) if isinstance(record, dict) else []


def _is_filled(value: Any) -> bool:
    return is_text(value) and not is_blank(value)


def _plain(column: str) -> str:
    return re.sub(r"[\s_-]", "", column).casefold()
