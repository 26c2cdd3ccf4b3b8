"""Photos → probabilities of models that were not trained on them. This file imports Ray.

`predict_with_model` uses one model, and leaves out the photos that it was trained on. `predict_by_folds`
predicts all photos, but trains a model for each fold first, so it takes K times as long as a training. A run
of folds has a folder in `storage`, which it shares with no other run:

    <storage>/<name>/run.json, manifest.parquet, lock-0001.json   as those of a training
    <storage>/<name>/poses.json                                   the names of the poses, for all folds
    <storage>/<name>/fold-1-of-5.parquet                          the photos of the other folds
    <storage>/<name>/fold-1-of-5/                                 the folder of the fold's training
    <storage>/<name>/fold-1-of-5/model/                           its model files

A resumed run trains only the folds that have no model files yet.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.checkpoint import ModelState, load_model_state
from physiq_ray.cluster import check_cluster, connect
from physiq_ray.config import Settings
from physiq_ray.constants import ALL, TRAIN, VALIDATION
from physiq_ray.errors import DataError, PhysiqError, SettingError, TrainingError
from physiq_ray.evaluation.candidates import Candidates, find_candidates
from physiq_ray.evaluation.evaluate import evaluate
from physiq_ray.evaluation.intervals import FloatArray
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import Fold, Manifest, divide
from physiq_ray.prediction.answer import to_probabilities
from physiq_ray.progress import Display
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import follow_settings, join_uri, write_bytes
from physiq_ray.suspects.found import Predicted
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.run import load_record, start_record
from physiq_ray.training.several import train_several
from physiq_ray.training.workers import await_workers, with_gpu_defaults


def predict_with_model(
    settings: Settings,
    state: ModelState,
    display: Display,
    *,
    with_training_photos: bool = False,
    debug: bool = False,
) -> Predicted:
    """Predict the photos of the settings, or of the model's own run, that the model was not trained on.

    with_training_photos: predict all of them.
    Raises SettingError: no photos are named, and the model's run is not found. DataError: no photo is left,
    or none can be read; and all errors of reading and of Ray.
    """
    candidates = find_candidates(settings, state)
    manifest = candidates.manifest
    table, limits = choose_photos(candidates, with_training_photos=with_training_photos)
    chosen = Manifest(table, manifest.class_mapping)
    with display.live():
        uris, probabilities, unreadable, unknown = _predict(chosen, state, settings, display, debug=debug)
    return Predicted(
        photos=_rows(table, uris),
        probabilities=probabilities,
        folds=np.zeros(len(uris), np.int64),
        class_mapping=state.class_mapping,
        pose_names=state.pose_names,
        unreadable=unreadable,
        limits=(
            *limits,
            *(
                f"{count} photos of pose {pose_id} are not ranked: the model does not know the pose."
                for pose_id, count in unknown.items()
            ),
        ),
        failed_sources=tuple(f"{item.source}: {item.error}" for item in manifest.report.failed_sources),
    )


def choose_photos(
    candidates: Candidates, *, with_training_photos: bool = False
) -> tuple[pa.Table, tuple[str, ...]]:
    """Choose the photos that a model ranks, and say in sentences what their ranking cannot show.

    Raises DataError: the model was trained on all of them.
    """
    table, training = candidates.manifest.table, candidates.training
    if training is None:
        return table, (
            "It is not known which of these photos the model was trained on. It has learned the labels of "
            "those, wrong ones too, so wrong labels among them are hardly found; --folds 5 finds them.",
        )
    is_trained_on = pc.is_in(table["uri"], value_set=training.split(TRAIN)["uri"])
    num_trained_on = pc.sum(is_trained_on, min_count=0).as_py()
    limits = []
    if with_training_photos:
        if num_trained_on:
            limits.append(
                f"The model was trained on {num_trained_on} of the {table.num_rows} photos. It has learned "
                "their labels, wrong ones too, so wrong labels among them are hardly found; --folds 5 finds "
                "them."
            )
    else:
        if num_trained_on == table.num_rows:
            raise DataError(
                f"nothing to rank: the model was trained on all {table.num_rows} photos, and has learned "
                "their labels, wrong ones too; rank them with --folds 5"
            )
        table = table.filter(pc.invert(is_trained_on))
        if num_trained_on:
            limits.append(
                f"{num_trained_on} photos are not ranked: the model was trained on them, and has learned "
                "their labels, wrong ones too; --folds 5 ranks all photos."
            )
    if num_validation := training.count(table["uri"].to_pylist(), VALIDATION):
        limits.append(
            f"{num_validation} of the ranked photos chose the epoch and the temperature of the model, so it "
            "believes their labels a little too much."
        )
    return table, tuple(limits)


def predict_by_folds(
    settings: Settings,
    num_folds: int,
    display: Display,
    *,
    resume: bool = False,
    debug: bool = False,
) -> Predicted:
    """Divide the photos into folds, train a model for each fold on the others, and predict its photos.

    resume: the run of settings.run_name that was interrupted.
    Raises SettingError, LabelError, StorageError, DataError, WeightsError, TrainingError: as `train` does.
    After the first fold has started, the message ends with the command that resumes all folds.
    """
    if resume and settings.run_name is None:
        raise SettingError("--resume needs --run-name (or PHYSIQ_RUN_NAME): the run to resume")
    folder = RunFolder(settings.storage, settings.run_name or f"suspects-{datetime.now():%Y%m%d-%H%M%S}")
    names_are_given = "poses" in settings.model_fields_set
    if resume:
        settings = folder.resumed_settings(settings)
    check_cluster()
    with folder.locked(display.note):
        if resume:
            record = load_record(settings, folder, names_are_given=names_are_given)
        else:
            folder.refuse_started()
            record, _ = start_record(settings, display, None, lambda: connect(debug=debug))
        manifest = record.manifest
        folds = divide(manifest, num_folds, validation_share=settings.validation_share, seed=settings.seed)
        connect(debug=debug)
        if await_workers(settings, display.note).use_gpu:
            settings = with_gpu_defaults(settings)  # saved, so that a fold of a resumed run has the same ones
        folder.save_record(record, settings)
        poses = _save_poses(record.pose_names, folder)
        runs = [_plan_run(settings, folder, fold, poses) for fold in folds]
        with _command_named(folder.resumed_by(f"suspects --folds {num_folds}")):
            train_several(runs, display, debug=debug)
            follow_settings(settings, manifest.buckets)
            parts = list[_Part]()
            with display.live():
                for fold, run in zip(folds, runs, strict=True):
                    parts.append(_predict_fold(fold, run, manifest.class_mapping, display, debug=debug))
    uris = [uri for part in parts for uri in part.uris]
    return Predicted(
        photos=_rows(manifest.table, uris),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        folds=np.repeat([fold.number for fold in folds], [len(part.uris) for part in parts]),
        class_mapping=manifest.class_mapping,
        pose_names=record.pose_names,
        unreadable=tuple(item for part in parts for item in part.unreadable),
        limits=tuple(sentence for part in parts for sentence in part.limits),
        failed_sources=record.failed_sources,
    )


def _save_poses(names: Mapping[int, str], folder: RunFolder) -> str:
    """Write the names of the poses, which a resumed run may not find where they were; give the file's uri."""
    uri = join_uri(folder.uri, "poses.json")
    records = [{"id": pose_id, "name": name} for pose_id, name in names.items()]
    write_bytes(json.dumps(records).encode(), uri)
    return uri


