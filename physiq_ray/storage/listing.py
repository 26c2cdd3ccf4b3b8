"""The photos of all sources: one complete table for each source, or an error.

Sources are listed at the same time. If one cannot be listed, its error is kept and the others continue. A
listing is never a part of one: "could not look" must not read as "nothing there". The folders of a large
bucket are listed at the same time, which hides the wait for each page.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import join_texts
from physiq_ray.errors import StorageError, UnreachableError
from physiq_ray.storage.address import Bucket, CustomSource, Source
from physiq_ray.storage.folders import FolderPage, hash_files, list_file_names, list_files
from physiq_ray.storage.kinds import is_photo
from physiq_ray.storage.pages import PAGE, ObjectPage
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated

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

# A bucket with more top-level folders is listed in one sequence, as each folder costs at least one request.
# Ranges of keys would need no folders, but S3 servers disagree on the order of "a b/" and "a/".
MAX_FOLDERS = 256
PAGE_KEYS = 1000  # the most that S3 returns in one page
LISTING_THREADS = 16  # sources, or folders of one bucket, that are listed at the same time


@dataclass(frozen=True)
class Listing:
    """One source's photos as a table of LISTING_SCHEMA, or the error that prevented it.

    num_others counts the objects without a photo's extension; no command touches them.
    """

    source: Source | CustomSource
    table: pa.Table | None = None
    num_others: int = 0
    error: StorageError | None = None


OnKeys = Callable[[Source, int], None]  # called from several threads, with the number of keys in a new page


def list_sources(
    sources: Sequence[Source], *, on_keys: OnKeys = lambda _source, _num_keys: None
) -> tuple[Listing, ...]:
    """List all sources at the same time, each to a table or an error; on_keys is called for buckets only."""
    with ThreadPoolExecutor(max_workers=min(LISTING_THREADS, len(sources))) as threads:
        listings = threads.map(lambda source: _list_source(source, on_keys), sources)
        return _with_content_hashes(tuple(listings))


def list_names(source: Source) -> tuple[str, ...]:
    """Give the sorted names of the objects directly under a prefix, or of the files directly in a folder.

    A missing folder and a prefix without objects have none: S3 does not know empty folders.
    Raises StorageError: it cannot be listed.
    """
    if not isinstance(source, Bucket):
        return list_file_names(source.path)
    pages = _request_pages(source, Prefix=source.prefix, Delimiter="/")
    keys = [key for page in pages for key in page.keys]
    return tuple(sorted(key.removeprefix(source.prefix) for key in keys if not key.endswith("/")))


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
    """List a bucket; if it is large and has few folders, list the folders at the same time."""

    def keep_photos(page: ObjectPage) -> _Part:
        on_keys(source, len(page.keys))
        return _keep_photos(source, page)

    first = _request_page(source, Prefix=source.prefix)
    if not first.is_truncated:
        return [keep_photos(first)]
    top = _request_page(source, Prefix=source.prefix, Delimiter="/")
    folders = top.prefixes
    if top.is_truncated or not 1 < len(folders) <= MAX_FOLDERS:
        return [keep_photos(page) for page in _pages_from(first, source, Prefix=source.prefix)]

    def list_folder(prefix: str) -> list[_Part]:
        return [keep_photos(page) for page in _request_pages(source, Prefix=prefix)]

    with ThreadPoolExecutor(min(LISTING_THREADS, len(folders))) as threads:
        listed = list(threads.map(list_folder, folders))
    return [keep_photos(top), *(part for parts in listed for part in parts)]


def _request_pages(source: Bucket, **request: str) -> Iterator[ObjectPage]:
    return _pages_from(_request_page(source, **request), source, **request)


def _pages_from(page: ObjectPage, source: Bucket, **request: str) -> Iterator[ObjectPage]:
    """Give a page and those after it, up to the page that says it is the last.

    botocore's paginator is not used: it takes a page without any word about the next one as the last, and so
    returns an interrupted listing as a short one.
    """
    yield page
    while page.is_truncated and page.next_token:
        page = _request_page(source, **request, ContinuationToken=page.next_token)
        yield page


def _request_page(source: Bucket, **request: str) -> ObjectPage:
    """Request one page, with retries; the page says whether the listing continues, and where."""
    attempted, right = f"list {source}", f"s3:ListBucket on arn:aws:s3:::{source.name}"
    with translated(attempted, right=right):
        client = s3_client()  # outside the retries: a wrong setting does not become right

    def get() -> ObjectPage:
        with translated(attempted, right=right):
            answer = client.list_objects_v2(Bucket=source.name, MaxKeys=PAGE_KEYS, **request)
        page: ObjectPage | None = answer.get(PAGE)
        if (
            page is None
            or page.is_truncated is None
            or (page.is_truncated and page.next_token in {None, request.get("ContinuationToken")})
        ):
            raise UnreachableError(
                f"{attempted}: the listing stopped part-way: an answer does not say where the listing "
                "continues; try again, and check that AWS_ENDPOINT_URL is that of an S3 server"
            )
        return page

    return retry(get)


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
