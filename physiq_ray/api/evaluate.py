"""Score a model, and compare it with another one."""

from collections.abc import Iterable
from dataclasses import dataclass

from physiq_ray.api.display import Progress, counting, make_display
from physiq_ray.api.model import Model, load
from physiq_ray.checkpoint import ModelState
from physiq_ray.config import Settings, load_settings
from physiq_ray.constants import VALIDATION
from physiq_ray.evaluation import Report, score, write_report
from physiq_ray.evaluation import evaluate as photos
from physiq_ray.evaluation.behaviour import Behaviour, measure_behaviour
from physiq_ray.evaluation.candidates import find_candidates, split_defaults, training_or_none
from physiq_ray.evaluation.compare import Comparison, compare
from physiq_ray.evaluation.facts import facts_of_evaluation
from physiq_ray.evaluation.scores import Evaluation
from physiq_ray.evaluation.slices import Slices, slice_report
from physiq_ray.storage import absolute_uri


@dataclass(frozen=True)
class EvaluationResult:
    """The scores of a model.

    found: the answers, and what was left out. slices: accuracy of parts of the photos. behaviour: the share
    of unchanged answers on changed photos. comparison: with an older model. Both are None if not asked for.
    files: the uris of the report's files. failed_sources: a sentence for each source that could not be
    listed.
    """

    report: Report
    slices: Slices
    found: Evaluation
    behaviour: Behaviour | None
    comparison: Comparison | None
    files: tuple[str, ...]
    failed_sources: tuple[str, ...]


def evaluate(
    model: Model = "output",
    settings: Settings | None = None,
    *,
    split: str = VALIDATION,
    against: Model | None = None,
    behaviour: bool = False,
    report: str | None = None,
    progress: Progress = True,
    debug: bool = False,
) -> EvaluationResult:
    """Score a model on labelled photos.

    settings: sources, labels and split of the photos; what is not set has the value of the training. None:
    the photos of the training. split: "validation", "test", "train" or "all". against: an older model to
    compare with on the same photos. behaviour: also predict some photos with changes. report: a folder for
    report.json, figures and model card; None writes nothing. debug: show Ray's log.
    Raises SettingError, LabelError, StorageError, DataError, CheckpointError, PredictionError.
    """
    state = load(model)
    old = load(against) if against is not None else None
    given = settings.model_dump(exclude_unset=True) if settings is not None else {}
    chosen = load_settings(given, environment={}, defaults=split_defaults(state))
    display = make_display(progress)
    with display.live():
        candidates = find_candidates(chosen, state, on_progress=counting(display, "comparing"), debug=debug)
        found, *found_old = photos.evaluate(
            candidates.manifest,
            [state] if old is None else [state, old],
            split=split,
            precision=chosen.precision,
            batch_size=chosen.batch_size,
            on_progress=counting(display, "evaluating"),
            debug=debug,
        )
        comparison = None
        if old is not None:
            comparison = compare(
                found,
                found_old[0],
                (state.class_mapping, old.class_mapping),
                {**old.pose_names, **state.pose_names},
                training=(candidates.training, training_or_none(old)),
            )
        scores = score(
            found.answers,
            state.class_mapping,
            state.pose_names,
            temperature=state.temperature,
            floor=state.floor,
            floor_scores=found.floor,
        )
        table = candidates.manifest.table
        slices = slice_report(scores, found.answers, table, found.brightness)
        changed = None
        if behaviour:
            changed = measure_behaviour(
                found.answers,
                table,
                state,
                precision=chosen.precision,
                on_progress=counting(display, "changing photos"),
            )
    files: Iterable[str] = ()
    if report is not None:
        name = "a loaded model" if isinstance(model, ModelState) else str(model)
        facts = facts_of_evaluation(state, candidates, found, split=split, model=name)
        files = write_report(
            scores,
            found.answers,
            facts,
            absolute_uri(report),
            slices=slices,
            behaviour=changed,
            history=state.history,
            state=state,
        )
    failed = [f"{source.source}: {source.error}" for source in candidates.manifest.report.failed_sources]
    return EvaluationResult(scores, slices, found, changed, comparison, tuple(files), tuple(failed))
