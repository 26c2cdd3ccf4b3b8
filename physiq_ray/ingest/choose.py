"""Choose where the photos of an epoch come from: prepared in memory or on disk, or streamed."""

import os
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypedDict

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from physiq_ray.cluster import smallest_object_store
from physiq_ray.errors import PhysiqError, SettingError, StorageError, TrainingError
from physiq_ray.ingest.batches import Photos
from physiq_ray.ingest.dataset import needed_columns
from physiq_ray.ingest.kept import KeptPhotos, OnProgress, keep_in_memory, keep_on_disk
from physiq_ray.ingest.reading import PhotoReader, StoredPhotos
from physiq_ray.ingest.streamed import StreamedPhotos
from physiq_ray.ingest.tasks import keys_of
from physiq_ray.prepared import Cache, CacheFolder, SharedCache, open_cache
from physiq_ray.storage import current_access

Kind = Literal["memory", "disk", "none"]

# This is enough for two blocks of a task and some other data. With less, Ray Data makes no progress.
MIN_STORE_BYTES = 128 * 2**20
# The share of a node's object store for prepared photos. The rest is for the blocks of running tasks,
# checkpoints and other users.
STORE_SHARE = 0.5
DEFAULT_LIMIT_GIB = 100.0


@dataclass(frozen=True)
class Disk:
    """The free space in cache_dir.

    where: its name in messages. problem: why it cannot be used, "" if it can.
    """

    where: str
    room_bytes: int = 0
    problem: str = ""


def choose_cache(
    setting: str,
    *,
    needed_bytes: int,
    store_bytes: int,
    look_at_disk: Callable[[], Disk],
    prefer_disk: bool,
) -> tuple[Kind, str]:
    """Decide where prepared photos are kept.

    store_bytes: the object store of the smallest node that trains. Each worker reads the photos in random
    order, so every node may finally hold all of them. look_at_disk: called only if the disk may be used,
    because the disk may be unreachable or read-only. prefer_disk: the user set cache_dir, so that the next
    run can use its photos. Returns the kind and a sentence with the reason.
    Raises SettingError: cache=disk or cache=gpu is not available.
    """
    sizes = f"{needed_bytes / 2**20:.0f} MiB of decoded photos"
    if setting == "none":
        return "none", "cache none: photos are fetched and decoded in each epoch"
    if setting == "memory":
        return "memory", f"cache memory: {sizes}"
    if setting == "disk":
        disk = look_at_disk()
        if disk.problem:
            raise SettingError(f"cache=disk: {disk.problem}; set cache_dir, or cache=memory or cache=none")
        # Without this check, the preparation would delete its own first shards to make room for its last.
        if needed_bytes > disk.room_bytes:
            raise SettingError(
                f"cache=disk: {sizes}, but {disk.where} has room for {disk.room_bytes / 2**20:.0f} MiB; "
                "free some space, raise the limit, or set another cache_dir, cache=memory or cache=none"
            )
        return "disk", f"cache disk: {sizes}"
    reasons = []
    for kind in ("disk", "memory") if prefer_disk else ("memory", "disk"):
        if kind == "memory":
            room = f"{store_bytes * STORE_SHARE / 2**20:.0f} MiB"
            if fits_store(needed_bytes, store_bytes):
                return (
                    "memory",
                    f"cache {setting}: memory: {sizes} fit Ray's object store ({room}): decoded once",
                )
            reasons.append(f"more than {room} of Ray's object store")
            continue
        disk = look_at_disk()
        room = f"{disk.room_bytes / 2**30:.1f} GiB"
        if not disk.problem and needed_bytes <= disk.room_bytes:
            return "disk", f"cache {setting}: disk: {sizes} fit cache_dir ({room}): kept for later runs"
        reasons.append(disk.problem or f"more than {room} in cache_dir")
    why = f"{sizes} are {' and '.join(reasons)}"
    if setting == "gpu":
        raise SettingError(f"cache=gpu: photos are prepared in memory or on disk first; {why}")
    return "none", f"cache {setting}: none: {why}: decoded in each epoch"


def fits_store(needed_bytes: int, store_bytes: int) -> bool:
    """Tell whether needed_bytes of prepared photos may be kept in an object store of store_bytes."""
    return needed_bytes <= store_bytes * STORE_SHARE


