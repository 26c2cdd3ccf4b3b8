"""A model on labelled photos → its answers, by Ray Data; imports Ray, so the package itself does not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import connect
from physiq_ray.config import Settings
from physiq_ray.errors import DataError, NotFoundError, PhysiqError, SettingError
from physiq_ray.evaluation.card import Facts, ScoredPhotos, TrainingPhotos
from physiq_ray.evaluation.scores import Answers
from physiq_ray.labels import load_configured_poses
from physiq_ray.manifest import MANIFEST_FILE, TEST, TRAIN, VALIDATION, Manifest, collect_manifest
from physiq_ray.prediction.batch import predict_table
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import PhotoSource, absolute_uri, follow_settings, join_uri, read_bytes

ALL = "all"
NAMED_REASONS = 3  # where no photo at all could be read
SPLITS = (VALIDATION, TRAIN, TEST, ALL)
# What decides on which side a photo is: as in the training unless said otherwise.
SPLIT_SETTINGS = ("source_buckets", "validation_share", "group_pattern", "group_field", "seed")
ACCESS_SETTINGS = ("requester_pays", "anonymous")  # of the training's own buckets too


@dataclass(frozen=True)
class Candidates:
    """The photos to choose from.

    name: in words, empty where they are the training's own. training: the manifest of the run that made the
    model, None where it is not found.
    """

    manifest: Manifest
    name: str
    training: Manifest | None

    def words(self, split: str) -> str:
        """Name the photos of a split."""
        if not self.name:
            own = {
                VALIDATION: "the validation photos of the training",
                TRAIN: "the photos trained on",
                TEST: "the test photos of the training",
            }
            return own.get(split, "all photos of the training")
        return (
            f"the photos of {self.name}" if split == ALL else f"split {split!r} of the photos of {self.name}"
        )


@dataclass(frozen=True)
class Evaluation:
    """A model's answers, and what it gave none for; num_unknown: photos by pose id it does not know."""

    answers: Answers
    unreadable: tuple[Unreadable, ...]
    num_unknown: Mapping[int, int]


def split_defaults(state: ModelState) -> dict[str, Any]:
    """Give the settings of the split and of the buckets that the model was trained with.

    As far as its file holds them.
    """
    names = (*SPLIT_SETTINGS, *ACCESS_SETTINGS)
    return {name: state.settings[name] for name in names if name in state.settings}


def find_candidates(settings: Settings, state: ModelState) -> Candidates:
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
        manifest = collect_manifest(settings, load_configured_poses(settings))
        return Candidates(
            manifest, ", ".join(f"`{source}`" for source in settings.sources), _training_or_none(state)
        )
    if settings.manifest:
        manifest = _read_manifest(absolute_uri(settings.manifest))
        follow_settings(settings, manifest.table["bucket"].unique().to_pylist())
        return Candidates(manifest, f"the manifest `{settings.manifest}`", _training_or_none(state))
    training = find_training_manifest(state)
    follow_settings(settings, training.table["bucket"].unique().to_pylist())
    return Candidates(training, "", training)


def find_training_manifest(state: ModelState) -> Manifest:
    """Read the manifest of the run that made the model.

    Raises SettingError: the model's file names no run, or the run is gone or another one by now; what
    reading raises.
    """
    storage, run_name = (state.settings.get(name) for name in ("storage", "run_name"))
    if not storage or not run_name:
        raise SettingError("sources: the model's file names no run to take the photos of; give --sources")
    uri = join_uri(absolute_uri(storage), run_name, MANIFEST_FILE)
    manifest = _read_manifest(uri)
    if manifest.class_mapping != state.class_mapping:
        raise SettingError(
            f"sources: {uri} has poses {', '.join(manifest.class_mapping.classes)}, the model "
            f"{', '.join(state.class_mapping.classes)}: it is of another run; give --sources or --manifest"
        )
    return manifest


def _training_or_none(state: ModelState) -> Manifest | None:
    # The scores do not hang on it: whatever keeps it from being read only makes the card say less.
    try:
        return find_training_manifest(state)
    except PhysiqError:
        return None


