"""The end of a run: the model files of the best epoch, and the result that the command reports."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from physiq_ray.checkpoint import (
    WEIGHTS_FILE,
    ModelState,
    current_versions,
    save_model_files,
)
from physiq_ray.config import Settings
from physiq_ray.constants import COMPLETE_FILE
from physiq_ray.errors import DataError, StorageError, TrainingError
from physiq_ray.evaluation import Answers, Report, fit_temperature, score, write_report
from physiq_ray.evaluation.choose_floor import halve
from physiq_ray.evaluation.facts import facts_of_training
from physiq_ray.evaluation.scores import Evaluation
from physiq_ray.evaluation.slices import Slices, slice_report
from physiq_ray.floor import Floor
from physiq_ray.labels.mapping import MAPPING_FILE
from physiq_ray.manifest import TEST, TRAIN, VALIDATION, Manifest
from physiq_ray.quarantine import QUARANTINE_FILE, Unreadable, write_quarantine
from physiq_ray.reference import Reference
from physiq_ray.storage import join_uri, written_together
from physiq_ray.training.faults import store_translated
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.history import write_history
from physiq_ray.training.measures import Divergence
from physiq_ray.training.network import weights_to_keep
from physiq_ray.training.outcome import Outcome
from physiq_ray.training.record import RunRecord, stored_settings
from physiq_ray.training.state import read_state

NAMED_PHOTOS = 8  # in the message on a loss that is not finite


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    report, slices: of the best epoch on the photos of scored_split, None if none of them could be read.
    scored_split: "test" if the run has test photos that could be scored, else "validation". history: one dict
    per epoch. files: uris of the written files. num_used: photos by split. failed_sources: a sentence for
    each source that could not be listed; with any of them, the run is only partly done. stopped: a sentence
    with the command that continues the run, if it stopped because of max_hours.
    """

    run_name: str
    best_epoch: int
    best_accuracy: float
    report: Report | None
    slices: Slices | None
    scored_split: str
    history: tuple[Mapping[str, Any], ...]
    files: tuple[str, ...]
    num_used: Mapping[str, int]
    num_skipped: int
    unreadable: tuple[Unreadable, ...]
    failed_sources: tuple[str, ...]
    stopped: str | None = None
    validation_uris: tuple[str, ...] = field(repr=False, default=())


