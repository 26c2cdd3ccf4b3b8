"""A whole run from the driver's side: manifest, Ray, the trainer, and the files at the end."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import numpy as np
import ray
import ray.train
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from physiq_ray.cluster import check_cluster, cluster_nodes, connect, smallest_object_store
from physiq_ray.config import Settings
from physiq_ray.errors import PhysiqError, SettingError, TrainingError
from physiq_ray.ingest import CacheSettings, Photos, StreamedPhotos, in_use, open_splits, start_stream
from physiq_ray.labels import load_configured_poses
from physiq_ray.manifest import TRAIN, VALIDATION, Manifest, collect_manifest, describe_manifest
from physiq_ray.model import KEEP_MEMORY, StateDict, load_starting_weights
from physiq_ray.progress import Display
from physiq_ray.quarantine import Unreadable, check_unreadable, write_quarantine
from physiq_ray.storage import (
    PhotoSource,
    absolute_uri,
    follow_settings,
    join_uri,
    parse_sources,
    read_bytes,
)
from physiq_ray.training.events import ReportEpochs, received
from physiq_ray.training.faults import EndWithoutMemory, is_out_of_memory, out_of_memory
from physiq_ray.training.finish import TrainingResult, finish
from physiq_ray.training.history import HistoryFiles
from physiq_ray.training.lock import locked, locked_output
from physiq_ray.training.loop import Job, train_loop
from physiq_ray.training.plan import (
    WorkerPlan,
    balanced_weights,
    plan_workers,
    wanted_bundles,
    with_gpu_defaults,
)
from physiq_ray.training.record import (
    RunRecord,
    exists,
    load_record,
    resume_command,
    resumed_settings,
    save_record,
    stored_settings,
)
from physiq_ray.training.snapshot import CopySnapshot, has_checkpoint
from physiq_ray.training.table import EpochTable
from physiq_ray.training.tracking import require_tracking, tracked

# Ray asks its workers for reports every 2 s: an epoch of a small set would wait longer than it trains.
POLL_INTERVAL_S = "0.5"
NODE_POLL_S = 2.0


class InterruptedRunError(TrainingError):
    """The run was stopped by Ctrl-C; the sentence says how to go on."""


def train(
    settings: Settings,
    display: Display,
    *,
    resume: bool = False,
    local: bool = False,
    debug: bool = False,
    source: PhotoSource | None = None,
) -> TrainingResult:
    """Train from the buckets to the model files and their report, or go on with an interrupted run.

    resume: what settings do not set is as it was at the run's start. local: on this machine even if
    RAY_ADDRESS is set. source: one of the caller's own, in place of the settings' sources; a resumed run
    needs it again.
    Raises PhysiqError of the kind that says what is wrong: SettingError, LabelError, StorageError,
    DataError, WeightsError, or TrainingError where Ray Train gave up or another process trains this run.
    """
    if resume and settings.run_name is None:
        raise SettingError("--resume needs --run-name (or PHYSIQ_RUN_NAME): the run to go on with")
    run_name = settings.run_name or f"physiq-{datetime.now():%Y%m%d-%H%M%S}"
    names_are_given = "poses" in settings.model_fields_set
    if resume:  # what was never started is not locked either
        settings = resumed_settings(settings, run_name)
    require_tracking(settings.mlflow)
    check_cluster(local=local)
    with locked(settings.storage, run_name, display.note), locked_output(settings.output, display.note):
        output = absolute_uri(settings.output)
        goes_on = resume and has_checkpoint(settings.storage, run_name)
        if resume:
            record = _resumed_record(settings, run_name, names_are_given=names_are_given)
            weights = None if goes_on else load_starting_weights(settings.weights)
        else:
            _refuse_taken(settings, run_name)
            given_manifest = _read_manifest(settings, display, source)
            poses = load_configured_poses(settings)
            weights = load_starting_weights(settings.weights)  # before a listing that may take long
            manifest = given_manifest or _list_photos(settings, poses, display, source)
            record = RunRecord.of_manifest(manifest, poses)
        follow_settings(settings, record.manifest.table["bucket"].unique().to_pylist())
        connect(local=local, debug=debug)
        workers = _await_workers(settings, display.note)
        if workers.use_gpu:
            settings = with_gpu_defaults(settings)
        params = stored_settings(settings, run_name)
        with tracked(settings.mlflow, run_name, params, display.note) as trackers:
            photos = _open_splits(settings, record.manifest, output, display, source, workers)
            save_record(record, settings, run_name)
            display.note(
                f"run {run_name}: {settings.num_workers} worker(s) on {'GPU' if workers.use_gpu else 'CPU'}, "
                f"{settings.image_size} px, batch {settings.batch_size}, "
                f"learning rate {settings.learning_rate:.2g}, "
                + ("from its latest checkpoint" if goes_on else f"from {settings.weights} weights")
            )
            with _interruption_told(settings, run_name), in_use(photos):
                job = _make_job(settings, record.manifest, photos, weights, workers)
                table, files = EpochTable(display, settings.epochs), HistoryFiles(output, run_name)
                handlers = [table.handle, files.handle, *trackers]
                with display.live(), received(job.events, handlers):
                    result = _fit(_make_trainer(job, workers, run_name), settings, run_name)
                return finish(settings, record, run_name, result, output)


@contextmanager
def _interruption_told(settings: Settings, run_name: str) -> Iterator[None]:
    """Say how to go on with a run whose record is written, wherever in it Ctrl-C comes."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:  # Ray's handler ends a stopped run by sys.exit(0)
        go_on = resume_command(settings, run_name)
        raise InterruptedRunError(
            f"interrupted; the last epoch's checkpoint is safe, go on with: {go_on}"
            if has_checkpoint(settings.storage, run_name)
            else f"interrupted before the first epoch was done; start again with: {go_on}"
        ) from error