def _read_manifest(uri: str) -> Manifest:
    try:
        return Manifest.from_parquet(read_bytes(uri), name=uri)
    except NotFoundError as error:
        raise SettingError(f"sources: {error}; give --sources or --manifest") from error


def evaluate(
    manifest: Manifest,
    state: ModelState,
    *,
    split: str = VALIDATION,
    precision: str = "auto",
    batch_size: int = 32,
    source: PhotoSource | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    debug: bool = False,
) -> Evaluation:
    """Let a model answer for the photos of a split: validation, train, test or all.

    source: one of the caller's own, where the manifest is of it.
    Raises DataError: no photos of poses the model knows, or none that can be read, with the first reasons;
    and what `predict_table` raises.
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
        predict_table(
            table, state, precision=precision, batch_size=batch_size, reader=source, on_progress=on_progress
        )
    )
    uris = tuple(uri for batch in batches for uri in batch.uris)
    unreadable = tuple(item for batch in batches for item in batch.unreadable)
    if not uris:
        reasons = "; ".join(f"{item.uri}: {item.error}" for item in unreadable[:NAMED_REASONS])
        more = len(unreadable) - NAMED_REASONS
        raise DataError(
            f"nothing to evaluate: none of the {table.num_rows} photos could be read: {reasons}"
            + (f"; and {more} more" if more > 0 else "")
        )
    answers = Answers(
        uris,
        torch.tensor([labels[uri] for uri in uris], dtype=torch.int64),
        torch.from_numpy(np.concatenate([batch.logits for batch in batches])),
    )
    return Evaluation(answers, unreadable, {item["values"]: item["counts"] for item in unknown})


def facts_of_training(
    state: ModelState,
    manifest: Manifest,
    answers: Answers,
    *,
    run_name: str,
    num_skipped: int,
    unreadable: tuple[Unreadable, ...],
) -> Facts:
    """Give what the card of a model just trained tells besides its scores on the validation photos."""
    excluded = pa.array([item.uri for item in unreadable], pa.string())
    readable = manifest.table.filter(pc.invert(pc.is_in(manifest.table["uri"], value_set=excluded)))
    trained = TrainingPhotos(_count(readable, state), num_skipped, len(unreadable))
    scored = ScoredPhotos(num_trained_on=0, num_validated_with=len(answers.uris))
    return _facts(state, run_name, trained, scored)


def facts_of_evaluation(
    state: ModelState, candidates: Candidates, found: Evaluation, *, split: str, model: str
) -> Facts:
    """Give what the card tells besides the scores; model: the address, which names a model of no run."""
    training = candidates.training
    trained = num_trained = num_validated = None
    if training is not None:
        trained = TrainingPhotos(_count(training.table, state))
        num_trained, num_validated = (
            pc.sum(pc.is_in(pa.array(found.answers.uris), value_set=training.split(side)["uri"])).as_py()
            for side in (TRAIN, VALIDATION)
        )
    scored = ScoredPhotos(
        words=candidates.words(split),
        num_trained_on=num_trained,
        num_validated_with=num_validated,
        num_unreadable=len(found.unreadable),
        num_unknown=sum(found.num_unknown.values()),
    )
    return _facts(state, str(state.settings.get("run_name") or model), trained, scored)


def _count(table: pa.Table, state: ModelState) -> dict[int, tuple[int, int]]:
    """Count photos to train on and to validate with by pose id."""
    counts = {}
    for pose_id in state.class_mapping.pose_ids:
        splits = table.filter(pc.equal(table["pose_id"], pose_id))["split"].to_pylist()
        counts[pose_id] = (splits.count(TRAIN), splits.count(VALIDATION))
    return counts


def _facts(state: ModelState, run_name: str, trained: TrainingPhotos | None, scored: ScoredPhotos) -> Facts:
    return Facts(
        run_name=run_name,
        image_size=state.image_size,
        settings=state.settings,
        versions=state.versions,
        best_epoch=state.best_epoch,
        num_epochs=len(state.history),
        trained=trained,
        scored=scored,
    )
