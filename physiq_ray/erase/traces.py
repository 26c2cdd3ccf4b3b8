"""Where traces of the photos are: files are read, and nothing is changed.

| place           | files                                                  | a trace is                |
|-----------------|--------------------------------------------------------|---------------------------|
| prepared photos | shards of cache_dir                                    | a shard with a photo      |
| answers         | `*.parquet`, `*.jsonl` below each `--answers`          | a row or line of a photo  |
| feedback        | `*.json` with photo_md5, their `.jpg`, their labels    | a file with a photo's MD5 |
| runs            | `manifest.parquet` of the runs below `storage`         | a row of a photo          |
| quarantine      | `quarantine.jsonl` in the outputs of these runs        | a line of a photo         |
| journals        | `deleted-*.jsonl` of `cleanse`, `review-*.jsonl`       | a line of a photo         |

Rows and lines are taken out of their files. In a versioned bucket, older versions with a trace are traces
themselves, because they cannot be changed. A shard is removed as a whole: it is only a cache.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from physiq_ray.cleanse import journal as cleanse_journal
from physiq_ray.erase.choose import Photos, find_keys
from physiq_ray.erase.drop import Rest, drop_lines, drop_rows, read_json, read_rows
from physiq_ray.errors import NotFoundError, StorageError, shown
from physiq_ray.manifest import MANIFEST_FILE, TRAIN
from physiq_ray.prepared import Cache, CacheFolder
from physiq_ray.prepared.shards import SUFFIX
from physiq_ray.prepared.shared import KEYS_SUFFIX, split_keys
from physiq_ray.quarantine import QUARANTINE_FILE
from physiq_ray.review import journal as review_journal
from physiq_ray.storage import absolute_uri, join_uri, read_bytes
from physiq_ray.storage.etag import is_md5
from physiq_ray.storage.history import Stored, list_stored, read_stored

READ_THREADS = 8
PREPARED, ANSWERS, FEEDBACK, RUNS, QUARANTINE, JOURNALS = (
    *("prepared photos", "answers", "feedback", "runs", "quarantine", "journals"),
)
# The names of a run's record and model, as in `training.folder` and `checkpoint`, which import torch.
RECORD_FILE: Final = "run.json"
MODEL_FILE: Final = "pose_classifier_complete.pth"

Drop = Callable[[bytes, Photos], Rest]


@dataclass(frozen=True)
class Trace:
    """A file that holds traces, and their number.

    drop: takes them out of it; None: the file is deleted. is_index: only this file tells whose the other
    files of its place are, so it stays until they are gone.
    """

    place: str
    stored: Stored
    count: int
    drop: Drop | None = None
    is_index: bool = False


@dataclass(frozen=True)
class Trained:
    """A run that used the photos: how many to train on, and in all.

    model: the address of its model file; None if the record of the run is damaged.
    """

    run: str
    folder: str
    num_trained: int
    num_used: int
    model: str | None


@dataclass(frozen=True)
class Places:
    """Where to search.

    answers: outputs of `predict`, or other Parquet files with a column uri. journals: a folder.
    """

    cache: Cache
    storage: str
    journals: str
    answers: tuple[str, ...] = ()
    feedback: str | None = None


@dataclass
class Found:
    """The traces in the order of their removal, the runs, and a sentence for what could not be searched."""

    traces: list[Trace] = field(default_factory=list)
    trained: list[Trained] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def list_files(self, address: str, *, may_be_missing: bool = False) -> Sequence[Stored]:
        """List the files at an address; an error becomes a sentence."""
        try:
            return list_stored(absolute_uri(address))
        except StorageError as error:
            if not (may_be_missing and isinstance(error, NotFoundError)):
                self.failures.append(str(error))
            return ()

    def scan(self, place: str, files: Sequence[Stored], drop: Drop, photos: Photos) -> None:
        """Read files, READ_THREADS at a time, and note those with traces."""

        def try_to_drop(file: Stored) -> Rest | StorageError:
            try:
                return drop(read_stored(file), photos)
            except StorageError as error:
                return error

        with ThreadPoolExecutor(READ_THREADS) as threads:
            for file, rest in zip(files, threads.map(try_to_drop, files), strict=True):
                if isinstance(rest, StorageError):
                    self.failures.append(f"{place}: {file}: {rest}; it may hold traces")
                elif rest.num_removed:
                    self.traces.append(Trace(place, file, rest.num_removed, drop if file.is_latest else None))


def find_traces(photos: Photos, places: Places) -> Found:
    """Search all places; one that cannot be searched becomes a sentence, and the others are searched."""
    found, runs = Found(), Found()
    prepared = _search_runs(photos, places.storage, runs)
    _search_prepared(photos.keys.union(find_keys(prepared)), places.cache, found)
    for address in places.answers:
        files = found.list_files(address)
        found.scan(ANSWERS, _ending(files, ".parquet"), drop_rows, photos)
        found.scan(ANSWERS, _ending(files, ".jsonl"), drop_lines, photos)
    if places.feedback is not None:
        _search_feedback(photos, found.list_files(places.feedback), found)
    # The manifests after the caches: only they name prepared photos of replaced content.
    found.traces += runs.traces
    found.trained, found.failures = runs.trained, found.failures + runs.failures
    _search_journals(photos, Path(places.journals), found)
    found.traces = list({trace.stored: trace for trace in found.traces}.values())  # places may overlap
    return found


def _search_runs(photos: Photos, storage: str, runs: Found) -> set[tuple[str, int, str]]:
    """Find the runs that used the photos; give the address, size and ETag of each of their rows."""
    known: set[tuple[str, int, str]] = set()
    base = absolute_uri(storage).rstrip("/") + "/"
    files = _ending(runs.list_files(storage, may_be_missing=True), f"/{MANIFEST_FILE}")
    runs.scan(RUNS, files, drop_rows, photos)
    outputs: dict[str, str | None] = {}  # by the folder of the run
    for trace in list(runs.traces):
        folder = trace.stored.uri.removesuffix(f"/{MANIFEST_FILE}")
        table, is_held = read_rows(read_stored(trace.stored), photos)
        rows = table.filter(is_held).to_pylist()
        known |= {(row["uri"], row["size"], row["etag"]) for row in rows}
        if folder in outputs:  # an older version of the manifest
            continue
        outputs[folder] = output = _read_output(folder, runs)
        num_trained = sum(row["split"] == TRAIN for row in rows)
        model = join_uri(output, MODEL_FILE) if output is not None else None
        runs.trained.append(Trained(folder.removeprefix(base), folder, num_trained, len(rows), model))
    for output in dict.fromkeys(filter(None, outputs.values())):
        quarantine = runs.list_files(join_uri(output, QUARANTINE_FILE), may_be_missing=True)
        runs.scan(QUARANTINE, quarantine, drop_lines, photos)
    return known


def _read_output(folder: str, runs: Found) -> str | None:
    """Read where a run wrote its model."""
    try:
        return str(read_json(read_bytes(join_uri(folder, RECORD_FILE)))["settings"]["output"])
    except (StorageError, KeyError, TypeError) as error:
        runs.failures.append(f"{shown(folder)}: {RECORD_FILE} is damaged or missing: {error}")
        return None


def _search_prepared(keys: frozenset[bytes], cache: Cache, found: Found) -> None:
    folder = cache if isinstance(cache, CacheFolder) else cache.copies
    for path, count in folder.holding(keys).items():
        found.traces.append(Trace(PREPARED, Stored(str(path), 0, ""), count))
    if isinstance(cache, CacheFolder):
        return
    files, lists = found.list_files(cache.prefix), Found()

    def count_keys(data: bytes, _photos: Photos) -> Rest:
        return Rest(None, len(keys.intersection(split_keys(data))))

    lists.scan(PREPARED, _ending(files, KEYS_SUFFIX), count_keys, Photos())
    found.failures += lists.failures
    counts = {trace.stored.uri.removesuffix(KEYS_SUFFIX): trace.count for trace in lists.traces}
    for suffix in (SUFFIX, KEYS_SUFFIX):
        for file in _ending(files, suffix):
            if num := counts.get(file.uri.removesuffix(suffix)):
                found.traces.append(Trace(PREPARED, file, num, is_index=suffix == KEYS_SUFFIX))


def _search_feedback(photos: Photos, files: Sequence[Stored], found: Found) -> None:
    """Find the uploads whose MD5 is the ETag of a photo, their answers, and the labels that people sent."""
    md5s = {etag for _, etag in photos.contents if is_md5(etag)}
    request_ids = set[str]()
    texts = _ending(files, ".json")

    def find(holds: Callable[[dict[str, Any]], bool]) -> list[Stored]:
        part = Found()
        part.scan(FEEDBACK, texts, lambda data, _: Rest(None, int(holds(read_json(data)))), photos)
        found.failures += part.failures
        return [trace.stored for trace in part.traces]

    def is_answer(record: dict[str, Any]) -> bool:
        is_held = str(record.get("photo_md5")) in md5s or photos.holds(record.get("uri"))
        if is_held and "request_id" in record:
            request_ids.add(str(record["request_id"]))
        return is_held

    answers = find(is_answer)
    labels = find(lambda record: str(record.get("requestId")) in request_ids) if request_ids else []
    stems = {file.uri.removesuffix(".json") for file in answers}
    for file in files:  # named <MD5>.jpg, <MD5>.json, <MD5>-<pose>.json
        name = re.split(r"[-.]", file.uri.rpartition("/")[2])[0]
        if name in md5s or file.uri.rpartition(".")[0] in stems:
            (answers if file in texts else labels).append(file)
    found.traces += [Trace(FEEDBACK, file, 1) for file in labels]
    found.traces += [Trace(FEEDBACK, file, 1, is_index=True) for file in answers]


def _search_journals(photos: Photos, folder: Path, found: Found) -> None:
    """Find the lines of `cleanse`, and those of reviews that have ended."""
    journals = [*cleanse_journal.find_journals(folder), *review_journal.find_journals(folder)]
    part = Found()
    part.scan(JOURNALS, [Stored(str(path), 0, "") for path in journals], drop_lines, photos)
    found.failures += part.failures
    for trace in part.traces:
        if review_journal.is_in_use(Path(trace.stored.uri)):
            found.failures.append(f"{JOURNALS}: {trace.stored}: a review writes it; stop it, then run again")
        else:
            found.traces.append(trace)


def _ending(files: Iterable[Stored], suffix: str) -> list[Stored]:
    return [file for file in files if file.uri.endswith(suffix)]
