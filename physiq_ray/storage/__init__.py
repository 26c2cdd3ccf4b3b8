"""Where photos lie: S3 buckets and folders, listed, read and written the same way.

access    unsigned, at one's own cost, past a proxy: how buckets are asked
address   s3://bucket/key and paths: parse, join, split
kinds     which objects are photos, and which of these are not read here
listing   what is there, as Arrow tables
pages     a bucket's listing from S3's XML
objects   read and write one object whole
etag      which version the listing saw
custom    photos from anywhere else: a source that the caller writes
together  several objects of one making
download  one object into a file, compared with its ETag
retry     try again where a fault may pass
s3        the clients, and their errors in our words
refusal   what S3's refusal means: a missing right, or a fault of one object
"""

from physiq_ray.storage.access import Access
from physiq_ray.storage.address import (
    Bucket,
    CustomSource,
    Folder,
    Source,
    absolute_uri,
    join_uri,
    parse_source,
    parse_sources,
    split_uri,
)
from physiq_ray.storage.custom import PhotoSource, ZipPhotos, list_custom
from physiq_ray.storage.kinds import REMEDY, are_undecodable, is_photo
from physiq_ray.storage.listing import (
    LISTING_SCHEMA,
    Listing,
    list_names,
    list_sources,
)
from physiq_ray.storage.objects import create_bytes, read_bytes, write_bytes, write_file
from physiq_ray.storage.s3 import current_access, follow_settings, forget_clients, use_access
from physiq_ray.storage.together import written_together

__all__ = [
    "LISTING_SCHEMA",
    "REMEDY",
    "Access",
    "Bucket",
    "CustomSource",
    "Folder",
    "Listing",
    "PhotoSource",
    "Source",
    "ZipPhotos",
    "absolute_uri",
    "are_undecodable",
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
