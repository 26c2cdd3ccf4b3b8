"""Download the photos of several buckets into a folder, and go on where it was broken off.

In come the buckets' listings and what lies in the folder; out come the missing photos, each whole under its
final name or not there at all, and a report of every one that is not. What is there already costs a `stat`
and no request. No photo is ever deleted, but one that changed its side (`--sorted`) leaves the old one.

paths     key → path inside the folder, one to one
plan      listing × folder → what to download, what to skip, what to refuse
sides     training and validation folders by the manifest's split
partial   where files are until they are whole
transfer  the downloads, side by side
run       all of it
report    what came of it
"""

from physiq_ray.sync.report import BucketReport, SyncReport
from physiq_ray.sync.run import sync

__all__ = ["BucketReport", "SyncReport", "sync"]
