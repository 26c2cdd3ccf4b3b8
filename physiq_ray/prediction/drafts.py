"""Unlabelled photos → drafts of labels, which a person confirms. This file imports Ray (see `batch`).

A draft has the form of a label record, but `"draft": true` makes every command refuse it as a label.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import connect
from physiq_ray.labels import Labels
from physiq_ray.manifest import find_labelled
from physiq_ray.prediction.answer import Answer, make_answer
from physiq_ray.prediction.batch import predict_table
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import LISTING_SCHEMA, list_sources, parse_sources, write_bytes


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
    tables, num_labelled = [LISTING_SCHEMA.empty_table()], 0
    for listing, named in zip(
        listings, find_labelled(listings, labels, state.pose_names, source_buckets), strict=True
    ):
        if listing.table is not None and named is not None:
            unlabelled = listing.table.filter(pc.invert(named.is_labelled))
            tables.append(unlabelled)
            num_labelled += listing.table.num_rows - unlabelled.num_rows
    table = pa.concat_tables(tables).sort_by("uri")
    lines: list[str] = []
    unreadable: list[Unreadable] = []
    if table.num_rows:
        connect(debug=debug)
    for batch in predict_table(table, state, precision=precision, on_progress=on_progress):
        unreadable += batch.unreadable
        for uri, row in zip(batch.uris, torch.from_numpy(batch.outputs), strict=True):
            record = to_draft(uri, make_answer(row, state, state.floor))
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_bytes("".join(lines).encode(), output)
    failures = tuple(str(listing.error) for listing in listings if listing.table is None)
    return Drafts(len(lines), num_labelled, tuple(unreadable), failures)


def to_draft(uri: str, answer: Answer) -> dict[str, Any]:
    """Give the draft of one photo.

    poseId is null if the answer is that the photo shows no known pose. confidence: the highest probability.
    margin: the difference to the second one, which is small if the model is uncertain.
    """
    first, *others = answer.probabilities
    return {
        "poseId": answer.pose.pose_id if answer.pose is not None else None,
        "uri": uri,
        "draft": True,
        "confidence": round(first.probability, 6),
        "margin": round(first.probability - (others[0].probability if others else 0.0), 6),
        "model": answer.model_version,
    }