def open_photos(
    table: pa.Table,
    *,
    image_size: int,
    kind: Kind = "memory",
    cache: Cache | None = None,
    decode_resource: str | None = None,
    reader: PhotoReader | None = None,
    on_progress: OnProgress = lambda _: None,
) -> KeptPhotos | StreamedPhotos:
    """Open the photos of one split; unless kind is none, fetch and decode the photos that are not prepared.

    table: manifest rows. cache: for kind disk; the default folder if it is None. reader: as in
    `build_dataset`. on_progress: called with the number of photos done since the last call.
    Raises TrainingError: a node's object store is too small to decode into; StorageError: the cache cannot be
    read or written.
    """
    if (smallest := smallest_object_store()) < MIN_STORE_BYTES:
        raise TrainingError(
            f"a node's object store has {smallest / 2**20:.0f} MiB, but decoding needs at least "
            f"{MIN_STORE_BYTES // 2**20} MiB; start Ray with --object-store-memory 500000000 or more, "
            "or give /dev/shm more space"
        )
    reader = reader or StoredPhotos(current_access())
    if kind == "none":
        return StreamedPhotos(needed_columns(table), image_size, reader, decode_resource=decode_resource)
    options = _Options(
        image_size=image_size, reader=reader, decode_resource=decode_resource, on_progress=on_progress
    )
    if kind == "memory":
        return keep_in_memory(table, **options)
    return keep_on_disk(table, cache or open_cache(None, DEFAULT_LIMIT_GIB), **options)


class _Options(TypedDict):
    image_size: int
    reader: PhotoReader
    decode_resource: str | None
    on_progress: OnProgress


@dataclass(frozen=True)
class CacheSettings:
    """How prepared photos are kept; the fields are the settings of the same names."""

    cache: str
    cache_dir: str | None
    cache_limit_gib: float


def choose_place(
    tables: Collection[pa.Table], wanted: CacheSettings, *, image_size: int, store_bytes: int
) -> tuple[Cache, Kind, str]:
    """Choose where the photos of all tables together are kept; see `choose_cache`.

    Returns the cache on disk, whether it is used or another kind, and a sentence with the reason.
    Raises SettingError: cache=disk or cache=gpu is not available.
    """
    cache = open_cache(wanted.cache_dir, wanted.cache_limit_gib)
    kind, why = choose_cache(
        wanted.cache,
        needed_bytes=sum(table.num_rows for table in tables) * image_size**2 * 3,
        store_bytes=store_bytes,
        look_at_disk=partial(_look_at_disk, cache, tables, image_size),
        prefer_disk=wanted.cache_dir is not None,
    )
    return cache, kind, why


def open_splits(
    splits: Mapping[str, pa.Table],
    wanted: CacheSettings,
    *,
    image_size: int,
    store_bytes: int,
    decode_resource: str | None = None,
    reader: PhotoReader | None = None,
    on_progress: OnProgress = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Photos]:
    """Choose where the photos of all splits are kept, and open each split with `open_photos`.

    store_bytes: the object store of the smallest node that trains. note: receives a sentence that says where
    the photos are kept, and why.
    Raises SettingError: cache=disk or cache=gpu is not available; and all errors of `open_photos`.
    """
    cache, kind, why = choose_place(splits.values(), wanted, image_size=image_size, store_bytes=store_bytes)
    note(why)

    def open_all(kind: Kind) -> dict[str, Photos]:
        return {
            name: open_photos(
                table,
                image_size=image_size,
                kind=kind,
                cache=cache,
                decode_resource=decode_resource,
                reader=reader,
                on_progress=on_progress,
            )
            for name, table in splits.items()
        }

    try:
        return open_all(kind)
    except StorageError as error:
        if kind != "disk" or wanted.cache != "auto":
            raise
        note(f"{error}; photos are decoded in each epoch instead")
        return open_all("none")


def in_use(photos: Mapping[str, Photos]) -> AbstractContextManager[object]:
    """Protect the shards of these photos: inside the block, no other run deletes them."""
    stack = ExitStack()
    for part in photos.values():
        if isinstance(part, KeptPhotos):
            stack.enter_context(part.blocks.in_use())
    return stack


def _look_at_disk(cache: Cache, tables: Collection[pa.Table], image_size: int) -> Disk:
    """Measure the space on disk for these photos."""
    folder = cache if isinstance(cache, CacheFolder) else cache.copies
    where = f"{folder.root} (cache_limit_gib={folder.limit_bytes / 2**30:.4g})"
    if problem := _why_no_disk(cache, image_size):
        return Disk(where, problem=problem)
    keys = [key for table in tables for key in keys_of(table)]
    return Disk(where, folder.room_bytes(keys, image_size))


def _why_no_disk(cache: Cache, image_size: int) -> str:
    """Say why prepared photos cannot be kept on disk; "" if they can."""
    try:
        if isinstance(cache, SharedCache):
            cache.find([], image_size)
            return ""
        folder = cache.make(image_size)
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if len(nodes) == 1:
            return ""
        probe = folder / f"probe-{secrets.token_hex(8)}"
        probe.touch()
        try:
            look = ray.remote(num_cpus=0)(os.path.exists)
            seen = ray.get(
                [
                    look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                        str(probe)
                    )
                    for node in nodes
                ]
            )
        finally:
            probe.unlink()
    except (PhysiqError, OSError) as error:
        return str(error)
    if all(seen):
        return ""
    return (
        f"cache_dir={cache.root} is not the same folder on all {len(nodes)} nodes; give a shared folder or "
        "an s3:// prefix"
    )
