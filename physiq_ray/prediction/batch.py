"""Addresses of photos → answers in Parquet files, with Ray Data, for any number of photos.

Tasks decode the photos, and actors hold the network, which they load once. Only uris and outputs return to
the driver, so its memory holds the list of photos and the answers of one part. Photos that are in parts of
the output already are skipped: after a kill, the same command resumes and loses only the answers since the
last part. Two runs must not write to the same output at the same time. For a few photos, `single` is faster:
Ray and its processes take about ten seconds to start.
"""

import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch
from ray.exceptions import RayError

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import cluster_nodes, connect
from physiq_ray.columns import first_equal, take_rows, widened
from physiq_ray.constants import OUTAGE_RUN
from physiq_ray.errors import PhysiqError, PredictionError, SettingError, StorageError, UnreachableError
from physiq_ray.images import mean_brightness
from physiq_ray.ingest import PhotoReader, build_dataset
from physiq_ray.prediction.answer import NOT_FINITE, Float32Array
from physiq_ray.prediction.network import Network
from physiq_ray.prediction.parts import PartWriter, read_parts
from physiq_ray.prediction.unreadable import UnreadableList
from physiq_ray.quarantine import Unreadable
from physiq_ray.storage import (
    LISTING_SCHEMA,
    absolute_uri,
    is_photo,
    list_sources,
    parse_source,
    read_bytes,
)

PART_ROWS = 10_000
# What an actor reserves at most. If it reserved a whole CPU, as decoding does, Ray Data would fuse the two
# and run both in the actors, one photo after another, while the other CPUs are idle.
MOST_CPUS = 0.999

Progress = Callable[[int, int], None]  # photos done, photos in all


@dataclass(frozen=True)
class AnsweredBatch:
    """The answers of some photos in the order of their table; unreadable photos are listed apart.

    uris: of the B photos that were predicted. outputs: of each model, float32 (B, C) or (B, C + 1), see
    `Forward.outputs`. brightness: of each photo, 0 … 1, as `mean_brightness` computes it; empty if it was not
    asked for. features: float32 (B, F), the input of the first model's last layer; None if it was not asked
    for.
    """

    uris: tuple[str, ...]
    outputs: tuple[Float32Array, ...]
    unreadable: tuple[Unreadable, ...] = ()
    brightness: tuple[float, ...] = ()
    features: Float32Array | None = None


@dataclass(frozen=True)
class BatchResult:
    """The result of one run.

    num_skipped: photos that an earlier run predicted. files: the parts that this run wrote. unreadable_file:
    lists all photos that this run could not read; examples: the first of them. failures: a sentence for each
    address that has no photos or could not be listed.
    """

    num_answered: int
    num_unreadable: int
    num_skipped: int
    files: tuple[str, ...]
    unreadable_file: str
    examples: tuple[Unreadable, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class ActorPlan:
    """How many processes hold the network, what each reserves, and its number of threads on a CPU."""

    num_actors: int
    num_cpus: float
    num_gpus: int
    threads: int


def plan_actors(nodes: Sequence[dict[str, float]]) -> ActorPlan:
    """Plan the actors so that decoding keeps at least one CPU.

    nodes: the resources of each node, {"CPU": …, "GPU": …}. There is one actor per GPU, or one per node if
    the cluster has no GPU. Such an actor computes on all CPUs of its node, but reserves only one, so that Ray
    counts the others as free for decoding.
    Raises PredictionError: the cluster has fewer than two CPUs.
    """
    num_cpus = sum(node.get("CPU", 0) for node in nodes)
    num_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if num_cpus < 2:
        raise PredictionError(f"the cluster has {num_cpus:g} CPUs; the network and decoding need one each")
    if num_gpus:
        cpus = min(MOST_CPUS, math.floor((num_cpus - 1) / num_gpus * 1000) / 1000)
        return ActorPlan(num_gpus, cpus, 1, threads=1)
    large = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 2]
    return ActorPlan(max(1, len(large)), MOST_CPUS, 0, threads=min(large, default=1))