def _await_workers(settings: Settings, note: Callable[[str], None]) -> WorkerPlan:
    """Fit the workers into the cluster; where they do not fit, wait for the autoscaler, if that is wished.

    Ray would wait for ever, and say nothing, for resources that no node will bring.
    Raises TrainingError: what is missing, by name.
    """
    deadline_s = time.monotonic() + settings.wait_for_nodes_s
    is_asked = False
    try:
        while True:
            try:
                return plan_workers(settings, cluster_nodes())
            except TrainingError as error:
                if time.monotonic() >= deadline_s:
                    raise
                if not is_asked:
                    note(f"{error}; waiting {settings.wait_for_nodes_s:g} s at most for the autoscaler")
                    request_resources(bundles=wanted_bundles(settings))
                    is_asked = True
            time.sleep(NODE_POLL_S)
    finally:
        if is_asked:  # a request stands until the next: the nodes would never go again
            request_resources(bundles=[])


def _make_job(
    settings: Settings,
    manifest: Manifest,
    photos: Mapping[str, Photos],
    weights: StateDict | None,
    workers: WorkerPlan,
) -> Job:
    streamed = {name: part for name, part in photos.items() if isinstance(part, StreamedPhotos)}
    return Job(
        settings=settings,
        class_mapping=manifest.class_mapping,
        photos=photos,
        weights=ray.put(weights) if weights is not None else None,
        class_weights=_class_weights(settings, manifest),
        threads=workers.threads,
        events=_make_queue(),
        # A single worker runs the pipeline itself.
        stream=start_stream(streamed, settings.num_workers)
        if streamed and settings.num_workers > 1
        else None,
    )


