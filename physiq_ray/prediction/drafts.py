"""Unlabelled photos → drafts of labels, which a person confirms. This file imports Ray (see `batch`).

A draft has the form of a label record, but `"draft": true` makes every command refuse it as a label.

It also says how unlike the photo is to all labelled photos: one minus the largest cosine between their
features. To pick photos by this distance is the core-set approach to active learning (Sener and Savarese
2018), to pick them by the margin is uncertainty sampling; `review` combines both.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.nn import functional

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import connect
from physiq_ray.labels import Labels
from physiq_ray.manifest import find_labelled
from physiq_ray.manifest.subset import choose_rows
from physiq_ray.prediction.answer import Answer, make_answer
from physiq_ray.prediction.batch import predict_table
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import LISTING_SCHEMA, list_sources, parse_sources, write_bytes

MOST_COMPARED: Final = 2000  # labelled photos that the others are compared with


@dataclass(frozen=True)
class Drafts:
    """The result of one run.

    num_labelled: photos that a label names, which get no draft. failures: a sentence for each address that
    could not be listed.
    """

    num_drafts: int
    num_labelled: int
    unreadable: tuple[Unreadable, ...]
    failures: tuple[str, ...]


def draft_labels(
    addresses: Sequence[str],
    labels: Labels,
    state: ModelState,
    output: str,
    *,
    source_buckets: Mapping[str, str],
    precision: str = "auto",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    debug: bool = False,
) -> Drafts:
    """Predict the photos at the addresses that no label names, and write a draft for each.

    addresses: folders and s3:// prefixes. output: path or s3:// address of a JSON Lines file; a file that
    exists is replaced.
    Raises SettingError: an address is not valid. StorageError: the file cannot be written; and all errors of
    `predict_table`.
    """
    listings = list_sources(parse_sources(addresses))
    tables, labelled = [LISTING_SCHEMA.empty_table()], [LISTING_SCHEMA.empty_table()]
    for listing, named in zip(
        listings, find_labelled(listings, labels, state.pose_names, source_buckets), strict=True
    ):
        if listing.table is not None and named is not None:
            tables.append(listing.table.filter(pc.invert(named.is_labelled)))
            labelled.append(listing.table.filter(named.is_labelled))
    table, others = (pa.concat_tables(parts).sort_by("uri") for parts in (tables, labelled))
    lines: list[str] = []
    unreadable: list[Unreadable] = []
    if table.num_rows:
        connect(debug=debug)
        compared = others.take(choose_rows(others["uri"].to_pylist(), MOST_COMPARED))
        novelty = Novelty(compared["uri"].to_pylist())
        every = pa.concat_tables([compared, table])  # in this order: drafts need the features of the first
        for batch in predict_table(
            every, [state], precision=precision, with_features=True, on_progress=on_progress
        ):
            unreadable += [item for item in batch.unreadable if item.uri not in novelty.labelled]
            unlike = novelty.measure(batch.uris, torch.from_numpy(batch.features))
            outputs = torch.from_numpy(batch.outputs[0])
            for uri, row, distance in zip(batch.uris, outputs, unlike, strict=True):
                if uri not in novelty.labelled:
                    record = to_draft(uri, make_answer(row, state, state.floor), distance)
                    lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_bytes("".join(lines).encode(), output)
    failures = tuple(str(listing.error) for listing in listings if listing.table is None)
    return Drafts(len(lines), others.num_rows, tuple(unreadable), failures)


class Novelty:
    """Compares photos with labelled ones, which come before all others."""

    def __init__(self, labelled: Iterable[str]) -> None:
        """labelled: their uris."""
        self.labelled = frozenset(labelled)
        self._parts: list[Tensor] = []

    def measure(self, uris: Sequence[str], features: Tensor) -> list[float | None]:
        """Give for each photo how unlike it is to all labelled ones; None for these, or if there are none.

        features: float32 (B, F), which are not negative, so that the distance is from 0 to 1.
        """
        units = functional.normalize(features, dim=1)
        is_labelled = torch.tensor([uri in self.labelled for uri in uris], dtype=torch.bool)
        if is_labelled.any():
            self._parts.append(units[is_labelled])
        if not self._parts:
            return [None] * len(uris)
        self._parts = [torch.cat(self._parts)]
        distances = (1 - (units @ self._parts[0].T).amax(dim=1)).clamp(min=0).tolist()
        return [
            None if known else distance
            for known, distance in zip(is_labelled.tolist(), distances, strict=True)
        ]


def to_draft(uri: str, answer: Answer, unlike: float | None = None) -> dict[str, Any]:
    """Give the draft of one photo.

    poseId is null if the answer is that the photo shows no known pose. confidence: the highest probability.
    margin: the difference to the second one, which is small if the model is uncertain. unlike: as `Novelty`
    measures it.
    """
    first, *others = answer.probabilities
    return {
        "poseId": answer.pose.pose_id if answer.pose is not None else None,
        "uri": uri,
        "draft": True,
        "confidence": round(first.probability, 6),
        "margin": round(first.probability - (others[0].probability if others else 0.0), 6),
        **({"unlike": round(unlike, 6)} if unlike is not None else {}),
        "model": answer.model_version,
    }
