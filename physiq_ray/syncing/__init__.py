"""Download the photos of several buckets into a folder, and resume after an interruption.

The buckets' listings and the folder's files go in. The missing photos come out, each complete under its final
name or not there at all, and a report names every photo that failed. A photo that is there already costs a
`stat` and no request. No photo is deleted; with `--sorted`, a photo that changed its split or pose is moved.

run       one sync: list, plan, download, report
paths     key → path inside the folder, one to one
plan      listing × folder → which photos to download, to skip, or to refuse
sides     training and validation folders by the manifest's split
transfer  the downloads, several at a time, and what each error means for the others
partial   temporary folders for photos that are not complete yet, and which of them are abandoned
report    results as text and JSON
"""

from physiq_ray.syncing.report import (
    BucketReport,
    SyncReport,
    describe_problems,
    describe_sync,
    sync_as_dict,
)
from physiq_ray.syncing.run import sync

__all__ = ["BucketReport", "SyncReport", "describe_problems", "describe_sync", "sync", "sync_as_dict"]
