"""The facts on a model card that are not scores, after a training or an evaluation."""

import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.checkpoint import ModelState
from physiq_ray.evaluation.candidates import Candidates
from physiq_ray.evaluation.card import Facts, ScoredPhotos, TrainingPhotos
from physiq_ray.evaluation.scores import Answers, Evaluation
from physiq_ray.manifest import TEST, TRAIN, VALIDATION, Manifest
from physiq_ray.quarantine import Unreadable


def facts_of_training(
    state: ModelState,
    manifest: Manifest,
    answers: Answers,
    *,
    split: str = VALIDATION,
    run_name: str,
    num_skipped: int,
    unreadable: tuple[Unreadable, ...],
) -> Facts:
    """Give the facts for the card of a new model, which is scored on its validation or its test photos."""
    excluded = [item.uri for item in unreadable]
    is_excluded = pc.is_in(manifest.table["uri"], value_set=pa.array(excluded, pa.large_string()))
    readable = manifest.table.filter(pc.invert(is_excluded))
    trained = TrainingPhotos(_count(readable, state), num_skipped, len(unreadable))
    scored = ScoredPhotos(
        f"the {split} photos",
        num_trained_on=0,
        num_validated_with=len(answers.uris) if split == VALIDATION else 0,
        num_unreadable=manifest.count(excluded, TEST),
    )
    return _facts(state, run_name, trained, scored)


def facts_of_evaluation(
    state: ModelState, candidates: Candidates, found: Evaluation, *, split: str, model: str
) -> Facts:
    """Give the facts for the card of an evaluation; model: its address, the name of a model without a run."""
    training = candidates.training
    trained = num_trained = num_validated = None
    if training is not None:
        trained = TrainingPhotos(_count(training.table, state))
        num_trained, num_validated = (
            training.count(found.answers.uris, side) for side in (TRAIN, VALIDATION)
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
    """Count the training photos and the validation photos of each pose id."""
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
