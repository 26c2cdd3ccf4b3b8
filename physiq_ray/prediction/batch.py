"""Photos' addresses → answers in Parquet files, by Ray Data, for as many photos as a bucket holds.

Decoding runs in tasks, the network in actors that load it once; only uris and logits come back, so the
driver keeps the list of photos and one part's answers in memory, whatever their number. Photos that are in
the output's parts already are not predicted again: the same command goes on where one was killed, at the
price of the answers since its last part. Two runs at once must not share an output. For a handful of photos
`single` is faster: Ray and its processes take some ten seconds to start.
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
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch
from ray.exceptions import RayError

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import cluster_nodes, connect
from physiq_ray.errors import PhysiqError, PredictionError, SettingError, StorageError, UnreachableError
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
OUTAGE_RUN = 64  # photos in a row that cannot be fetched, before it is asked whether any can
# Of what an actor reserves. Asking for a whole one, as decoding does, it would be fused with decoding: Ray
# Data then runs both in the actors, one photo after another, and leaves the other CPUs idle.
MOST_CPUS = 0.999

Progress = Callable[[int, int], None]  # photos done, photos in all


@dataclass(frozen=True)
class AnsweredBatch:
    """Answers of some photos in the order of their table, those that cannot be read set aside.

    uris: of the B photos answered; logits: float32 (B, C), not divided by the model's temperature.
    """

    uris: tuple[str, ...]
    logits: Float32Array
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True)
class BatchResult:
    """What one run brought.

    num_skipped: photos answered by an earlier run. files: the parts written. unreadable_file: lists all
    photos that this run could not read; examples: the first of them. failures: a sentence on each address
    without photos or that could not be listed.
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
    """How many processes hold the network, what each asks for, and its computing threads on a CPU."""

    num_actors: int
    num_cpus: float
    num_gpus: int
    threads: int


def plan_actors(nodes: Sequence[dict[str, float]]) -> ActorPlan:
    """Fit the network into the cluster so that decoding keeps at least one CPU.

    nodes: each node's resources, {"CPU": …, "GPU": …}. One actor a GPU; without any, one a node, which
    computes on all of the node's CPUs though it reserves one: decoding needs the others to be free in
    Ray's eyes.
    Raises PredictionError: fewer than two CPUs.
    """
    num_cpus = sum(node.get("CPU", 0) for node in nodes)
    num_gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if num_cpus < 2:
        raise PredictionError(f"the cluster has {num_cpus:g} CPUs; network and decoding need one each")
    if num_gpus:
        cpus = min(MOST_CPUS, math.floor((num_cpus - 1) / num_gpus * 1000) / 1000)
        return ActorPlan(num_gpus, cpus, 1, threads=1)
    large = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 2]
    return ActorPlan(max(1, len(large)), MOST_CPUS, 0, threads=min(large, default=1))