def _make_queue() -> Queue:
    """Make the events' queue on this node: Ray would put it on any, with whose loss the table would end."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def _make_trainer(job: Job, workers: WorkerPlan, run_name: str) -> TorchTrainer:
    settings = job.settings
    at_most = settings.num_workers
    num_workers = at_most if settings.min_workers is None else (settings.min_workers, at_most)
    return TorchTrainer(
        train_loop,  # type: ignore[arg-type]  # Ray passes on what it returns, its types say None
        train_loop_config={"job": job},
        # Longer than the watchdog's, which names the worker that does nothing; this ends a waiting one by an
        # error of its libraries.
        torch_config=TorchConfig(timeout_s=math.ceil(2 * settings.stall_timeout_s)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,  # type: ignore[arg-type]  # typed for Train V1
            use_gpu=workers.use_gpu,
            placement_strategy=workers.placement,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": 1.0} if workers.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # typed for Train V1
            name=run_name,
            storage_path=absolute_uri(settings.storage),
            failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
            worker_runtime_env={"env_vars": {} if workers.use_gpu else KEEP_MEMORY},
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=1,  # the best one; Ray keeps the latest besides
                checkpoint_score_attribute="checkpoint_score",
                checkpoint_score_order="max",
            ),
            callbacks=[  # typed for Train V1
                ReportEpochs(job.events),  # type: ignore[list-item]
                EndWithoutMemory(settings),  # type: ignore[list-item]
                CopySnapshot(join_uri(absolute_uri(settings.storage), run_name)),  # type: ignore[list-item]
            ],
        ),
    )


def _resumed_record(settings: Settings, run_name: str, *, names_are_given: bool) -> RunRecord:
    """Read back what the run started with; a file of poses only where one is named now, or none was kept."""
    record = load_record(settings.storage, run_name)
    if names_are_given or not record.pose_names:
        return record.with_names(load_configured_poses(settings))
    return record


def _refuse_taken(settings: Settings, run_name: str) -> None:
    if exists(settings.storage, run_name):
        raise TrainingError(
            f"run {run_name!r} exists in {settings.storage}; go on with --resume, or give another --run-name"
        )


def _list_photos(
    settings: Settings, poses: Mapping[int, str], display: Display, source: PhotoSource | None
) -> Manifest:
    manifest = collect_manifest(settings, poses, source)
    for line in describe_manifest(manifest):
        display.note(line)
    return manifest


def _read_manifest(settings: Settings, display: Display, source: PhotoSource | None) -> Manifest | None:
    """Read the manifest that settings name; None where the sources are to be listed."""
    if settings.manifest is None:
        if source is None:
            parse_sources(settings.sources)
        return None
    if settings.sources:
        raise SettingError(
            f"manifest={settings.manifest}: given together with sources={', '.join(settings.sources)}; "
            "a manifest names its photos itself: give one of the two"
        )
    uri = absolute_uri(settings.manifest)
    manifest = Manifest.from_parquet(read_bytes(uri), name=uri)
    counts = {name: manifest.split(name).num_rows for name in (TRAIN, VALIDATION)}
    display.note(f"{uri}: {counts[TRAIN]} photos to train on, {counts[VALIDATION]} to validate with")
    return manifest


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
    """Write the list before it may end the run: it is what the user needs then."""
    if unreadable:
        write_quarantine(unreadable, output)
    check_unreadable(unreadable, total, settings.max_unreadable_share)


def _class_weights(settings: Settings, manifest: Manifest) -> tuple[float, ...]:
    if settings.class_weights == "none":
        return ()
    indices = manifest.split(TRAIN)["class_index"].to_numpy().astype(np.int64)
    return balanced_weights(indices, len(manifest.class_mapping.classes))


def _fit(trainer: TorchTrainer, settings: Settings, run_name: str) -> Any:
    go_on = resume_command(settings, run_name)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_INTERVAL_S)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(settings.stall_timeout_s)
    try:
        with _sigint_restored():
            return trainer.fit()
    except ray.train.ControllerError as error:
        failure = error.controller_failure
        reason = f"{failure}" if isinstance(failure, PhysiqError) else f"Ray Train: {failure}"
        raise TrainingError(f"{reason}; go on with: {go_on}") from error
    except ray.train.WorkerGroupError as error:
        causes = {
            rank: getattr(cause, "cause", None) or cause for rank, cause in error.worker_failures.items()
        }
        ours = [cause for cause in causes.values() if isinstance(cause, PhysiqError)]
        if ours:
            raise type(ours[0])(f"{ours[0]}; go on with: {go_on}") from error
        rank, cause = min(causes.items(), key=lambda item: item[0])
        if is_out_of_memory(cause):  # killed for it, it could not say so itself
            raise TrainingError(f"{out_of_memory(settings)}; go on with: {go_on}") from error
        raise TrainingError(
            f"training worker {rank} failed: {_last_line(cause)}; --debug shows more; go on with: {go_on}"
        ) from error
    except RayError as error:  # the controller or the cluster itself is gone
        raise TrainingError(f"Ray: {_last_line(error)}; go on with: {go_on}") from error


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _sigint_restored() -> Iterator[None]:
    """Give Ctrl-C back afterwards: Ray Train leaves its own handler installed."""
    try:
        before = signal.getsignal(signal.SIGINT)
        yield
    finally:
        signal.signal(signal.SIGINT, before)