def predict_table(
    table: pa.Table,
    states: Sequence[ModelState],
    *,
    precision: str = "auto",
    batch_size: int = 32,
    reader: PhotoReader | None = None,
    with_brightness: bool = False,
    with_features: bool = False,
    on_progress: Progress = lambda _done, _total: None,
) -> Iterator[AnsweredBatch]:
    """Predict the photos of a table in its order; Ray must be connected.

    table: uri string, size int64 in bytes, and etag string if it is known; other columns are ignored. states:
    models of one image size, which predict the same decoded photos. A photo is unreadable if one of the
    models has an output for it that is not finite.
    batch_size: photos in one forward pass; the batches that are returned may be larger. reader: as in
    `build_dataset`. with_brightness, with_features: return the brightness and the features of the photos too.
    Raises CheckpointError: the weights do not fit. PredictionError: the cluster is too small, one of its
    processes failed permanently, or the storage does not respond any more.
    """
    if not table.num_rows:
        return
    for state in states:
        state.build()  # raises our error here if the weights do not fit, not one of Ray in another process
    plan = plan_actors(cluster_nodes())
    references = [
        ray.put(dataclasses.replace(state, optimizer_state_dict={}, history=(), settings={}))
        for state in states
    ]
    known = [name for name in ("uri", "size", "etag") if name in table.column_names]
    answers = build_dataset(table.select(known), image_size=states[0].image_size, reader=reader).map_batches(
        NetworkActor,
        fn_constructor_args=(references, precision, plan, with_brightness, with_features),
        batch_size=batch_size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=plan.num_actors),
        num_cpus=plan.num_cpus,
        num_gpus=plan.num_gpus,
        udf_modifying_row_count=False,
    )
    done = 0
    outage = Outage()
    try:
        for columns in answers.iter_batches(batch_size=None, batch_format="numpy"):
            done += len(columns["uri"])
            yield _to_batch(columns, len(states))
            on_progress(done, table.num_rows)
            outage.check(list(columns["uri"]), list(columns["step"]))
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PredictionError(f"Ray failed after {done} photos: {lines[-1]}; --debug shows more") from error


class Outage:
    """Notices that the storage is unreachable, where each photo would take most of a minute of retries."""

    def __init__(self, read: Callable[[str], bytes] = read_bytes) -> None:
        self._read = read
        self._run = 0

    def check(self, uris: Sequence[str], steps: Sequence[str]) -> None:
        """Count the next photos; those whose step is "fetch" could not be fetched.

        Raises PredictionError: the last OUTAGE_RUN photos or more could not be fetched, and the storage still
        does not respond.
        """
        is_fetched = np.flatnonzero(np.asarray(steps) != "fetch")
        self._run = len(steps) - 1 - int(is_fetched[-1]) if len(is_fetched) else self._run + len(steps)
        if self._run < OUTAGE_RUN:
            return
        try:
            self._read(uris[-1])
        except UnreachableError as error:
            raise PredictionError(
                f"stopped: the last {self._run} photos could not be fetched, and the storage still does not "
                f"respond: {error}"
            ) from error
        except StorageError:
            pass  # the storage responds: these photos are gone or denied, the next ones may not be
        self._run = 0


