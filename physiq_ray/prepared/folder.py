"""A folder of shards on one machine, shared by all runs of one user.

    <root>/<side>px-<decoder>/<name>.arrow      the shards
    <root>/uses/<random>.lock, .json            one pair per running training: the shards it uses

A run that needs space deletes the least recently used shards, but never those that a running training uses.
A training that was killed leaves its pair of files; their lock is free, so the next run removes them.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from physiq_ray.errors import StorageError
from physiq_ray.images import UInt8Array, decoder_version
from physiq_ray.prepared.shards import (
    SUFFIX,
    TEMPORARY_SUFFIX,
    is_intact,
    open_keys,
    shard_path,
    write_shard,
)

USES = "uses"
CHECK_THREADS = 4  # hashlib releases the interpreter's lock, and several threads read a disk faster
# This space stays free on the disk, for logs, checkpoints and other users.
SPARE_BYTES = 2**28
# A partial file of this age has no writer any more, because a shard is written within seconds.
PARTIAL_AGE_S = 3600.0


def default_folder() -> Path:
    """Give the folder of prepared photos if no setting names one, below $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "physiq-ray"


@dataclass(frozen=True)
class Found:
    """The photos found in shards. places: key → the index of the shard in names, and the row in the shard."""

    names: tuple[str, ...]
    places: dict[bytes, tuple[int, int]]


@dataclass(frozen=True)
class CacheUse:
    """The shards of one image size. made_s, used_s: seconds since 1970."""

    name: str
    num_shards: int
    num_bytes: int
    made_s: float
    used_s: float


