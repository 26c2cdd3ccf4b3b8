"""The photos of all sources: one complete table for each source, or an error.

Sources are listed at the same time. If one cannot be listed, its error is kept and the others continue. A
listing is never a part of one: "could not look" must not read as "nothing there".
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import join_texts
from physiq_ray.errors import StorageError
from physiq_ray.storage.address import Bucket, CustomSource, Source
from physiq_ray.storage.folders import FolderPage, hash_files, list_files
from physiq_ray.storage.kinds import is_photo
from physiq_ray.storage.pages import ObjectPage
from physiq_ray.storage.walk import LISTING_THREADS, OnKeys, walk_bucket

LISTING_SCHEMA = pa.schema(
    [
        ("uri", pa.large_string()),
        ("bucket", pa.large_string()),
        ("key", pa.large_string()),
        ("size", pa.int64()),
        ("etag", pa.large_string()),
        ("modified", pa.timestamp("ms", tz="UTC")),
    ]
)


@dataclass(frozen=True)
class Listing:
    """One source's photos as a table of LISTING_SCHEMA, or the error that prevented it.

    num_others counts the objects without a photo's extension; no command touches them.
    """

    source: Source | CustomSource
    table: pa.Table | None = None
    num_others: int = 0
    error: StorageError | None = None

    @property
    def num_photos(self) -> int:
        """The number of photos; 0 if they could not be listed."""
        return 0 if self.table is None else self.table.num_rows


def list_sources(
    sources: Sequence[Source], *, on_keys: OnKeys = lambda _source, _num_keys: None
) -> tuple[Listing, ...]:
    """List all sources at the same time, each to a table or an error; on_keys is called for buckets only."""
    with ThreadPoolExecutor(max_workers=min(LISTING_THREADS, len(sources))) as threads:
        listings = threads.map(lambda source: _list_source(source, on_keys), sources)
        return _with_content_hashes(tuple(listings))


@dataclass(frozen=True)
class _Part:
    """The photos of one page, and the number of its other objects."""

    table: pa.Table
    num_others: int


def _list_source(source: Source, on_keys: OnKeys) -> Listing:
    try:
        if isinstance(source, Bucket):
            parts = _list_bucket(source, on_keys)
        else:
            pages = (FolderPage(), *list_files(source.path))
            parts = [_keep_photos(source, page) for page in pages]
        # One chunk for each page would make each later step on the table slow.
        table = pa.concat_tables(part.table for part in parts).combine_chunks()
        return Listing(source, table, sum(part.num_others for part in parts))
    except StorageError as error:
        return Listing(source, error=error)
    except UnicodeEncodeError as error:  # Linux allows any bytes in a file's name
        return Listing(source, error=StorageError(f"list {source}: {error.object!r} is not UTF-8; rename it"))


def _list_bucket(source: Bucket, on_keys: OnKeys) -> list[_Part]:
    def keep(page: ObjectPage) -> _Part:
        on_keys(source, len(page.keys))
        return _keep_photos(source, page)

    return walk_bucket(source, keep)


def _keep_photos(source: Source, page: ObjectPage | FolderPage) -> _Part:
    """Keep a page's photos as a table of LISTING_SCHEMA."""
    keys = page.keys
    is_kept = [is_photo(key) for key in keys]
    base = f"s3://{source.name}/" if isinstance(source, Bucket) else f"{source.path.as_posix()}/"
    key_column = pa.array(keys, pa.large_string())
    table = pa.table(
        [
            join_texts(base, key_column),
            pa.repeat(pa.scalar(source.name, pa.large_string()), len(keys)),
            key_column,
            pa.array(page.sizes, pa.int64()),
            pa.array(page.etags, pa.large_string()),
            pa.array(page.modified, pa.timestamp("ms", tz="UTC")),
        ],
        schema=LISTING_SCHEMA,
    )
    num_photos = sum(is_kept)
    if num_photos < len(keys):
        table = table.filter(pa.array(is_kept))
    # A key that ends in "/" is what a console shows as a folder, and not an object that somebody uploaded.
    num_folders = sum(key.endswith("/") for key in keys) if num_photos < len(keys) else 0
    return _Part(table, len(keys) - num_photos - num_folders)


def _with_content_hashes(listings: tuple[Listing, ...]) -> tuple[Listing, ...]:
    """Give files in folders the ETag that S3 would give them: the MD5 of their content.

    Only files of the same size as another photo are read, because no other can be a copy. The others keep
    the ETag that is made of their time of change.
    """
    tables = [listing.table for listing in listings if listing.table is not None]
    if not tables or all(isinstance(listing.source, Bucket) for listing in listings):
        return listings
    sizes, counts = np.unique(
        np.concatenate([table["size"].to_numpy() for table in tables]), return_counts=True
    )
    shared_sizes = pa.array(sizes[counts > 1])

    def fill(listing: Listing) -> Listing:
        if listing.table is None or isinstance(listing.source, Bucket):
            return listing
        uris, shared = listing.table["uri"], pc.is_in(listing.table["size"], shared_sizes)
        try:
            hashes = iter(hash_files(uris.filter(shared).to_pylist()))
        except StorageError as error:
            return Listing(listing.source, error=error)
        listed = zip(listing.table["etag"].to_pylist(), shared.to_pylist(), strict=True)
        etags = [next(hashes) if is_shared else etag for etag, is_shared in listed]
        position = listing.table.schema.get_field_index("etag")
        table = listing.table.set_column(position, "etag", pa.array(etags, pa.large_string()))
        return Listing(listing.source, table, listing.num_others)

    return tuple(fill(listing) for listing in listings)