class NetworkActor:
    """Holds the networks in a process of Ray."""

    def __init__(
        self,
        states: "Sequence[ray.ObjectRef[ModelState]]",
        precision: str,
        plan: ActorPlan,
        with_brightness: bool = False,  # by position, as Ray gives it
        with_features: bool = False,
    ) -> None:
        use_gpu = plan.num_gpus > 0
        self._networks = [Network(ray.get(state), precision=precision, use_gpu=use_gpu) for state in states]
        self._with_brightness, self._with_features = with_brightness, with_features
        if self._networks[0].device.type == "cpu":
            torch.set_num_threads(plan.threads)  # Ray sets the number of reserved CPUs: one

    def __call__(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Predict one batch of decoded photos; the outputs of a photo that was not decoded are zeros."""
        good = np.flatnonzero(columns["error"] == "")
        # The index copies the images (B, H, W, 3): the object store's memory is read-only, and torch warns
        # about arrays that are.
        images = columns["image"][good]
        pixels, num_rows = torch.from_numpy(images), len(columns["error"])
        answered: dict[str, Any] = {}
        first, *others = self._networks
        if self._with_features:
            outputs, features = first.outputs_and_features(pixels)
            answered["features"] = _spread(features, good, num_rows)
        else:
            outputs = first.outputs(pixels)
        computed = [outputs, *(network.outputs(pixels) for network in others)]
        spread = [_spread(outputs, good, num_rows) for outputs in computed]
        answered |= {f"outputs_{number}": outputs for number, outputs in enumerate(spread)}
        step, error = columns["step"].astype(object), columns["error"].astype(object)
        is_bad = ~np.isfinite(np.hstack(spread)).all(axis=1)
        step[is_bad], error[is_bad] = "predict", NOT_FINITE
        answered |= {"uri": columns["uri"], "step": step, "error": error}
        if self._with_brightness:
            answered["brightness"] = np.zeros(num_rows)
            answered["brightness"][good] = mean_brightness(images)
        return answered


def _spread(values: torch.Tensor, rows: npt.NDArray[np.int64], num_rows: int) -> Float32Array:
    """Put values (B, N) into these rows of zeros (num_rows, N)."""
    spread = np.zeros((num_rows, values.shape[1]), np.float32)
    spread[rows] = values.numpy()
    return spread


def _to_batch(columns: dict[str, Any], num_models: int) -> AnsweredBatch:
    is_good = columns["error"] == ""
    unreadable = tuple(
        Unreadable(columns["uri"][row], columns["step"][row], columns["error"][row])
        for row in np.flatnonzero(~is_good)
    )
    brightness = columns["brightness"][is_good].tolist() if "brightness" in columns else ()
    features = columns["features"][is_good] if "features" in columns else None
    outputs = tuple(columns[f"outputs_{number}"][is_good] for number in range(num_models))
    return AnsweredBatch(tuple(columns["uri"][is_good]), outputs, unreadable, tuple(brightness), features)


def predict_to_parquet(
    addresses: Sequence[str],
    state: ModelState,
    output: str,
    *,
    precision: str = "auto",
    part_rows: int = PART_ROWS,
    on_progress: Progress = lambda _done, _total: None,
    debug: bool = False,
) -> BatchResult:
    """Predict all photos at the addresses that are not in the parts of output yet.

    addresses: folders, files, s3:// prefixes and objects; if one fails, the others are still predicted.
    output: a folder or s3:// prefix. Unreadable photos are rows of a separate file (`unreadable`), which
    describes the latest run only: the next run tries them again.
    Raises SettingError: a wrong address, or output has answers of another model. PredictionError: a part is
    damaged, Ray failed, or the storage does not respond any more. StorageError: there are no photos, or
    output cannot be written; then it says how many answers are lost.
    """
    if part_rows < 1:
        raise SettingError(f"part_rows={part_rows} (answers a file): expected at least 1")
    output = absolute_uri(output)
    earlier = read_parts(output, state)
    photos, failures = list_photos(addresses)
    if not photos.num_rows:
        raise StorageError("; ".join(failures))
    todo = photos.filter(pc.invert(pc.is_in(photos["uri"], value_set=earlier.uris)))
    parts = PartWriter(output, state, next_number=earlier.next_number, part_rows=part_rows)
    num_answered = 0
    how_to_resume = f"{output} keeps the answers written so far; run the same command again to resume"
    with tempfile.NamedTemporaryFile(mode="w", encoding="utf-8") as file:
        unreadable = UnreadableList(file, output, state)
        unreadable.save()  # replaces the previous run's list; an output that denies writing is noticed now
        if todo.num_rows:
            connect(debug=debug)
        try:
            for batch in predict_table(todo, [state], precision=precision, on_progress=on_progress):
                num_answered += len(batch.uris)
                num_written = len(parts.files)
                unreadable.add(batch.unreadable)
                parts.add(batch.uris, batch.outputs[0])
                if len(parts.files) > num_written:
                    unreadable.save()
            parts.flush()
            unreadable.save()
        except (KeyboardInterrupt, PredictionError, StorageError) as error:
            try:
                parts.flush()  # keep all answers; the storage may respond again
                unreadable.save()
            except StorageError as failure:
                lost = f"the last {parts.num_waiting} answers are lost, " if parts.num_waiting else ""
                raise StorageError(f"{failure}; {lost}{how_to_resume}") from error
            if isinstance(error, PhysiqError):
                raise type(error)(f"{error}; {how_to_resume}") from error
            raise
    return BatchResult(
        num_answered,
        unreadable.num_photos,
        photos.num_rows - todo.num_rows,
        tuple(parts.files),
        unreadable.uri,
        tuple(unreadable.examples),
        failures,
    )


def list_photos(addresses: Sequence[str]) -> tuple[pa.Table, tuple[str, ...]]:
    """List the photos at the addresses: folders, files, s3:// prefixes and objects.

    Returns a table (uri large_string; size int64, in bytes; etag large_string, "" if it is not known) with
    each photo once, and a sentence for each address that has no photos or cannot be listed.
    Raises SettingError: no address, or one of an unknown kind.
    """
    tables = [_listed_columns(LISTING_SCHEMA.empty_table())]
    sources, failures = [], []
    for address in addresses:
        if _is_one_photo(address):
            uri = absolute_uri(address)
            # S3 is not asked: the size only decides how many photos are fetched ahead.
            size = 0 if uri.startswith("s3://") else Path(uri).stat().st_size
            tables.append(pa.table({"uri": [uri], "size": [size], "etag": [""]}))
        else:
            sources.append(parse_source(address))
    for listing in list_sources(sources) if sources else ():
        if listing.table is None:
            failures.append(str(listing.error))
        elif not listing.table.num_rows:
            failures.append(f"{listing.source}: no photos in it")
        else:
            tables.append(_listed_columns(listing.table))
    # One address may contain another.
    table = pa.concat_tables([tables[0], *map(widened, tables[1:])])
    first = first_equal(table["uri"])
    last = np.zeros(len(first), np.int64)  # listings come last, and know size and ETag
    np.maximum.at(last, first, np.arange(len(first)))
    rows = last[first == np.arange(len(first))]
    return pa.table({name: take_rows(table[name], rows) for name in table.column_names}), tuple(failures)


def _listed_columns(table: pa.Table) -> pa.Table:
    return table.select(["uri", "size", "etag"])


def _is_one_photo(address: str) -> bool:
    # Path.is_file raises if a name is too long or a folder is denied; os.path.isfile returns False.
    return is_photo(address) if address.startswith("s3://") else os.path.isfile(address)  # noqa: PTH113
