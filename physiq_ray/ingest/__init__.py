"""Manifest → decoded photos, read from the buckets with Ray Data.

`open_splits` decides where the photos of an epoch come from. Prepared photos are decoded once, before the
first epoch, into Ray's object store or into shards on disk; each needs size² · 3 bytes (150 kB at 224 px),
and batches copy them in any order. Streamed photos are fetched and decoded again in each epoch; this is for
data that fits into no cache. Both give the same batches for the same rows. An unreadable photo keeps its row,
so that every worker knows its number of steps in advance; its `Batch` names it for quarantine.jsonl.

batches   the form of a batch, and what a split of photos must offer
checks    read all photos for an audit, and keep them where a training will look for them
choose    whether photos are prepared in memory, prepared on disk, or streamed, and the reason
dataset   how many photos a Ray Data task decodes, and which resources it requests
hashes    the perceptual hashes of photos, for groups of near-duplicates
isolated  read the photos of a task that was lost before; a photo may have crashed it
kept      prepare photos in the object store or in shards on disk, and read them in any order
reading   how a task fetches and decodes its photos ahead; no Ray
streamed  decode photos in each epoch, with one pipeline for all workers
tasks     read photos in tasks that hash them, add them to the cache on disk, and give no pixels
"""

from physiq_ray.ingest.batches import Batch, Photos
from physiq_ray.ingest.checks import checking
from physiq_ray.ingest.choose import CacheSettings, choose_cache, in_use, open_photos, open_splits
from physiq_ray.ingest.dataset import build_dataset
from physiq_ray.ingest.hashes import hashing
from physiq_ray.ingest.kept import KeptPhotos, keep_on_disk
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
    "checking",
    "choose_cache",
    "hashing",
    "in_use",
    "keep_on_disk",
    "open_photos",
    "open_splits",
    "shared_batches",
    "start_stream",
]
