"""A model on labelled photos → its answers, by Ray Data; imports Ray, so the package itself does not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from physiq_ray.checkpoint import ModelState, current_versions
from physiq_ray.config import Settings
from physiq_ray.errors import DataError, NotFoundError, SettingError
from physiq_ray.evaluation.card import Facts
from physiq_ray.evaluation.scores import Answers
from physiq_ray.ingest import Unreadable, connect
from physiq_ray.labels import load_poses
from physiq_ray.manifest import MANIFEST_FILE, TRAIN, VALIDATION, Manifest, collect_manifest
from physiq_ray.prediction.batch import predict_table
from physiq_ray.storage import absolute_uri, join_uri, read_bytes

ALL = "all"
SPLITS = (VALIDATION, TRAIN, ALL)
# What decides on which side a photo is: as in the training unless said otherwise.
SPLIT_SETTINGS = ("source_buckets", "validation_share", "group_pattern", "seed")


@dataclass(frozen=True)
class Evaluation:
    """A model's answers, and what it gave none for; num_unknown: photos by pose id it does not know."""

    answers: Answers
    unreadable: tuple[Unreadable, ...]
    num_unknown: Mapping[int, int]


def split_defaults(state: ModelState) -> dict[str, Any]:
    """Give the settings of the split that the model was trained with, as far as its file holds them."""
    return {name: state.settings[name] for name in SPLIT_SETTINGS if name in state.settings}


def find_manifest(settings: Settings, state: ModelState) -> Manifest:
    """Take the photos of sources, of a saved manifest, or those of the run that made the model.

    Raises SettingError: sources and manifest at once, or none and the run is not found; and what listing
    and reading raise.
    """
    if settings.sources and settings.manifest:
        raise SettingError(
            f"manifest={settings.manifest}: given together with sources={', '.join(settings.sources)}; "
            "give one of the two"
        )
    if settings.sources:
        return collect_manifest(settings, load_poses(Path(settings.poses)))
    uri = settings.manifest
    if uri is None:
        storage, run_name = (state.settings.get(name) for name in ("storage", "run_name"))
        if not storage or not run_name:
            raise SettingError("sources: the model's file names no run to take the photos of; give --sources")
        uri = join_uri(absolute_uri(storage), run_name, MANIFEST_FILE)
    try:
        return Manifest.from_parquet(read_bytes(absolute_uri(uri)), name=uri)
    except NotFoundError as error:
        raise SettingError(f"sources: {error}; give --sources or --manifest") from error


def evaluate(
    manifest: Manifest,
    state: ModelState,
    *,
    split: str = VALIDATION,
    precision: str = "auto",
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    debug: bool = False,
) -> Evaluation:
    """Let a model answer for the photos of a split: validation, train or all.

    Raises DataError: no photos of poses the model knows; and what `predict_table` raises.
    """
    table = manifest.table if split == ALL else manifest.split(split)
    is_known = pc.is_in(table["pose_id"], value_set=pa.array(state.class_mapping.pose_ids, pa.int32()))
    unknown = table.filter(pc.invert(is_known))["pose_id"].value_counts().to_pylist()
    table = table.filter(is_known)
    if not table.num_rows:
        raise DataError(f"nothing to evaluate: no photo of a pose the model knows in split {split!r}")
    index = {pose_id: number for number, pose_id in enumerate(state.class_mapping.pose_ids)}
    labels = {
        uri: index[pose_id]
        for uri, pose_id in zip(table["uri"].to_pylist(), table["pose_id"].to_pylist(), strict=True)
    }
    connect(debug=debug)
    batches = list(
        predict_table(table, state, precision=precision, batch_size=batch_size, on_progress=on_progress)
    )
    uris = tuple(uri for batch in batches for uri in batch.uris)
    answers = Answers(
        uris,
        torch.tensor([labels[uri] for uri in uris], dtype=torch.int64),
        torch.from_numpy(np.concatenate([batch.logits for batch in batches])),
    )
    unreadable = tuple(item for batch in batches for item in batch.unreadable)
    return Evaluation(answers, unreadable, {item["values"]: item["counts"] for item in unknown})


def collect_facts(
    state: ModelState,
    manifest: Manifest,
    *,
    run_name: str,
    scored_on: str | None = None,
    num_skipped: int = 0,
    unreadable: tuple[Unreadable, ...] = (),
) -> Facts:
    """Give what the card tells besides the scores; photos that cannot be read are not counted."""
    excluded = pa.array([item.uri for item in unreadable], pa.string())
    readable = manifest.table.filter(pc.invert(pc.is_in(manifest.table["uri"], value_set=excluded)))
    counts: dict[int, tuple[int, int]] = {}
    for pose_id in state.class_mapping.pose_ids:
        splits = readable.filter(pc.equal(readable["pose_id"], pose_id))["split"].to_pylist()
        counts[pose_id] = (splits.count(TRAIN), splits.count(VALIDATION))
    extra = {} if scored_on is None else {"scored_on": scored_on}
    return Facts(
        run_name=run_name,
        sources=state.settings.get("sources", ()),
        counts=counts,
        num_skipped=num_skipped,
        num_quarantined=len(unreadable),
        settings=state.settings,
        versions=current_versions(),
        best_epoch=state.best_epoch,
        num_epochs=len(state.history),
        **extra,
    )
