"""Prepared photos on disk: they are decoded once and kept for later runs. No Ray.

cache   whether cache_dir means a folder of this machine or an s3:// prefix
folder  a folder of shards: find photos, add shards, protect the shards in use, free space, clear
shards  the file format: an Arrow file of images of one size, named by the checksum of its bytes
shared  the same shards under an s3:// prefix; nodes copy them into their own folders
"""

from physiq_ray.prepared.cache import Cache, open_cache
from physiq_ray.prepared.folder import CacheFolder, Found
from physiq_ray.prepared.shards import open_images, photo_keys
from physiq_ray.prepared.shared import SharedCache

__all__ = [
    "Cache",
    "CacheFolder",
    "Found",
    "SharedCache",
    "open_cache",
    "open_images",
    "photo_keys",
]
