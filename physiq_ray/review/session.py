"""One review: what was decided, which photos come next, and how far the work is. No HTTP.

Each decision is on the disk before `decide` returns. The methods may be called from several threads.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from physiq_ray.review.candidates import (
    IN_CONFLICT,
    KINDS,
    NO_POSE,
    NO_SUGGESTION,
    NOT_LABELLED,
    SUGGESTS_NO_POSE,
    Candidates,
    in_order,
)
from physiq_ray.review.catalogue import Catalogue
from physiq_ray.review.journal import REVIEW, Decision, Journal, now_text
from physiq_ray.serving.refusals import RequestError

MOST_ITEMS = 50
MOST_FOUND = 20
MOST_CONFLICTS = 20
MIN_HOURS = 10 / 3600  # before, the rate would say nothing
# Keys of the page: 0 no known pose, u undo, z zoom.
POSE_KEYS = "123456789abcdefghijklmnopqrstvwxy"


class Session:
    """A review of the photos of a catalogue."""

    def __init__(
        self,
        catalogue: Catalogue,
        candidates: Candidates,
        journal: Journal,
        *,
        earlier: Sequence[Decision] = (),
        thin: Mapping[int, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """earlier: decisions of other journals, whose photos are not asked again.

        thin: by pose id, what `audit` says about a pose with too few photos.
        """
        self._catalogue, self._candidates, self._journal = catalogue, candidates, journal
        self._clock = clock
        self.on_decision: Callable[[], None] = lambda: None  # called after each decision that was written
        self._thin = thin or {}
        self._lock = threading.Lock()
        self._label = candidates.label.copy()  # as the person sees it
        self._base = candidates.label
        self._decided: dict[int, list[Decision]] = {}  # by row, of the own journal
        self._history: list[int] = []
        self._num_new = 0
        self._started_s: float | None = None
        self.conflicts: tuple[str, ...] = ()
        counts = Counter(self._label[self._label >= 0].tolist())
        self._counts: Counter[int] = Counter(counts)
        self._added: Counter[int] = Counter()
        settled = self._take_in(earlier, is_own=False)
        self._base = self._label.copy()  # before the decisions of the own journal
        own = self._take_in(journal.decisions, is_own=True)
        rest = candidates.order[~np.isin(candidates.order, np.array(sorted(settled), np.int64))]
        self._order = in_order(own, rest)

    @property
    def total(self) -> int:
        """Number of photos that the page shows one after the other."""
        return len(self._order)

    def describe(self) -> dict[str, Any]:
        """Give what the page needs at its start."""
        keys = dict(zip(self._catalogue.poses, POSE_KEYS, strict=False))
        poses = [
            {"id": pose_id, "name": name, "key": keys.get(pose_id)}
            for pose_id, name in self._catalogue.poses.items()
        ]
        first = next(
            (at for at, row in enumerate(self._order.tolist()) if row not in self._decided), self.total
        )
        return {"poses": poses, "total": self.total, "first": first, "progress": self.progress()}

    def items(self, start: int, count: int) -> list[dict[str, Any]]:
        """Give the photos from a position of the order on, at most MOST_ITEMS."""
        start = max(0, start)
        rows = self._order[start : start + max(0, min(count, MOST_ITEMS))].tolist()
        return [self._item(row) | {"position": start + at} for at, row in enumerate(rows)]

    def search(self, text: str) -> list[dict[str, Any]]:
        """Give photos of all sources whose key contains a text, at most MOST_FOUND."""
        if not text.strip():
            return []
        is_found = pc.match_substring(self._catalogue.photos["key"], text.strip(), ignore_case=True)
        return [self._item(row) for row in pc.indices_nonzero(is_found)[:MOST_FOUND].to_pylist()]

    def decide(self, row: int, pose_id: int | None) -> dict[str, Any]:
        """Write a decision to the journal.

        Raises RequestError: there is no such photo or pose. ReviewError: the journal cannot be written.
        """
        self.check_row(row)
        if pose_id is not None and pose_id not in self._catalogue.poses:
            raise RequestError(422, "unknown_pose", f"pose {pose_id} is not among the known poses")
        with self._lock:
            before = self._decided.get(row)
            if before:
                has_label, replaces = before[0].has_label, before[0].replaces
            else:
                seen = int(self._base[row])
                has_label, replaces = seen not in (NOT_LABELLED, IN_CONFLICT), _pose(seen)
            item = Decision(
                name=self._catalogue.photos["uri"][row].as_py(),
                pose_id=pose_id,
                by=REVIEW,
                time=now_text(),
                has_label=has_label,
                replaces=replaces,
            )
            self._journal.write([item])
            self._apply(row, item)
            self._num_new += 1
            if self._started_s is None:
                self._started_s = self._clock()
        self.on_decision()
        return self._item(row) | {"progress": self.progress()}

    def undo(self) -> dict[str, Any]:
        """Take back the last decision of this journal, and give its photo.

        Raises RequestError: there is none. ReviewError.
        """
        with self._lock:
            if not self._history:
                raise RequestError(409, "nothing_to_undo", "no decision of this journal is left to undo")
            row = self._history[-1]
            last = self._decided[row][-1]
            item = Decision(last.name, None, REVIEW, now_text(), undone=last.time)
            self._journal.write([item])
            self._apply(row, item)
            self._num_new -= 1
        self.on_decision()
        where = np.flatnonzero(self._order == row)
        position = {"position": int(where[0])} if len(where) else {}
        return self._item(row) | position | {"progress": self.progress()}

    def progress(self) -> dict[str, Any]:
        """Give the photos done, photos per hour, counts per pose, and contradictions with the label file."""
        now_s = self._clock()
        hours = (now_s - self._started_s) / 3600 if self._started_s is not None else 0.0
        return {
            "done": len(self._decided),
            "total": self.total,
            "per_hour": round(max(0, self._num_new) / hours) if hours >= MIN_HOURS else None,
            "poses": [
                {
                    "id": pose_id,
                    "labelled": self._counts[pose_id],
                    "added": self._added[pose_id],
                    "thin": self._thin.get(pose_id),
                }
                for pose_id in self._catalogue.poses
            ],
            "conflicts": list(self.conflicts[:MOST_CONFLICTS]),
            "num_conflicts": len(self.conflicts),
        }

    def check_row(self, row: int) -> None:
        """Raise RequestError if there is no such photo."""
        if not 0 <= row < self._catalogue.photos.num_rows:
            raise RequestError(404, "no_such_photo", "there is no photo of this number")

    def _take_in(self, decisions: Sequence[Decision], *, is_own: bool) -> list[int]:
        """Apply decisions of journals; give the rows of their photos, of which each is listed."""
        named = [(str(item.name), item.source) for item in decisions]
        rows = self._catalogue.find_rows(named) if named else []
        touched: dict[int, None] = {}
        for item, found in zip(decisions, rows, strict=True):
            if len(found) != 1:
                continue
            row = found[0]
            if not is_own and not self._is_news(row, item):
                continue
            self._apply(row, item)
            if is_own or item.undone is None:
                touched[row] = None
            else:
                touched.pop(row, None)
        if not is_own:
            self._decided.clear()
            self._history.clear()
        return list(touched)

    def _is_news(self, row: int, item: Decision) -> bool:
        """Tell whether a decision of another journal is not in the label file yet; the file may be newer."""
        if item.undone is not None or row in self._decided:
            return row in self._decided
        label = int(self._base[row])
        return label == NOT_LABELLED or (item.has_label and label == _code(item.replaces))

    def _apply(self, row: int, item: Decision) -> None:
        """Change what the person sees, after the journal was written."""
        before = int(self._label[row])
        if item.undone is None:
            self._decided.setdefault(row, []).append(item)
            self._history.append(row)
        else:
            left = [each for each in self._decided.get(row, []) if each.time != item.undone]
            if row in self._history:
                del self._history[len(self._history) - 1 - self._history[::-1].index(row)]
            if left:
                self._decided[row] = left
            else:
                self._decided.pop(row, None)
        chain = self._decided.get(row)
        after = _code(chain[-1].pose_id) if chain else int(self._base[row])
        self._label[row] = after
        for code, step in ((before, -1), (after, 1)):
            if code >= 0:
                self._added[code] += step

    def _item(self, row: int) -> dict[str, Any]:
        candidates = self._candidates
        suggestion, confidence = int(candidates.suggestion[row]), float(candidates.confidence[row])
        label, decided = int(self._base[row]), self._decided.get(row)
        return {
            "row": row,
            "key": self._catalogue.photos["key"][row].as_py(),
            "bucket": self._catalogue.photos["bucket"][row].as_py(),
            "kind": KINDS[candidates.kind[row]],
            "suggestion": (
                None
                if suggestion == NO_SUGGESTION
                else {"pose": None if suggestion == SUGGESTS_NO_POSE else suggestion}
            ),
            "confidence": None if np.isnan(confidence) else round(confidence, 4),
            "label": None if label in (NOT_LABELLED, IN_CONFLICT) else {"pose": _pose(label)},
            "decided": {"pose": decided[-1].pose_id} if decided else None,
        }


def _pose(code: int) -> int | None:
    return code if code >= 0 else None


def _code(pose_id: int | None) -> int:
    return NO_POSE if pose_id is None else pose_id