def _plan_run(settings: Settings, folder: RunFolder, fold: Fold, poses: str) -> Settings:
    """Write the photos that a fold's model is trained on; give the settings of its training."""
    uri = join_uri(folder.uri, f"{fold.name}.parquet")
    write_bytes(fold.others.to_parquet(), uri)
    return settings.model_copy(
        update={
            **{"storage": folder.uri, "run_name": fold.name, "manifest": uri, "sources": ()},
            **{"output": join_uri(folder.uri, fold.name, "model"), "poses": poses, "mlflow": None},
            **{"limit": None, "max_hours": None},  # each photo is ranked by a model that is complete
        }
    )


@dataclass(frozen=True)
class _Part:
    """The answers for one fold; probabilities: float64 (photos, classes of all folds)."""

    uris: Sequence[str]
    probabilities: FloatArray
    unreadable: tuple[Unreadable, ...]
    limits: tuple[str, ...]


def _predict_fold(
    fold: Fold, run: Settings, mapping: ClassMapping, display: Display, *, debug: bool
) -> _Part:
    """Predict the photos of a fold with the model of the others, which may not know all poses."""
    state = load_model_state(run.output)
    held_out = Manifest(fold.held_out, mapping)
    uris, found, unreadable, unknown = _predict(held_out, state, run, display, debug=debug)
    probabilities = np.zeros((len(uris), len(mapping.classes)))
    probabilities[:, [mapping.class_to_idx[pose] for pose in state.class_mapping.classes]] = found
    limits = tuple(
        f"{count} photos of pose {pose_id} are not ranked: all photos of the pose are in one group, so no "
        "model can learn it without them."
        for pose_id, count in unknown.items()
    )
    return _Part(uris, probabilities, unreadable, limits)


def _predict(
    manifest: Manifest, state: ModelState, settings: Settings, display: Display, *, debug: bool
) -> tuple[Sequence[str], FloatArray, tuple[Unreadable, ...], Mapping[int, int]]:
    [found] = evaluate(
        manifest,
        [state],
        split=ALL,
        precision=settings.precision,
        batch_size=settings.batch_size,
        on_progress=lambda done, total: display.count("predicting", done, total),
        debug=debug,
    )
    probabilities = to_probabilities(found.answers.logits, state.temperature).numpy()
    return found.answers.uris, probabilities, found.unreadable, found.num_unknown


def _rows(table: pa.Table, uris: Sequence[str]) -> pa.Table:
    """Give the rows of some photos, in the order of their uris."""
    return table.take(pc.index_in(pa.array(uris, pa.large_string()), value_set=table["uri"].combine_chunks()))


@contextmanager
def _command_named(command: str) -> Iterator[None]:
    """Name the command that resumes all folds in the errors that are raised inside."""
    try:
        yield
    except PhysiqError as error:
        raise type(error)(f"{error}; or resume all folds with: {command}") from error
    except KeyboardInterrupt as error:
        raise TrainingError(f"interrupted; resume all folds with: {command}") from error