def predict_table(
    table: pa.Table,
    state: ModelState,
    *,
    precision: str = "auto",
    batch_size: int = 32,
    reader: PhotoReader | None = None,
    on_progress: Progress = lambda _done, _total: None,
) -> Iterator[AnsweredBatch]:
    """Answer for the photos of a table in its order; Ray must be connected.

    table: uri string, size int64 in bytes, and where it has one etag string; other columns are passed over.
    batch_size: photos in one forward
    pass; the batches given back may hold more. reader: as `build_dataset`'s.
    Raises CheckpointError: the weights do not fit; PredictionError: the cluster is too small, a process of
    it failed for good, or the photos cannot be reached any more.
    """
    if not table.num_rows:
        return
    state.build()  # weights that do not fit are refused here, by our name, not in a process far away
    plan = plan_actors(cluster_nodes())
    needed = dataclasses.replace(state, optimizer_state_dict={}, history=(), settings={})
    known = [name for name in ("uri", "size", "etag") if name in table.column_names]
    answers = build_dataset(table.select(known), image_size=state.image_size, reader=reader).map_batches(
        _NetworkActor,
        fn_constructor_args=(ray.put(needed), precision, plan),
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
            yield _to_batch(columns)
            on_progress(done, table.num_rows)
            outage.check(list(columns["uri"]), list(columns["step"]))
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PredictionError(f"Ray: after {done} photos: {lines[-1]}; --debug shows more") from error


class Outage:
    """Tells a store that is gone from photos that are: each photo costs most of a minute of tries there."""

    def __init__(self, read: Callable[[str], bytes] = read_bytes) -> None:
        self._read = read
        self._run = 0

    def check(self, uris: Sequence[str], steps: Sequence[str]) -> None:
        """Look at the next photos, of which those whose step is "fetch" could not be fetched.

        Raises PredictionError: OUTAGE_RUN in a row could not, up to the last, and it still does not answer.
        """
        is_fetched = np.flatnonzero(np.asarray(steps) != "fetch")
        self._run = len(steps) - 1 - int(is_fetched[-1]) if len(is_fetched) else self._run + len(steps)
        if self._run < OUTAGE_RUN:
            return
        try:
            self._read(uris[-1])
        except UnreachableError as error:
            raise PredictionError(
                f"stopped: the last {self._run} photos could not be fetched, and still: {error}"
            ) from error
        except StorageError:
            pass  # the store answers: these photos are gone or refused, the next may not be
        self._run = 0


class _NetworkActor:
    """Holds the network in one of Ray's processes."""

    def __init__(self, state: "ray.ObjectRef[ModelState]", precision: str, plan: ActorPlan) -> None:
        self._network = Network(ray.get(state), precision=precision, use_gpu=plan.num_gpus > 0)
        if self._network.device.type == "cpu":
            torch.set_num_threads(plan.threads)  # Ray sets as many as CPUs were reserved: one

    def __call__(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Answer for one batch of decoded photos; a photo that could not be read gets zeros."""
        good = np.flatnonzero(columns["error"] == "")
        # Chosen by index, the images are copied: blocks of the object store must not be written to, and
        # torch warns of arrays that cannot be. (B, H, W, 3)
        answers = self._network.logits(torch.from_numpy(columns["image"][good])).numpy()
        logits = np.zeros((len(columns["error"]), answers.shape[1]), np.float32)
        logits[good] = answers
        step, error = columns["step"].astype(object), columns["error"].astype(object)
        is_bad = ~np.isfinite(logits).all(axis=1)
        step[is_bad], error[is_bad], logits[is_bad] = "predict", NOT_FINITE, 0
        return {"logits": logits, "uri": columns["uri"], "step": step, "error": error}


def _to_batch(columns: dict[str, Any]) -> AnsweredBatch:
    is_good = columns["error"] == ""
    unreadable = tuple(
        Unreadable(columns["uri"][row], columns["step"][row], columns["error"][row])
        for row in np.flatnonzero(~is_good)
    )
    return AnsweredBatch(tuple(columns["uri"][is_good]), columns["logits"][is_good], unreadable)


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
    """Answer for all photos at the addresses that the parts in output do not answer yet.

    addresses: folders, files, s3:// prefixes and objects; one that fails does not stop the others. output:
    a folder or s3:// prefix. Photos that cannot be read are rows of a file of their own (`unreadable`), which
    describes the latest run only, and not of the parts: the next run tries them again.
    Raises SettingError: a wrong address, or answers of another model in output; PredictionError: a damaged
    part, or Ray failed, or the photos cannot be reached any more; StorageError: no photos at all, or output
    cannot be written, and how many answers that costs.
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
    go_on = f"{output} keeps the answers before; run the same command again to go on"
    with tempfile.NamedTemporaryFile(mode="w", encoding="utf-8") as file:
        unreadable = UnreadableList(file, output, state)
        unreadable.save()  # the former run's list ends here; and an output that refuses is told of now
        if todo.num_rows:
            connect(debug=debug)
        try:
            for batch in predict_table(todo, state, precision=precision, on_progress=on_progress):
                num_answered += len(batch.uris)
                num_written = len(parts.files)
                unreadable.add(batch.unreadable)
                parts.add(batch.uris, batch.logits)
                if len(parts.files) > num_written:
                    unreadable.save()
            parts.flush()
            unreadable.save()
        except (KeyboardInterrupt, PredictionError, StorageError) as error:
            try:
                parts.flush()  # what is answered need not be answered again; and a store may be back
                unreadable.save()
            except StorageError as failure:
                lost = f"the last {parts.num_waiting} answers are lost, " if parts.num_waiting else ""
                raise StorageError(f"{failure}; {lost}{go_on}") from error
            if isinstance(error, PhysiqError):
                raise type(error)(f"{error}; {go_on}") from error
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

    Returns a table (uri string, size int64 in bytes, etag string, "" where it is not known) with each photo
    once, and a sentence on each address
    that has no photos or cannot be listed.
    Raises SettingError: no address at all, or of an unknown kind.
    """
    tables = [_listed_columns(LISTING_SCHEMA.empty_table())]
    sources, failures = [], []
    for address in addresses:
        if _is_one_photo(address):
            uri = absolute_uri(address)
            # In S3 not asked for: it only says how many photos may be fetched ahead, and reading tells.
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
    # One address may lie within another.
    listed = pa.TableGroupBy(pa.concat_tables(tables), "uri", use_threads=False)
    once = listed.aggregate([("size", "max"), ("etag", "max")])
    return _listed_columns(once.rename_columns(["uri", "size", "etag"])), tuple(failures)


def _listed_columns(table: pa.Table) -> pa.Table:
    return table.select(["uri", "size", "etag"])


def _is_one_photo(address: str) -> bool:
    # Path.is_file would raise for a name too long or a folder closed to us; os.path tells of those by False.
    return is_photo(address) if address.startswith("s3://") else os.path.isfile(address)  # noqa: PTH113
