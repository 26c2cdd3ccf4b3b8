"""Shards under an s3:// prefix: each node copies the shards it needs into its own folder.

    <prefix>/<side>px-<decoder>/<name>.arrow    a shard
    <prefix>/<side>px-<decoder>/<name>.keys     the keys of its photos, 16 bytes each, written after it

Photos are found by the .keys files, without reading shards; a shard without keys is an interrupted upload.
The prefix has no size limit: let a lifecycle rule of the bucket delete old shards.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from physiq_ray.errors import StorageError
from physiq_ray.images import UInt8Array, decoder_version
from physiq_ray.prepared.folder import CacheFolder, Found, full
from physiq_ray.prepared.shards import KEY_BYTES, SUFFIX, TEMPORARY_SUFFIX, checksum, shard_path
from physiq_ray.storage import join_uri, list_names, parse_source, read_bytes, write_bytes, write_file

KEYS_SUFFIX = ".keys"
KEYS_THREADS = 16
COPY_LOCK = "copies.lock"


@dataclass(frozen=True)
class SharedCache:
    """The shards under an s3:// prefix; copies: the folder on each node for its copies."""

    prefix: str
    copies: CacheFolder

    def find(self, keys: Iterable[bytes], image_size: int) -> Found:
        """Find photos by the .keys files; no shard is read.

        Raises StorageError: the prefix cannot be listed or read.
        """
        wanted, base = set(keys), self._base(image_size)
        listed = set(list_names(parse_source(base)))
        paths = sorted(name.removesuffix(KEYS_SUFFIX) for name in listed if name.endswith(KEYS_SUFFIX))
        names: list[str] = []
        places: dict[bytes, tuple[int, int]] = {}
        paths = [name for name in paths if f"{name}{SUFFIX}" in listed]
        with ThreadPoolExecutor(KEYS_THREADS) as threads:
            read = threads.map(lambda name: read_bytes(join_uri(base, f"{name}{KEYS_SUFFIX}")), paths)
            for name, data in zip(paths, read, strict=True):
                in_shard = enumerate(split_keys(data))
                new = [(key, row) for row, key in in_shard if key in wanted and key not in places]
                if new:
                    places.update((key, (len(names), row)) for key, row in new)
                    names.append(name)
        return Found(tuple(names), places)

    def add(self, keys: Sequence[bytes], images: UInt8Array, image_size: int) -> str:
        """Write a shard on this node, then under the prefix, then its keys; give its name.

        Raises StorageError: no space on this node, or no permission to write under the prefix.
        """
        name = self.copies.add(keys, images, image_size)
        base = self._base(image_size)
        write_file(shard_path(self.copies.folder(image_size), name), join_uri(base, f"{name}{SUFFIX}"))
        write_bytes(b"".join(keys), join_uri(base, f"{name}{KEYS_SUFFIX}"))
        return name

    def fetch(self, names: Sequence[str], image_size: int) -> Path:
        """Copy the shards that are not in this node's folder yet; give the folder.

        If several processes of a node call this at once, one copies and the others wait.
        Raises StorageError: a shard cannot be read, is damaged, or does not fit. After that, a damaged shard
        counts as missing.
        """
        folder = self.copies.make(image_size)
        with FileLock(folder / COPY_LOCK, mode=0o600):
            for name in names:
                path = shard_path(folder, name)
                if not path.exists():
                    self._copy(name, path, image_size)
        return folder

    def using(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Protect the copies on this node from deletion inside the block."""
        return self.copies.using(names)

    def _copy(self, name: str, path: Path, image_size: int) -> None:
        base = self._base(image_size)
        data = read_bytes(join_uri(base, f"{name}{SUFFIX}"))
        self.copies.make_room(len(data))
        partial = path.with_suffix(TEMPORARY_SUFFIX)
        try:
            partial.touch(0o600)
            partial.write_bytes(data)
            if checksum(partial) != name:
                write_bytes(b"", join_uri(base, f"{name}{KEYS_SUFFIX}"))  # so that no photo is found in it
                raise StorageError(
                    f"prepared photos {join_uri(base, name)}{SUFFIX} are damaged; run the same command "
                    "again to prepare them again"
                )
            partial.replace(path)
        except OSError as error:
            raise full(self.copies.root, error) from error
        finally:
            partial.unlink(missing_ok=True)

    def _base(self, image_size: int) -> str:
        return join_uri(self.prefix, f"{image_size}px-{decoder_version()}")


def split_keys(data: bytes) -> list[bytes]:
    """Read a .keys file: the keys of the photos in a shard, by row."""
    return [data[at : at + KEY_BYTES] for at in range(0, len(data), KEY_BYTES)]
