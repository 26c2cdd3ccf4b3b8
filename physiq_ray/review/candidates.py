"""Which photos a review shows, with which suggestion, and in which order: the most useful first.

A photo is shown if it is unlabelled, or if `suspects` found its label likely wrong. A suggestion comes from
the answer that the service stored with a doubtful photo, from drafts of `predict`, or from `suspects`.

The order is by margin: the probability of the best pose minus that of the second, or its confidence if only
that is known; for a suspect, the probability of its label. A photo without a suggestion counts as 0.5. The
margin is multiplied by the share of drafts that are even more unlike the labelled photos, 0.5 if unknown:
photos come early that the model is uncertain about, or that are unlike all labelled ones. The order "spread"
takes one photo of each group in turn, so that every athlete is seen early.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.errors import StorageError
from physiq_ray.labels.files import open_records
from physiq_ray.labels.merge import POSE_KEY
from physiq_ray.labels.values import WrongValueError, read_pose_id
from physiq_ray.manifest import pattern_texts
from physiq_ray.manifest.match import Matches
from physiq_ray.review.catalogue import Catalogue
from physiq_ray.storage import absolute_uri, read_bytes
from physiq_ray.threads import map_ahead

UNLABELLED, DRAFT, DOUBTFUL, SUSPECT, LABELLED = "unlabelled", "draft", "doubtful", "suspect", "labelled"
KINDS: Final = (UNLABELLED, DRAFT, DOUBTFUL, SUSPECT, LABELLED)
NOT_LABELLED, NO_POSE, IN_CONFLICT = -1, -2, -3  # in place of a pose id
NO_SUGGESTION, SUGGESTS_NO_POSE = -1, -2
UNKNOWN_MARGIN = 0.5
ORDERS = ("useful", "spread")
READ_THREADS = 16
MAX_ANSWER_BYTES = 1 << 20


@dataclass
class Candidates:
    """The photos of a catalogue as arrays, one entry for each; the rows to show, in their order.

    kind: int8, a position in KINDS. label: int32, a pose id, or NOT_LABELLED, NO_POSE, IN_CONFLICT.
    suggestion: int32, a pose id, NO_SUGGESTION or SUGGESTS_NO_POSE. confidence: float32, NaN if not known.
    unlike: float32, how unlike the labelled photos, NaN if not known. order: int64. problems: sentences on
    what could not be used.
    """

    kind: npt.NDArray[np.int8]
    label: npt.NDArray[np.int32]
    suggestion: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]
    unlike: npt.NDArray[np.float32]
    order: npt.NDArray[np.int64]
    problems: list[str]


def find_candidates(
    catalogue: Catalogue,
    matches: Matches,
    *,
    drafts: str | None = None,
    suspects: str | None = None,
    feedback: str | None = None,
    order: str = "useful",
) -> Candidates:
    """Choose the photos to show and order them; drafts, suspects: files. feedback: the prefix of the service.

    Raises LabelError: a file cannot be read or is damaged.
    """
    num_photos = catalogue.photos.num_rows
    label = np.full(num_photos, NOT_LABELLED, np.int32)
    label[matches.is_known & ~matches.is_unusable] = IN_CONFLICT
    usable = np.flatnonzero(matches.is_usable)
    label[usable] = matches.pose_id.take(pa.array(usable)).to_numpy(zero_copy_only=False)
    label[matches.is_poseless] = NO_POSE
    kind = np.where(label == NOT_LABELLED, KINDS.index(UNLABELLED), KINDS.index(LABELLED)).astype(np.int8)
    found = Candidates(
        kind,
        label,
        np.full(num_photos, NO_SUGGESTION, np.int32),
        np.full(num_photos, np.nan, np.float32),
        np.full(num_photos, UNKNOWN_MARGIN, np.float32),
        np.full(num_photos, np.nan, np.float32),
        np.empty(0, np.int64),
        [],
    )
    if drafts is not None:
        _add_drafts(found, catalogue, drafts)
    if feedback is not None:
        _add_doubtful(found, catalogue, feedback)
    if suspects is not None:
        _add_suspects(found, catalogue, suspects)
    shown = np.flatnonzero(kind != KINDS.index(LABELLED))
    place = np.empty(num_photos, np.int64)  # in the order of the uris, which a listing of a folder has not
    place[pc.sort_indices(catalogue.photos["uri"]).to_numpy()] = np.arange(num_photos)
    weight = found.margin[shown] * _share_more_unlike(found.unlike[shown])
    useful = shown[np.lexsort((place[shown], weight))]
    found.order = _spread(useful, catalogue) if order == "spread" else useful
    return found


def _add_drafts(found: Candidates, catalogue: Catalogue, address: str) -> None:
    records = [
        record
        for record in _read_records(address, "drafts")
        if isinstance(record.get("uri"), str) and POSE_KEY in record
    ]
    names = [(record["uri"], None) for record in records]
    missing = 0
    for record, rows in zip(records, catalogue.find_rows(names) if names else (), strict=True):
        missing += not rows
        for row in rows:
            if found.kind[row] == KINDS.index(UNLABELLED):
                _suggest(found, row, DRAFT, record[POSE_KEY], record.get("confidence"), record.get("margin"))
                if isinstance(unlike := record.get("unlike"), int | float):
                    found.unlike[row] = unlike
    if missing:
        found.problems.append(f"{address}: {missing} drafts mean no listed photo")


def _add_suspects(found: Candidates, catalogue: Catalogue, address: str) -> None:
    records = [record for record in _read_records(address, "suspects") if record.get("likelyWrong") is True]
    names = [(str(record.get("uri")), None) for record in records]
    stale = 0
    for record, rows in zip(records, catalogue.find_rows(names) if names else (), strict=True):
        for row in rows:
            if found.label[row] != record.get(POSE_KEY):
                stale += 1  # corrected since, or not the same label file
                continue
            confidence = record.get("suggestedProbability")
            _suggest(
                found,
                row,
                SUSPECT,
                record.get("suggestedPoseId"),
                confidence,
                record.get("labelledProbability"),
            )
    if stale:
        found.problems.append(f"{address}: {stale} suspects have another label by now, and are not shown")


def _add_doubtful(found: Candidates, catalogue: Catalogue, feedback: str) -> None:
    """Read the answers that the service stored next to photos that wait for a label."""
    uris = catalogue.photos["uri"]
    chosen = pc.and_(
        pc.starts_with(uris, f"{absolute_uri(feedback).rstrip('/')}/"),
        pa.chunked_array([pa.array(found.kind == KINDS.index(UNLABELLED))]),
    )
    rows = pc.indices_nonzero(chosen).to_pylist()

    def read(row: int) -> tuple[int, Any]:
        uri = re.sub(r"\.[^./]*$", ".json", uris[row].as_py())
        try:
            return row, json.loads(read_bytes(uri, max_bytes=MAX_ANSWER_BYTES))
        except (StorageError, ValueError):
            return row, None

    unread = 0
    for row, answer in map_ahead(read, rows, num_threads=READ_THREADS, most_calls=4 * READ_THREADS):
        try:
            best = sorted((float(each["probability"]) for each in answer["probabilities"]), reverse=True)
            pose = answer["probabilities"][0]["id"]
            margin = best[0] - best[1] if len(best) > 1 else best[0]
            _suggest(found, row, DOUBTFUL, pose, best[0], margin)
        except (TypeError, KeyError, ValueError, IndexError):
            unread += 1
    if unread:
        found.problems.append(f"{feedback}: {unread} photos have no answer next to them that can be read")


def _suggest(found: Candidates, row: int, kind: str, pose: Any, confidence: Any, margin: Any) -> None:
    try:
        pose_id = read_pose_id(pose)
    except WrongValueError:
        return
    found.kind[row] = KINDS.index(kind)
    found.suggestion[row] = SUGGESTS_NO_POSE if pose_id is None else pose_id
    if isinstance(confidence, int | float):
        found.confidence[row] = confidence
    if isinstance(margin, int | float):
        found.margin[row] = margin


def _read_records(address: str, what: str) -> Iterator[Mapping[str, Any]]:
    for _, record in open_records(address, what, lambda _: True).records:
        if isinstance(record, dict):
            yield record


def _share_more_unlike(unlike: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Give for each photo the share of the known values that are greater than its own, 0.5 for NaN."""
    known = np.sort(unlike[~np.isnan(unlike)])
    if not len(known):
        return np.full(len(unlike), 0.5)
    shares = 1 - np.searchsorted(known, unlike, side="right") / len(known)
    return np.where(np.isnan(unlike), 0.5, shares)


def _spread(rows: npt.NDArray[np.int64], catalogue: Catalogue) -> npt.NDArray[np.int64]:
    """Order rows so that each group gives its first photo, then each its second, and so on."""
    groups = _groups(catalogue.photos["key"].take(pa.array(rows)), catalogue.settings.group_pattern)
    by_group = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[by_group], groups[by_group])
    turn = np.empty(len(rows), np.int64)
    turn[by_group] = np.arange(len(rows)) - starts
    return rows[np.argsort(turn, kind="stable")]


def _groups(keys: pa.ChunkedArray, pattern: str | None) -> npt.NDArray[np.int64]:
    """Give each photo the number of its group: the match of group_pattern in its key, or else its folder."""
    if pattern is None:
        texts = pc.replace_substring_regex(keys, r"[^/]*$", "")
    else:
        texts = pc.coalesce(pattern_texts(keys, pattern), keys)  # without a match, a group of its own
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    codes: npt.NDArray[np.int64] = texts.dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes


def in_order(rows: Sequence[int], rest: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Put rows before the rest, without repeating them."""
    first = np.array(rows, np.int64)
    return np.concatenate([first, rest[~np.isin(rest, first)]])