@dataclass(frozen=True)
class CacheFolder:
    """The shards under a root folder; limit_bytes is the limit for the shards of all image sizes together."""

    root: Path
    limit_bytes: int

    def folder(self, image_size: int) -> Path:
        """Give the folder for the shards of this decoder version; image_size: the side in pixels."""
        return self.root / f"{image_size}px-{decoder_version()}"

    def make(self, image_size: int) -> Path:
        """Create the folder, for its owner only, and remove the partial files of killed processes.

        Raises StorageError: it cannot be created.
        """
        folder = self.folder(image_size)
        try:
            for path in (self.root, folder):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for partial in folder.glob(f"*{TEMPORARY_SUFFIX}"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - partial.stat().st_mtime > PARTIAL_AGE_S:
                        partial.unlink()
        except OSError as error:
            raise StorageError(f"cache_dir={self.root}: {error.strerror}; {_REMEDY}") from error
        return folder

    def find(self, keys: Iterable[bytes], image_size: int) -> Found:
        """Find photos; a damaged shard is deleted, so that its photos are prepared again."""
        wanted, folder = set(keys), self.folder(image_size)
        names: list[str] = []
        places: dict[bytes, tuple[int, int]] = {}
        with ThreadPoolExecutor(CHECK_THREADS) as threads:
            # The shards are sorted by name, so that two processes make the same choice from the same shards.
            paths = sorted(folder.glob(f"*{SUFFIX}"))
            for path, found in zip(paths, threads.map(lambda path: _look(path, wanted), paths), strict=True):
                new = [(key, row) for key, row in found if key not in places]
                if new:
                    places.update((key, (len(names), row)) for key, row in new)
                    names.append(path.stem)
        for name in names:
            with contextlib.suppress(OSError):
                os.utime(shard_path(folder, name))  # the time of its latest use
        return Found(tuple(names), places)

    def add(self, keys: Sequence[bytes], images: UInt8Array, image_size: int) -> str:
        """Free space for a shard, write it, and give its name.

        Raises StorageError: not enough space, or no permission to write.
        """
        folder = self.make(image_size)
        self.make_room(images.nbytes)
        try:
            return write_shard(folder, keys, images)
        except OSError as error:
            raise full(self.root, error) from error

    def fetch(self, names: Sequence[str], image_size: int) -> Path:
        """Give the folder that contains these shards.

        Raises StorageError: one is missing.
        """
        folder = self.folder(image_size)
        for name in names:
            if not shard_path(folder, name).exists():
                raise StorageError(
                    f"prepared photos {shard_path(folder, name)} are missing; run the same command again"
                )
        return folder

    def room_bytes(self, keys: Iterable[bytes], image_size: int) -> int:
        """Give the bytes of photos that fit if all shards are deleted that no running training uses.

        keys, image_size: the photos to store; those in a shard that another training uses need no more space.
        """
        with contextlib.suppress(OSError):
            shards, used = self._shards(), self._used_names()
            evictable = sum(size for _, size, path in shards if path.stem not in used)
            kept = sum(size for _, size, _ in shards) - evictable
            free = shutil.disk_usage(_existing(self.root)).free
            room = max(0, min(self.limit_bytes - kept, free + evictable - SPARE_BYTES))
            wanted, folder = set(keys), self.folder(image_size)
            there: set[bytes] = set()
            for name in used:
                with contextlib.suppress(StorageError, OSError):  # a shard of another image size
                    there |= wanted.intersection(open_keys(folder, name))
            return room + len(there) * image_size**2 * 3
        return 0

    def make_room(self, num_bytes: int) -> None:
        """Delete the least recently used shards until num_bytes can be added.

        Raises StorageError: the shards of running trainings leave less space.
        """
        shards = sorted(self._shards())
        total = sum(size for _, size, _ in shards)
        excess = max(
            total + num_bytes - self.limit_bytes,
            num_bytes + SPARE_BYTES - shutil.disk_usage(_existing(self.root)).free,
        )
        if excess <= 0:
            return
        used = self._used_names()
        for _, size, path in shards:
            if path.stem in used:
                continue
            with contextlib.suppress(FileNotFoundError):  # another run freed space at the same time
                path.unlink()
            excess -= size
            if excess <= 0:
                return
        raise StorageError(
            f"cache_dir={self.root}: no space for {num_bytes / 2**20:.0f} MiB of prepared photos within "
            f"cache_limit_gib={self.limit_bytes / 2**30:g} and the disk's free space; {_REMEDY}"
        )

    @contextlib.contextmanager
    def using(self, names: Sequence[str]) -> Iterator[None]:
        """Protect these shards from deletion inside the block.

        Raises StorageError: the folder cannot be written.
        """
        folder, use = self.root / USES, secrets.token_hex(8)
        note, lock = folder / f"{use}.json", FileLock(folder / f"{use}.lock", mode=0o600)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock.acquire(timeout=0)
            with os.fdopen(os.open(note, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
                json.dump(list(names), file)
        except OSError as error:
            raise full(self.root, error) from error
        try:
            yield
        finally:
            note.unlink(missing_ok=True)
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)

    def uses(self) -> list[CacheUse]:
        """Give the shards of each image size, the most recently used first."""
        by_folder: dict[str, list[os.stat_result]] = {}
        for path in self.root.glob(f"*/*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                by_folder.setdefault(path.parent.name, []).append(path.stat())
        found = [
            CacheUse(
                name,
                len(stats),
                sum(stat.st_size for stat in stats),
                min(stat.st_ctime for stat in stats),
                max(stat.st_mtime for stat in stats),
            )
            for name, stats in by_folder.items()
        ]
        return sorted(found, key=lambda use: -use.used_s)

    def clear(self) -> tuple[int, int]:
        """Delete all shards that no running training uses; give the numbers of deleted and of kept shards.

        Raises StorageError: the folder cannot be written.
        """
        used, deleted, kept = self._used_names(), 0, 0
        try:
            for path in [*self.root.glob(f"*/*{SUFFIX}"), *self.root.glob(f"*/*{TEMPORARY_SUFFIX}")]:
                if path.stem in used:
                    kept += 1
                    continue
                path.unlink(missing_ok=True)
                deleted += path.suffix == SUFFIX
            for folder in self.root.glob("*px-*"):
                with contextlib.suppress(OSError):  # the folder still has shards in use
                    folder.rmdir()
        except OSError as error:
            raise StorageError(f"cache_dir={self.root}: cannot be emptied: {error.strerror}") from error
        return deleted, kept

    def holding(self, keys: Collection[bytes]) -> dict[Path, int]:
        """Find the shards of all image sizes and decoders that hold photos, and how many each holds.

        A shard that cannot be read may hold any of them, and counts as holding one. No shard is changed.
        """
        wanted, found = set(keys), {}
        for path in sorted(self.root.glob(f"*/*{SUFFIX}")) if wanted else ():
            try:
                num = len(wanted.intersection(open_keys(path.parent, path.stem)))
            except StorageError:
                num = 1
            if num:
                found[path] = num
        return found

    def discard(self, shard: Path) -> None:
        """Delete one shard. Raises StorageError: a running training uses it, or it cannot be deleted."""
        if shard.stem in self._used_names():
            raise StorageError(f"delete {shard}: a running training uses it; try again when it has ended")
        try:
            shard.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"delete {shard}: {error.strerror}") from error

    def _shards(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self.root.glob(f"*/*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _used_names(self) -> set[str]:
        """Give the names of the shards that running trainings use; remove the files of ended trainings."""
        used: set[str] = set()
        for note in (self.root / USES).glob("*.json"):
            lock = FileLock(note.with_suffix(".lock"), mode=0o600)
            try:
                with lock.acquire(timeout=0):
                    note.unlink(missing_ok=True)
                Path(lock.lock_file).unlink(missing_ok=True)
            except Timeout:
                with contextlib.suppress(OSError, ValueError):
                    used.update(json.loads(note.read_text(encoding="ascii")))
            except OSError:  # of another user, or read-only: it stays
                continue
        return used


_REMEDY = "give another cache_dir, a higher cache_limit_gib, or cache=memory or cache=none"


def full(root: Path | str, error: OSError) -> StorageError:
    """Make the error for a shard that cannot be written."""
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or error
    return StorageError(f"cache_dir={root}: prepared photos cannot be written: {reason}; {_REMEDY}")


def _look(path: Path, wanted: set[bytes]) -> list[tuple[bytes, int]]:
    """Give the wanted keys in a shard and their rows; delete a damaged shard and give none."""
    try:
        keys = open_keys(path.parent, path.stem)
        found = [(key, row) for row, key in enumerate(keys) if key in wanted]
        if not found or is_intact(path):
            return found
    except (StorageError, OSError):
        pass
    with contextlib.suppress(OSError):
        path.unlink()
    return []


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
