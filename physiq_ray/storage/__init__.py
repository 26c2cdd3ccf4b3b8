"""S3 buckets and local folders: list, read, write, copy and delete their objects.

access    which buckets get unsigned requests, and for which the requester pays
address   s3://bucket/key and paths: parse, join, split
copies    copy an object only if it is unchanged, and never over another one
custom    sources that a Python caller writes, and ZIP files
deletion  delete objects only if they are still what was listed
download  one object into a file, compared with its ETag
etag      is a photo still the version that was listed?
fetch     read one object with obstore, or with boto3 if obstore cannot
folders   which files a local folder contains
history   all versions of all objects below an address: list, read, delete, replace
kinds     which objects are photos, and which of these cannot be decoded here
listing   the photos of all sources as tables; a partial listing is an error
objects   read and write one object or file, whole
pages     a page of a bucket's listing from S3's XML; shows whether it is the last
remote    read and write one object whole: the S3 half of `objects`
refusal   what S3's refusal means: a missing right, or a fault of one object
retry     which errors are retried, how often, and after which wait
s3        the clients, and the translation of their errors
tags      read and write the tags of an object
together  write several files that belong together
update    change a file that several processes change
versions  what S3 holds under one key now, and its older versions
walk      the pages of a bucket's listing; shows whether all of it was seen

A name is imported from its file when it is used first: boto3 and Arrow take 0.4 s, which a program that reads
a few local files need not wait for.
"""

from typing import TYPE_CHECKING

from physiq_ray.lazy import import_when_used

if TYPE_CHECKING:
    from physiq_ray.storage.access import Access
    from physiq_ray.storage.address import (
        Bucket,
        Folder,
        Source,
        absolute_uri,
        join_uri,
        parse_source,
        parse_sources,
        split_uri,
    )
    from physiq_ray.storage.custom import PhotoSource, ZipPhotos, list_custom
    from physiq_ray.storage.kinds import REMEDY, are_undecodable, are_waiting, is_photo
    from physiq_ray.storage.listing import LISTING_SCHEMA, Listing, list_sources
    from physiq_ray.storage.objects import create_bytes, read_bytes, write_bytes, write_file
    from physiq_ray.storage.s3 import current_access, follow_settings, forget_clients, use_access
    from physiq_ray.storage.together import written_together
    from physiq_ray.storage.walk import list_names

__all__ = [
    "LISTING_SCHEMA",
    "REMEDY",
    "Access",
    "Bucket",
    "Folder",
    "Listing",
    "PhotoSource",
    "Source",
    "ZipPhotos",
    "absolute_uri",
    "are_undecodable",
    "are_waiting",
    "create_bytes",
    "current_access",
    "follow_settings",
    "forget_clients",
    "is_photo",
    "join_uri",
    "list_custom",
    "list_names",
    "list_sources",
    "parse_source",
    "parse_sources",
    "read_bytes",
    "split_uri",
    "use_access",
    "write_bytes",
    "write_file",
    "written_together",
]

__getattr__ = import_when_used(
    __name__,
    {
        "access": ("Access",),
        "address": (
            "Bucket",
            "Folder",
            "Source",
            "absolute_uri",
            "join_uri",
            "parse_source",
            "parse_sources",
            "split_uri",
        ),
        "custom": ("PhotoSource", "ZipPhotos", "list_custom"),
        "kinds": ("REMEDY", "are_undecodable", "are_waiting", "is_photo"),
        "listing": ("LISTING_SCHEMA", "Listing", "list_sources"),
        "objects": ("create_bytes", "read_bytes", "write_bytes", "write_file"),
        "s3": ("current_access", "follow_settings", "forget_clients", "use_access"),
        "together": ("written_together",),
        "walk": ("list_names",),
    },
)
