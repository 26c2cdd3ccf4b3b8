"""Journals and feedback records → the label file, in one atomic write; conflicts are named.

A feedback record without a name is found by its MD5, which is the ETag of an object that was uploaded in one
part; no photo is read. If it names the request instead, the answer that the service stored with the photo has
the MD5.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from physiq_ray.constants import CORRECTIONS_FOLDER, WAITING_FOLDER
from physiq_ray.errors import quoted
from physiq_ray.labels.merge import Decided, Merged, merge_decisions, parse_label_text
from physiq_ray.review.catalogue import Catalogue
from physiq_ray.review.journal import FEEDBACK, Decision, parse_decision, read_journal
from physiq_ray.storage import absolute_uri, join_uri, list_names, parse_source, read_bytes
from physiq_ray.storage.update import update_bytes
from physiq_ray.threads import map_ahead

READ_THREADS = 16
MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True)
class Decisions:
    """What was read: a list of decisions for each journal, and for each feedback record.

    problems: a sentence for each record that cannot be used, or line that is incomplete.
    """

    lists: tuple[Sequence[Decision], ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergeResult:
    """What a merge did. label_file: as the user wrote it. is_written: whether the file changed."""

    label_file: str
    is_written: bool
    num_added: int
    num_changed: int
    num_removed: int
    num_same: int
    conflicts: tuple[str, ...] = ()
    not_found: tuple[str, ...] = field(default=())
    problems: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


def read_decisions(journals: Sequence[Path], feedback: str | None) -> Decisions:
    """Read journals and the feedback records `<feedback>/labels/*.json`.

    Raises ReviewError: a journal cannot be read. StorageError: the feedback prefix cannot be listed.
    """
    lists: list[Sequence[Decision]] = []
    problems: list[str] = []
    for path in journals:
        decisions, torn = read_journal(path)
        lists.append(decisions)
        if torn is not None:
            problems.append(f"{path}: the last line is incomplete and was ignored: {torn[:200]}")
    if feedback is not None:
        found = list(_read_feedback(feedback))
        problems += [result for result in found if isinstance(result, str)]
        records = [result for result in found if isinstance(result, Decision)]
        is_by_request = any(record.is_named_by_request for record in records)
        md5s = _md5s_of_requests(feedback) if is_by_request else {}
        for record in records:
            if record.is_named_by_request:
                of_request = md5s.get(str(record.request_id), set())
                if len(of_request) != 1:
                    why = "its photo was not stored" if not of_request else f"it had {len(of_request)} photos"
                    problems.append(f"the feedback for request {quoted(str(record.request_id))}: {why}")
                    continue
                record = replace(record, photo_md5=next(iter(of_request)))
            lists.append([record])
    return Decisions(tuple(lists), tuple(problems))


def merge(catalogue: Catalogue, decisions: Decisions, *, allow_conflicts: bool = False) -> MergeResult:
    """Bring decisions into the first label file.

    allow_conflicts: write the other decisions although some are in conflict; otherwise nothing is written.
    Raises LabelError: the label file is damaged, or of another format. StorageError.
    """
    found, not_found = _find_photos(catalogue, decisions.lists)
    decided = [item for _, item in found]
    merged = Merged()
    is_written = False

    def change(before: bytes | None) -> bytes | None:
        nonlocal merged, is_written
        file = parse_label_text(catalogue.label_file, before)
        by_row = catalogue.find_existing(file, {row for row, _ in found})
        existing = {item.uri: by_row[row] for row, item in found}
        merged = merge_decisions(file, decided, existing, catalogue.settings.label_fields)
        has_news = bool(merged.num_added or merged.num_changed or merged.num_removed)
        is_written = has_news and (allow_conflicts or not merged.conflicts)
        return merged.text.encode() if is_written else None

    if decided:
        update_bytes(absolute_uri(catalogue.label_file), change)
    return MergeResult(
        catalogue.label_file,
        is_written,
        merged.num_added,
        merged.num_changed,
        merged.num_removed,
        merged.num_same,
        tuple(merged.conflicts),
        tuple(not_found),
        decisions.problems,
    )


def describe_merge(result: MergeResult) -> Iterator[str]:
    """Yield the lines of the report."""
    for sentence in result.conflicts:
        yield f"conflict: {sentence}"
    for sentence in result.not_found:
        yield f"not found: {sentence}"
    for sentence in result.problems:
        yield f"not used: {sentence}"
    yield (
        f"{result.label_file}: {result.num_added} labels added, {result.num_changed} changed, "
        f"{result.num_removed} taken back, {result.num_same} there already, "
        f"{len(result.conflicts)} conflicts, {len(result.not_found)} photos not found"
    )
    if result.conflicts and not result.is_written:
        yield (
            "Nothing was written. Correct the labels in conflict, or give --allow-conflicts to merge the "
            "other decisions."
        )


def _read_feedback(feedback: str) -> Iterator[Decision | str]:
    for uri, record in _read_records(feedback, CORRECTIONS_FOLDER):
        try:
            yield parse_decision(record)
        except ValueError as error:
            yield f"{uri}: no feedback record: {error}"


def _md5s_of_requests(feedback: str) -> dict[str, set[str]]:
    """Give the MD5s of the photos of each request, from the answers of the photos that wait for a label."""
    md5s: dict[str, set[str]] = {}
    for _, record in _read_records(feedback, WAITING_FOLDER):
        if isinstance(record, dict) and record.get("request_id") and record.get("photo_md5"):
            md5s.setdefault(str(record["request_id"]), set()).add(str(record["photo_md5"]))
    return md5s


def _read_records(feedback: str, name: str) -> Iterator[tuple[str, Any]]:
    """Read the JSON files of a folder in the feedback prefix; None for one that is no JSON."""
    folder = join_uri(feedback, name)
    names = [name for name in list_names(parse_source(folder)) if name.endswith(".json")]

    def read(name: str) -> tuple[str, Any]:
        uri = join_uri(absolute_uri(folder), name)
        try:
            return uri, json.loads(read_bytes(uri, max_bytes=MAX_RECORD_BYTES))
        except ValueError:
            return uri, None

    return map_ahead(read, names, num_threads=READ_THREADS, most_calls=4 * READ_THREADS)


def _find_photos(
    catalogue: Catalogue, lists: Iterable[Sequence[Decision]]
) -> tuple[list[tuple[int, Decided]], list[str]]:
    """Find the photos of the decisions, and combine those of one journal about one photo.

    Returns each with the row of its photo, in the order of their times; and a sentence for each photo that
    was not found.
    """
    lists = list(lists)
    every = [item for decisions in lists for item in decisions]
    named = [(item.name, item.source) for item in every if item.name is not None]
    rows_of_name = dict(zip(named, catalogue.find_rows(named), strict=True)) if named else {}
    rows_of_md5 = catalogue.find_contents(item.photo_md5 for item in every if item.photo_md5)
    found: list[tuple[int, Decided]] = []
    not_found: dict[str, None] = {}
    for decisions in lists:
        chains: dict[int, list[Decision]] = {}
        for item in decisions:
            if item.name is not None:
                rows = rows_of_name[item.name, item.source]
                if len(rows) != 1:
                    why = f"means {len(rows)} photos" if rows else "means no listed photo"
                    not_found[f"{quoted(item.name)} {why}; it stays in {_origin(item)}"] = None
                    continue
            else:
                rows = rows_of_md5.get(str(item.photo_md5), [])
                if not rows:
                    not_found[
                        f"no listed object has the MD5 {item.photo_md5} (request of {item.time}); files, "
                        "and objects that were uploaded in parts, have no MD5 in the listing"
                    ] = None
            for row in rows:
                chains.setdefault(row, []).append(item)
        for row, chain in chains.items():
            found.append((row, combine(catalogue.photos["uri"][row].as_py(), chain)))
    found.sort(key=lambda pair: pair[1].time)
    return _without_corrected(found), list(not_found)


def _without_corrected(found: Sequence[tuple[int, Decided]]) -> list[tuple[int, Decided]]:
    """Leave out decisions whose pose somebody else saw and corrected later; found: in the order of time."""
    corrected: dict[int, set[int | None]] = {}
    left = []
    for row, item in reversed(found):
        if item.is_undone or item.pose_id not in corrected.get(row, ()):
            left.append((row, item))
        if not item.is_undone:
            corrected.setdefault(row, set()).update(item.corrects)
    return left[::-1]


def _origin(item: Decision) -> str:
    return "the feedback" if item.by == FEEDBACK else "the journal"


def combine(uri: str, chain: Sequence[Decision]) -> Decided:
    """Combine the decisions of one journal about one photo, in their order, to the last valid one."""
    valid: list[Decision] = []
    for item in chain:
        if item.undone is None:
            valid.append(item)
        else:
            valid = [other for other in valid if other.time != item.undone]
    with_label = next((item for item in chain if item.has_label), None)
    poses = {item.pose_id for item in chain if item.undone is None}
    last = valid[-1] if valid else chain[-1]
    return Decided(
        uri=uri,
        pose_id=last.pose_id if valid else (with_label.replaces if with_label else None),
        by=last.by,
        time=last.time,
        written=frozenset((item.time, item.pose_id) for item in chain if item.undone is None),
        replaced=frozenset({with_label.replaces, *poses}) if with_label else frozenset(),
        corrects=frozenset({with_label.replaces}) if with_label else frozenset(),
        is_undone=not valid,
    )
