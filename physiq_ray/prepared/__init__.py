"""Prepared photos on disk: decoded once, kept for the next run. No Ray.

shards  the file format: one Arrow file of equally large images, named by the checksum of its bytes
folder  a folder of shards: find photos, add shards, hold what a run uses, make room, clear
shared  the same shards under an s3:// prefix, which nodes copy into their own folders
cache   which of the two settings describe
"""

from physiq_ray.prepared.cache import Cache, open_cache
from physiq_ray.prepared.folder import CacheFolder, CacheUse, Found, default_folder
from physiq_ray.prepared.shards import open_images, photo_keys
from physiq_ray.prepared.shared import SharedCache

__all__ = [
    "Cache",
    "CacheFolder",
    "CacheUse",
    "Found",
    "SharedCache",
    "default_folder",
    "open_cache",
    "open_images",
    "photo_keys",
]
