"""A whole run from the driver's side: folder, manifest, photos, job, fit, finish."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import check_cluster, connect, smallest_object_store
from physiq_ray.config import Settings
from physiq_ray.constants import WEIGHTS_WORDS
from physiq_ray.errors import PhysiqError, SettingError
from physiq_ray.evaluation import Answers
from physiq_ray.evaluation.evaluate import evaluate
from physiq_ray.evaluation.find_floor import find_floor
from physiq_ray.evaluation.measure_reference import measure_reference
from physiq_ray.evaluation.scores import Evaluation
from physiq_ray.floor import Floor
from physiq_ray.ingest import (
    CacheSettings,
    Photos,
    StoredPhotos,
    StreamedPhotos,
    hashing,
    in_use,
    open_splits,
    start_stream,
)
from physiq_ray.labels import load_configured_poses
from physiq_ray.manifest import (
    TEST,
    TRAIN,
    VALIDATION,
    Manifest,
    collect_manifest,
    describe_manifest,
    read_manifest,
)
from physiq_ray.model import StartingWeights, load_starting_weights
from physiq_ray.progress import Display
from physiq_ray.quarantine import Unreadable, check_unreadable, write_quarantine
from physiq_ray.reference import Reference
from physiq_ray.storage import PhotoSource, absolute_uri, current_access, follow_settings, parse_sources
from physiq_ray.training.events import make_queue, received
from physiq_ray.training.finish import TrainingResult, finish
from physiq_ray.training.fit import fit, interruption_translated
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.history import HistoryFiles
from physiq_ray.training.in_process import fit_in_process
from physiq_ray.training.job import Job
from physiq_ray.training.lock import locked_output
from physiq_ray.training.metrics import exported
from physiq_ray.training.plan import balanced_weights
from physiq_ray.training.record import RunRecord, describe_head, stored_settings
from physiq_ray.training.table import EpochTable
from physiq_ray.training.tracking import require_tracking, tracked
from physiq_ray.training.workers import WorkerPlan, await_workers, with_gpu_defaults


def train(
    settings: Settings,
    display: Display,
    *,
    resume: bool = False,
    local: bool = False,
    debug: bool = False,
    source: PhotoSource | None = None,
) -> TrainingResult:
    """Train from the buckets to the model files and their report, or resume an interrupted run.

    resume: what settings do not set is as it was at the run's start. local: on this machine even if
    RAY_ADDRESS is set. source: one of the caller's own, in place of the settings' sources; a resumed run
    needs it again.
    Raises PhysiqError of the kind that says what is wrong: SettingError, LabelError, StorageError,
    DataError, WeightsError, or TrainingError if Ray Train gave up or another process trains this run.
    """
    in_process = settings.num_workers == 0
    if resume and in_process:
        raise SettingError(
            "num_workers=0: a training in this process keeps no checkpoint from which it could resume; give "
            "num_workers=1"
        )
    if resume and settings.run_name is None:
        raise SettingError("--resume needs --run-name (or PHYSIQ_RUN_NAME): the run to resume")
    started_s = time.time()
    folder = RunFolder(settings.storage, settings.run_name or f"physiq-{datetime.now():%Y%m%d-%H%M%S}")
    names_are_given = "poses" in settings.model_fields_set
    if resume:  # before the lock: a run that was never started needs none
        settings = folder.resumed_settings(settings)
    require_tracking(settings.mlflow)
    check_cluster(local=local)
    with folder.locked(display.note), locked_output(settings.output, display.note):
        weights, has_checkpoint = None, resume and folder.has_checkpoint()
        if resume:
            record = load_record(settings, folder, names_are_given=names_are_given)
            if not has_checkpoint:
                weights = load_starting_weights(settings.weights)
        else:
            folder.refuse_started()
            record, weights = start_record(
                settings, display, source, lambda: _join_cluster(settings, display, local=local, debug=debug)
            )
        follow_settings(settings, record.manifest.buckets)
        workers = _join_cluster(settings, display, local=local, debug=debug)
        if workers.use_gpu:
            settings = with_gpu_defaults(settings)
        params, output = stored_settings(settings, folder.name), absolute_uri(settings.output)
        with tracked(settings.mlflow, folder.name, params, display.note) as trackers:
            photos = _open_splits(settings, record.manifest, output, display, source, workers)
            folder.save_record(record, settings)
            display.note(
                f"run {folder.name}: "
                f"{'in this process' if in_process else f'{settings.num_workers} worker(s)'} on "
                f"{'GPU' if workers.use_gpu else 'CPU'}, {settings.image_size} px, "
                f"batch {settings.batch_size}, learning rate {settings.learning_rate:.2g}, "
                + ("from its latest checkpoint" if has_checkpoint else f"from {settings.weights} weights")
            )
            if weights is not None and settings.weights not in WEIGHTS_WORDS:
                display.note(describe_head(weights, record.manifest.class_mapping, record.pose_names))
            # A debugger's user wants the interrupt itself, and such a run cannot be resumed.
            translated = nullcontext() if in_process else interruption_translated(folder)
            with translated, in_use(photos), TemporaryDirectory() as temporary:
                job = _make_job(settings, record.manifest, photos, weights, workers, started_s)
                table, files = EpochTable(display, settings.epochs), HistoryFiles(output, folder.name)
                with display.live(), exported(folder.name) as export:
                    handlers = [table.handle, files.handle, export, *trackers]
                    with received(job.events, handlers):
                        result: Any = (
                            fit_in_process(job, workers, Path(temporary))
                            if in_process
                            else fit(job, workers, folder)
                        )
                find_floor = partial(_find_floor, settings, record.manifest, display, source, workers)
                score_test = partial(_score_test, settings, record.manifest, display, source, output)
                measure = partial(_measure_reference, settings, record.manifest, display, source)
                return finish(
                    settings,
                    record,
                    folder,
                    result,
                    output,
                    find_floor=find_floor,
                    measure_reference=measure,
                    score_test=score_test,
                )


def _join_cluster(settings: Settings, display: Display, *, local: bool, debug: bool) -> WorkerPlan:
    connect(local=local, debug=debug)
    return await_workers(settings, display.note)


def start_record(
    settings: Settings, display: Display, source: PhotoSource | None, join_cluster: Callable[[], object]
) -> tuple[RunRecord, StartingWeights | None]:
    """Find the photos of a new run and its starting weights; quick checks come before slow ones.

    join_cluster: called after the listing, if the photos must be read before the split.
    The weights are None if they are random. Raises SettingError, LabelError, StorageError, DataError,
    WeightsError.
    """
    manifest = read_manifest(settings)
    if manifest is None and source is None:
        parse_sources(settings.sources)
    poses = load_configured_poses(settings)
    weights = load_starting_weights(settings.weights)  # before a listing that may take long
    if manifest is None:
        hash_photos = hashing(
            settings,
            join_cluster,
            reader=source,
            decode_resource=settings.decode_resource,
            on_progress=lambda done, total: display.count("comparing", done, total),
        )
        with display.live():
            manifest = collect_manifest(settings, poses, source, hash_photos=hash_photos)
        for line in describe_manifest(manifest):
            display.note(line)
    else:
        counts = {name: manifest.split(name).num_rows for name in (TRAIN, VALIDATION)}
        display.note(
            f"{absolute_uri(str(settings.manifest))}: {counts[TRAIN]} photos to train on, "
            f"{counts[VALIDATION]} to validate with"
        )
    if settings.limit is not None:
        total, manifest = manifest.table.num_rows, manifest.limited(settings.limit, settings.seed)
        display.note(f"limit={settings.limit}: {manifest.table.num_rows} of these {total} photos are used")
    return RunRecord.of_manifest(manifest, poses), weights


def load_record(settings: Settings, folder: RunFolder, *, names_are_given: bool) -> RunRecord:
    """Read what the run started with, and a file of poses if it is set now or the record has no names.

    Raises TrainingError: no such run, or a damaged record; LabelError.
    """
    record = folder.load_record()
    if names_are_given or not record.pose_names:
        return record.with_names(load_configured_poses(settings))
    return record


def _open_splits(
    settings: Settings,
    manifest: Manifest,
    output: str,
    display: Display,
    source: PhotoSource | None,
    workers: WorkerPlan,
) -> Mapping[str, Photos]:
    if settings.cache == "gpu" and not workers.use_gpu:
        raise SettingError("cache=gpu: training runs on CPUs here; set use_gpu=yes, or another cache")
    splits = {split: manifest.split(split) for split in (TRAIN, VALIDATION)}  # none of the test's
    total = sum(table.num_rows for table in splits.values())
    done = 0

    def count(num_photos: int) -> None:
        nonlocal done
        done += num_photos
        display.count("decoding", done, total)

    with display.live():
        photos = open_splits(
            splits,
            CacheSettings(settings.cache, settings.cache_dir, settings.cache_limit_gib),
            image_size=settings.image_size,
            store_bytes=smallest_object_store(with_gpu=workers.use_gpu),
            decode_resource=settings.decode_resource,
            reader=source,
            on_progress=count,
            note=display.note,
        )
    unreadable = [item for part in photos.values() for _, item in part.unreadable]
    _quarantine(unreadable, total, settings, output)
    return photos


def _quarantine(unreadable: list[Unreadable], total: int, settings: Settings, output: str) -> None:
    """Write the list before it may end the run, because the user needs it then."""
    if unreadable:
        write_quarantine(unreadable, output)
    check_unreadable(unreadable, total, settings.max_unreadable_share)


def _make_job(
    settings: Settings,
    manifest: Manifest,
    photos: Mapping[str, Photos],
    weights: StartingWeights | None,
    workers: WorkerPlan,
    started_s: float,
) -> Job:
    streamed = {name: part for name, part in photos.items() if isinstance(part, StreamedPhotos)}
    return Job(
        settings=settings,
        class_mapping=manifest.class_mapping,
        photos=photos,
        weights=ray.put(weights) if weights is not None else None,
        class_weights=_class_weights(settings, manifest),
        threads=workers.threads,
        events=make_queue(),
        # A single worker runs the pipeline itself.
        stream=start_stream(streamed, settings.num_workers)
        if streamed and settings.num_workers > 1
        else None,
        deadline_s=started_s + 3600 * settings.max_hours if settings.max_hours is not None else math.inf,
    )


def _find_floor(
    settings: Settings,
    manifest: Manifest,
    display: Display,
    source: PhotoSource | None,
    workers: WorkerPlan,
    state: ModelState,
    uris: Sequence[str],
) -> Floor | None:
    """Choose the floor of the finished model; a failure costs the floor, and not the model."""
    try:
        with display.live():
            return find_floor(
                manifest,
                state,
                uris,
                target_precision=settings.target_precision,
                precision=settings.precision,
                source=source,
                use_gpu=workers.use_gpu,
                on_progress=lambda done, total: display.count("choosing the floor", done, total),
            )
    except PhysiqError as error:
        display.note(f"the model has no floor, so that each photo gets a pose: {error}")
        return None


def _measure_reference(
    settings: Settings,
    manifest: Manifest,
    display: Display,
    source: PhotoSource | None,
    state: ModelState,
    answers: Answers,
) -> Reference | None:
    """Measure what the validation photos are like; a failure costs the service's watch for other photos."""
    try:
        return measure_reference(
            answers,
            manifest.table,
            temperature=state.temperature,
            image_size=settings.image_size,
            reader=source or StoredPhotos(current_access()),
        )
    except PhysiqError as error:
        display.note(f"the service will not notice if photos differ from the validation photos: {error}")
        return None


def _score_test(
    settings: Settings,
    manifest: Manifest,
    display: Display,
    source: PhotoSource | None,
    output: str,
    state: ModelState,
) -> Evaluation | None:
    """Predict the test photos, if there are any; a failure costs their scores, and not the model."""
    if not manifest.split(TEST).num_rows:
        return None
    try:
        with display.live():
            [found] = evaluate(
                manifest,
                [state],
                split=TEST,
                precision=settings.precision,
                source=source,
                on_progress=lambda done, total: display.count("testing", done, total),
            )
            return found
    except PhysiqError as error:
        display.note(
            f"the test photos are not scored: {error}; score them with: physiq-ray evaluate --model {output} "
            f"--split {TEST}"
        )
        return None


def _class_weights(settings: Settings, manifest: Manifest) -> tuple[float, ...]:
    if settings.class_weights == "none":
        return ()
    indices = manifest.split(TRAIN)["class_index"].to_numpy().astype(np.int64)
    return balanced_weights(indices, len(manifest.class_mapping.classes))
