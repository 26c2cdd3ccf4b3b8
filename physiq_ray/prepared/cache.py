"""Open the cache of the settings: a folder of this machine, or an s3:// prefix with a folder of copies."""

from pathlib import Path

from physiq_ray.prepared.folder import CacheFolder, default_folder
from physiq_ray.prepared.shared import SharedCache

Cache = CacheFolder | SharedCache


def open_cache(cache_dir: str | None, limit_gib: float) -> Cache:
    """Give the cache at cache_dir, or in the default folder if it is None; nothing is created or read."""
    limit_bytes = int(limit_gib * 2**30)
    if cache_dir is not None and cache_dir.startswith("s3://"):
        return SharedCache(cache_dir, CacheFolder(default_folder(), limit_bytes))
    root = Path(cache_dir).expanduser().absolute() if cache_dir else default_folder()
    return CacheFolder(root, limit_bytes)