def finish(
    settings: Settings,
    record: RunRecord,
    folder: RunFolder,
    result: Any,  # ray.train.Result, whose types are V1's
    output: str,
    *,
    find_floor: Callable[[ModelState, Sequence[str]], Floor | None] = lambda _model, _uris: None,
    measure_reference: Callable[[ModelState, Answers], Reference | None] = lambda _model, _answers: None,
    score_test: Callable[[ModelState], Evaluation | None] = lambda _: None,
) -> TrainingResult:
    """Write model files, history, report and quarantine list from what the run left.

    find_floor: chooses the floor of the finished model with the validation photos of these uris, which do not
    choose the temperature. measure_reference: measures what the validation photos are like. score_test:
    predicts the test photos with the finished model; gives None if there are none.
    """
    outcome: Outcome = result.return_value
    unreadable = outcome.unreadable
    if unreadable:
        write_quarantine(unreadable, output)
    if outcome.failure:
        raise DataError(outcome.failure)
    manifest = record.manifest
    if outcome.divergence is not None:
        raise _diverged(outcome.divergence, manifest, settings, folder.resume_command)
    best, metrics = max(result.best_checkpoints, key=lambda item: item[1]["checkpoint_score"])
    with _complete_set(output, folder.resume_command) as place:
        with store_translated(settings):
            latest = read_state(result.checkpoint)["progress"]
            state = read_state(best)
        answers = _answers(state["validation"], manifest)
        is_first = halve(answers.groups)
        first = torch.from_numpy(is_first)
        temperature = fit_temperature(answers.logits[first], answers.labels[first]) if first.any() else 1.0
        model = ModelState(
            state_dict=weights_to_keep(state),
            class_mapping=manifest.class_mapping,
            pose_names=record.pose_names,
            image_size=settings.image_size,
            temperature=temperature,
            optimizer_state_dict=state["optimizer"],
            history=latest["history"],
            settings=stored_settings(settings, folder.name),
            best_epoch=metrics["epoch"],
            versions=current_versions(),
        )
        is_wrong = (answers.logits.argmax(dim=1) != answers.labels).numpy()
        if manifest.no_pose.num_rows or is_wrong[~is_first].any():  # else no threshold is better than another
            rest = [uri for uri, chosen in zip(answers.uris, is_first, strict=True) if not chosen]
            model = replace(model, floor=find_floor(model, rest))
        model = replace(model, reference=measure_reference(model, answers))
        files = [*save_model_files(model, place), *write_history(latest["history"], place, folder.name)]
        tested, split = score_test(model), VALIDATION
        if tested is not None:
            answers, split = tested.answers, TEST
            unreadable = (*unreadable, *tested.unreadable)
            if tested.unreadable:
                write_quarantine(unreadable, output)
        report = slices = None
        if answers.uris:
            report = score(
                answers,
                manifest.class_mapping,
                record.pose_names,
                temperature=model.temperature,
                floor=model.floor,
                floor_scores=tested.floor if tested is not None else None,
            )
            slices = slice_report(report, answers, manifest.table, tested.brightness if tested else None)
            facts = facts_of_training(
                model,
                manifest,
                answers,
                split=split,
                run_name=folder.name,
                num_skipped=record.num_skipped,
                unreadable=unreadable,
            )
            files += write_report(
                report, answers, facts, place, slices=slices, history=latest["history"], state=model
            )
    files = [join_uri(output, Path(uri).relative_to(place).as_posix()) for uri in files]
    left_out = {item.uri for item in unreadable}
    splits = (TRAIN, VALIDATION, *([TEST] if tested is not None else []))
    uris = {name: manifest.split(name)["uri"].to_pylist() for name in splits}
    return TrainingResult(
        run_name=folder.name,
        best_epoch=metrics["epoch"],
        best_accuracy=metrics["validation_accuracy"],
        report=report,
        slices=slices,
        scored_split=split,
        history=tuple(latest["history"]),
        files=(*files, *([join_uri(output, QUARANTINE_FILE)] if left_out else [])),
        num_used={name: sum(uri not in left_out for uri in uris[name]) for name in uris},
        num_skipped=record.num_skipped,
        unreadable=unreadable,
        failed_sources=record.failed_sources,
        stopped=(
            f"Stopped after epoch {latest['epoch']} of {settings.epochs}: max_hours={settings.max_hours:g} "
            f"leaves no time for another; continue with: {folder.resume_command}"
            if outcome.is_out_of_time
            else None
        ),
        validation_uris=tuple(uris[VALIDATION]),
    )


@contextmanager
def _complete_set(output: str, resume_command: str) -> Iterator[str]:
    """Give a folder to write to; output gets all of its files, or keeps what it has."""
    folder = ""
    try:
        with written_together(output, last=(MAPPING_FILE, WEIGHTS_FILE, COMPLETE_FILE)) as path:
            folder = str(path)
            yield folder
    except (StorageError, OSError) as error:  # of the output, or of this machine's temporary folder
        reason = str(error).replace(folder, output) if folder else str(error)
        kind = type(error) if isinstance(error, StorageError) else StorageError
        raise kind(
            f"output={output}: the model files are not written: {reason}; free space there, or see that it "
            f"can be written; the training is safe, write them with: {resume_command}"
        ) from error


def _answers(validation: Mapping[str, Tensor], manifest: Manifest) -> Answers:
    """Name the validation photos of the best epoch."""
    photos = manifest.split(VALIDATION).take(pa.array(validation["rows"].numpy()))
    uris, groups = (tuple(photos[name].to_pylist()) for name in ("uri", "group"))
    return Answers(uris, validation["labels"], validation["logits"], groups)


def _diverged(
    found: Divergence, manifest: Manifest, settings: Settings, resume_command: str
) -> TrainingError:
    """Name the photos of the step whose loss was not finite."""
    if found.step is None:
        where = f"the validation loss of epoch {found.epoch} is not finite"
    else:
        uris = manifest.split(TRAIN)["uri"].take(pa.array(found.rows[:NAMED_PHOTOS])).to_pylist()
        more = len(found.rows) - len(uris)
        where = (
            f"the loss of epoch {found.epoch}, batch {found.step} of {found.num_steps} is not finite, with "
            f"{', '.join(uris)}{f' and {more} more' if more > 0 else ''}"
        )
    safe = "the checkpoints before it are safe, resume" if found.epoch > 1 else "start again"
    return TrainingError(
        f"{where}; lower learning_rate={settings.learning_rate:g} or set max_gradient_norm; {safe} with: "
        f"{resume_command}"
    )
