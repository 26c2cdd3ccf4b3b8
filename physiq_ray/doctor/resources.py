"""Cores, memory, shared memory and disks of this machine, as this process may use them."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from physiq_ray.doctor.finding import Finding, State, from_error
from physiq_ray.errors import PhysiqError
from physiq_ray.machine import (
    available_memory,
    check_writable,
    ray_parent_folder,
    usable_cpus,
    usable_memory,
)

CHECK = "machine"
RAY_FOLDER = "Ray's folder"
GIB: Final = 2**30
SHARED_MEMORY = Path("/dev/shm")
LEAST_MEMORY: Final = 2 * GIB  # a replica takes 1.3 GiB, and Ray's own processes the rest
# Three checkpoints of 0.3 GB, one of which is being written; the model files and reports.
LEAST_FREE: Final = {"storage": GIB, "output": GIB // 2, "cache_dir": 0}
LEAST_TEMPORARY: Final = GIB
FULL_SHARE: Final = 0.95  # of a disk, from which Ray refuses to write (RAY_local_fs_capacity_threshold)

# Ray's own rule (ray/_private/utils.py, resolve_object_store_memory; services.py, start_raylet).
_STORE_SHARE, _STORE_MOST, _STORE_WITHOUT_ROOM = 0.3, 200 * 10**9, 10**10


def check_resources() -> Iterator[Finding]:
    """Look at cores, memory and shared memory."""
    yield Finding(CHECK, "cores", State.OK, f"{usable_cpus()} of {os.cpu_count()}")
    memory = usable_memory()
    available = min(memory, available_memory() or memory)
    text = f"{_gib(available)} available of {_gib(memory)}"
    if available < LEAST_MEMORY:
        yield Finding(
            *(CHECK, "memory", State.WARNING, text),
            f"end other programs, or grant more: a run needs {_gib(LEAST_MEMORY)} or more",
        )
    else:
        yield Finding(CHECK, "memory", State.OK, text)
    if SHARED_MEMORY.exists():  # not on macOS
        yield judge_shared_memory(shutil.disk_usage(SHARED_MEMORY).free, available)


def judge_shared_memory(free_bytes: int, available_bytes: int) -> Finding:
    """Compare the free bytes of /dev/shm with the object store that Ray will make of the available memory."""
    store = min(
        available_bytes * _STORE_SHARE, _STORE_MOST, max(_STORE_WITHOUT_ROOM, free_bytes * FULL_SHARE)
    )
    text = f"{_gib(free_bytes)} free; Ray's object store takes {_gib(store)}"
    if store <= free_bytes:
        return Finding(CHECK, str(SHARED_MEMORY), State.OK, text)
    return Finding(
        *(CHECK, str(SHARED_MEMORY), State.WARNING, f"{text}, so Ray will keep it on a slow disk"),
        f"give the container more: --shm-size={math.ceil(store * 1.1 / GIB)}g, or an emptyDir in memory",
    )


def check_disk(name: str, address: str, at_worst: State) -> Iterator[Finding]:
    """Check that a folder for results can be written and has room; name: the setting that names it."""
    try:
        check_writable(name, address)
    except PhysiqError as error:
        yield from_error("disk", name, error, state=at_worst)
        return
    free = shutil.disk_usage(_existing(Path(address))).free
    text = f"{address}: writable, {_gib(free)} free"
    if free < LEAST_FREE[name]:
        remedy = f"free {_gib(LEAST_FREE[name])}, or give another --{name}"
        yield Finding("disk", name, at_worst, text, remedy)
    else:
        yield Finding("disk", name, State.OK, text)


def check_ray_folder(at_worst: State) -> Iterator[Finding]:
    """Check that Ray's temporary folder can be written and has room."""
    variable, folder = ray_parent_folder()
    try:
        check_writable(variable, folder, "set RAY_TMPDIR to a short, writable folder")
    except PhysiqError as error:
        yield from_error("disk", RAY_FOLDER, error, state=at_worst)
        return
    usage = shutil.disk_usage(_existing(Path(folder)))
    text = f"{folder}: writable, {_gib(usage.free)} free"
    is_full = usage.total - usage.free > FULL_SHARE * usage.total
    if usage.free < LEAST_TEMPORARY or is_full:
        problem = f"{text}, {1 - usage.free / usage.total:.0%} full"
        yield Finding(
            *("disk", RAY_FOLDER, State.WARNING, problem),
            "free space there, or set RAY_TMPDIR to a larger disk; Ray stops writing at 95 %",
        )
    else:
        yield Finding("disk", RAY_FOLDER, State.OK, text)


def _existing(path: Path) -> Path:
    """Give the path, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return path if path.exists() or path == path.parent else _existing(path.parent)


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
