"""Decisions about photos and the text of a label file → its new text, and the conflicts. No file is written.

Every record that stays is copied character by character. A decision about a photo without a label is
appended. If a label of somebody else gives another pose, the decision is a conflict, unless the person saw
that pose when deciding: then only the pose id in that record changes. The records that a decision wrote are
recognised by `by`, `time` and their pose. So a second merge of the same decisions changes nothing, an undone
decision takes its record back, and a record that somebody changed since counts as theirs.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from physiq_ray.errors import LabelError, shown
from physiq_ray.labels.files import JSON_ENDINGS, RepeatedKeys
from physiq_ray.labels.labels import find_pose_keys

POSE_KEY, NAME_KEY, BY_KEY, TIME_KEY = "poseId", "s3Filename", "by", "time"
_BLANKS = re.compile(r"[ \t\r\n\ufeff]*")


@dataclass(frozen=True)
class Decided:
    """What one person decided about one photo, first to last.

    uri: names exactly this photo, also in the new record. pose_id: None for no known pose. is_undone: the
    photo is to be as it was before; pose_id is the pose that was seen then, if any. written: the time and
    pose of all decisions, undone ones too. replaced: the poses of somebody else's label that the decision may
    replace. corrects: the pose of the label that the person saw, empty if there was none.
    """

    uri: str
    pose_id: int | None
    by: str
    time: str
    written: frozenset[tuple[str, int | None]]
    replaced: frozenset[int | None] = frozenset()
    corrects: frozenset[int | None] = frozenset()
    is_undone: bool = False


@dataclass(frozen=True)
class Existing:
    """A label of a photo. number: of its record in the file, None if it is elsewhere, which where says.

    is_shared: the record names other photos too.
    """

    pose_id: int | None
    number: int | None = None
    is_shared: bool = False
    where: str = ""


@dataclass(frozen=True)
class LabelText:
    """The text of a label file in JSON or JSON Lines, and the records in it with their places."""

    text: str
    is_list: bool
    records: tuple[Any, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


@dataclass
class Merged:
    """The new text of a label file, and what became of the decisions."""

    text: str = ""
    num_added: int = 0
    num_changed: int = 0
    num_removed: int = 0
    num_same: int = 0
    conflicts: list[str] = field(default_factory=list)


def parse_label_text(address: str, data: bytes | None) -> LabelText:
    """Find the records of a label file; None: there is no file yet.

    Raises LabelError: it is damaged, or neither JSON nor JSON Lines.
    """
    if data is None:
        if not address.lower().endswith(JSON_ENDINGS):
            raise LabelError(
                f"{address}: labels are merged into JSON or JSON Lines; name a file .json or .jsonl"
            )
        is_list = address.lower().endswith(".json")
        return LabelText("[\n]\n" if is_list else "", is_list)
    try:
        text = data.decode()
        start = _skip_blanks(text, 0)
        if text[start : start + 1] not in ("[", "{", ""):
            raise UnicodeDecodeError("json", data[:1], 0, 1, "not JSON")
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{address}: labels are merged only into JSON or JSON Lines in UTF-8; put such a file first, "
            f"which may be a new one: --labels more.jsonl {address}"
        ) from error
    is_list = text[start : start + 1] == "["
    try:
        records, spans = _find_records(text, start, is_list=is_list)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{address}: the labels file is not JSON: {error}") from error
    return LabelText(text, is_list, tuple(records), tuple(spans))


def merge_decisions(
    file: LabelText,
    decided: Sequence[Decided],
    existing: Mapping[str, Sequence[Existing]],
    fields: Mapping[str, str],
) -> Merged:
    """Bring decisions into the text of a label file; existing: the labels of each decided photo by its uri.

    Decisions are merged in their order, and each sees the results of those before it. fields: the setting
    label_fields.
    """
    merged = Merged()
    now = {uri: list(labels) for uri, labels in existing.items()}
    records: list[Any] = list(file.records)
    changed: set[int] = set()
    removed: set[int] = set()
    for item in decided:
        labels = now.setdefault(item.uri, [])
        own = [label for label in labels if _is_own(label, records, item)]
        others = [label for label in labels if label not in own]
        if item.is_undone:
            wrong = [label for label in others if label.pose_id in item.replaced - {item.pose_id}]
            removed |= {label.number for label in own if label.number is not None}
            now[item.uri] = others
            merged.num_removed += len(own)
        else:
            wrong = [label for label in others if label.pose_id != item.pose_id]
        fixed = [label for label in wrong if _may_change(label, item)]
        if len(fixed) < len(wrong):
            if not item.is_undone:
                merged.conflicts.append(
                    _describe_conflict(item, [each for each in wrong if each not in fixed])
                )
            continue
        if not item.is_undone:
            fixed += [label for label in own if label.pose_id != item.pose_id]
        for label in fixed:
            assert label.number is not None
            records[label.number] = _with_pose(records[label.number], item, fields, is_own=label in own)
            changed.add(label.number)
            now[item.uri][now[item.uri].index(label)] = Existing(item.pose_id, label.number, label.is_shared)
        merged.num_changed += len(fixed)
        if item.is_undone or fixed:
            continue
        if labels:
            merged.num_same += 1
            continue
        now[item.uri].append(Existing(item.pose_id, len(records)))
        records.append({POSE_KEY: item.pose_id, NAME_KEY: item.uri, BY_KEY: item.by, TIME_KEY: item.time})
        merged.num_added += 1
    merged.text = _join(file, records, changed, removed)
    return merged


def _is_own(label: Existing, records: Sequence[Any], item: Decided) -> bool:
    record = records[label.number] if label.number is not None else None
    if not isinstance(record, dict) or record.get(BY_KEY) != item.by:
        return False
    return (record.get(TIME_KEY), label.pose_id) in item.written


def _may_change(label: Existing, item: Decided) -> bool:
    return label.number is not None and not label.is_shared and label.pose_id in item.replaced


def _with_pose(record: Any, item: Decided, fields: Mapping[str, str], *, is_own: bool) -> dict[str, Any]:
    changed = {**record, **dict.fromkeys(find_pose_keys(record, fields), item.pose_id)}
    return changed | {TIME_KEY: item.time} if is_own else changed


def _describe_conflict(item: Decided, labels: Sequence[Existing]) -> str:
    said = ", ".join(
        f"{_pose(label.pose_id)}{' (' + label.where + ')' if label.where else ''}"
        + (" (of a record that names other photos too)" if label.is_shared else "")
        for label in labels
    )
    return f"{shown(item.uri)}: {item.by} says {_pose(item.pose_id)}, the label says {said}"


def _pose(pose_id: int | None) -> str:
    return "no known pose" if pose_id is None else f"pose {pose_id}"


def _join(file: LabelText, records: Sequence[Any], changed: set[int], removed: set[int]) -> str:
    """Write the text with the changed and new records; what is between the others stays as it was."""
    text, spans = file.text, file.spans
    usual = ",\n" if file.is_list else "\n"
    gaps = [text[before[1] : after[0]] for before, after in pairwise(spans)]
    if spans:
        head, tail = text[: spans[0][0]], text[spans[-1][1] :]
    else:
        middle = text.find("[") + 1 if file.is_list else len(text)
        head, tail = text[:middle], text[middle:]
        if file.is_list:
            head, tail = f"{head}\n", f"\n{tail.lstrip()}"
    parts = [head]
    for number, record in enumerate(records):
        if number in removed:
            continue
        if len(parts) > 1:
            parts.append(gaps[number - 1] if 0 < number < len(spans) else (gaps[-1] if gaps else usual))
        is_kept = number < len(spans) and number not in changed
        start, end = spans[number] if is_kept else (0, 0)
        parts.append(text[start:end] if is_kept else json.dumps(record, ensure_ascii=False))
    if len(parts) == 1 and not spans:
        return text
    return "".join([*parts, tail if file.is_list or tail else "\n"])


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


def _to_record(pairs: list[tuple[str, Any]]) -> Any:
    record = dict(pairs)
    return record if len(record) == len(pairs) else RepeatedKeys(pairs)


def _find_records(text: str, start: int, *, is_list: bool) -> tuple[list[Any], list[tuple[int, int]]]:
    """Parse the records one by one. Raises ValueError: the text is not JSON."""
    decoder = json.JSONDecoder(object_pairs_hook=_to_record)
    records: list[Any] = []
    spans: list[tuple[int, int]] = []
    position = _skip_blanks(text, start + 1) if is_list else start
    end = "]" if is_list else ""
    while text[position : position + 1] != end:
        record, after = decoder.raw_decode(text, position)
        records.append(record)
        spans.append((position, after))
        position = _skip_blanks(text, after)
        if is_list and text[position : position + 1] == ",":
            position = _skip_blanks(text, position + 1)
            if text[position : position + 1] == "]":
                raise json.JSONDecodeError("Expecting value", text, position)
        elif is_list and text[position : position + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    if is_list and _skip_blanks(text, position + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, position)
    return records, spans
