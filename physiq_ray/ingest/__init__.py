"""Manifest → decoded photos, by Ray Data, straight from the buckets.

`open_splits` decides where an epoch's photos come from. Kept: one pipeline decodes them before the first
epoch, size² · 3 bytes a photo (150 kB at 224 px), into Ray's object store or into shards on disk; each batch
is gathered from there in any order. Streamed: fetched and decoded again in each epoch, for data larger than
any cache. All give the same batches for the same rows. A photo that cannot be read keeps its row, so that
every worker knows its number of steps beforehand, and is set aside in its `Batch` for quarantine.jsonl.

reading   what a task does with its photos: fetch ahead, decode ahead; no Ray
dataset   the tasks, described for Ray Data
batches   what training is given
kept      photos in the object store or in shards on disk, read in any order
streamed  photos decoded in each epoch, by one pipeline for all workers
choose    which of these, and why
"""

from physiq_ray.ingest.batches import Batch, Photos
from physiq_ray.ingest.choose import CacheSettings, choose_cache, in_use, open_photos, open_splits
from physiq_ray.ingest.dataset import build_dataset
from physiq_ray.ingest.kept import KeptPhotos, keep_in_memory, keep_on_disk
from physiq_ray.ingest.reading import PhotoReader, StoredPhotos
from physiq_ray.ingest.streamed import Share, StreamedPhotos, shared_batches, start_stream

__all__ = [
    "Batch",
    "CacheSettings",
    "KeptPhotos",
    "PhotoReader",
    "Photos",
    "Share",
    "StoredPhotos",
    "StreamedPhotos",
    "build_dataset",
    "choose_cache",
    "in_use",
    "keep_in_memory",
    "keep_on_disk",
    "open_photos",
    "open_splits",
    "shared_batches",
    "start_stream",
]
