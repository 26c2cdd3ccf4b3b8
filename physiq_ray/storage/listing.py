"""What lies in the sources: one table a source, listed side by side, whole or an error.

A source that cannot be listed keeps its error and the others go on. A listing is never a part of one:
"could not look" must not read as "nothing there". A large bucket is asked for its folders side by side,
which hides the wait for each page.
"""

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.errors import StorageError, UnreachableError
from physiq_ray.storage.address import Bucket, CustomSource, Folder, Source
from physiq_ray.storage.etag import file_etag
from physiq_ray.storage.kinds import is_photo
from physiq_ray.storage.objects import translate_os
from physiq_ray.storage.pages import PAGE, ObjectPage
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated

LISTING_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("bucket", pa.string()),
        ("key", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("modified", pa.timestamp("ms", tz="UTC")),
    ]
)

# Of one bucket, listed side by side by their prefixes: each costs a request of its own at least. Ranges of
# keys would need no folders, but S3 servers do not agree on the order of "a b/" and "a/".
MAX_FOLDERS = 256
PAGE_KEYS = 1000  # as many as S3 gives at once


@dataclass(frozen=True)
class Listing:
    """One source's photos as a table of LISTING_SCHEMA, or why there is none.

    num_others counts the objects without a photo's extension; they are left alone everywhere.
    """

    source: Source | CustomSource
    table: pa.Table | None = None
    num_others: int = 0
    error: StorageError | None = None


OnKeys = Callable[[Source, int], None]  # called from several threads with the keys of one more page


def list_sources(
    sources: Sequence[Source], *, on_keys: OnKeys = lambda _source, _num_keys: None
) -> tuple[Listing, ...]:
    """List all sources side by side, each to a table or an error of its own; buckets tell their progress."""
    with ThreadPoolExecutor(max_workers=min(16, len(sources))) as threads:
        listings = threads.map(lambda source: _list_source(source, on_keys), sources)
        return _with_content_hashes(tuple(listings))


def _list_source(source: Source, on_keys: OnKeys) -> Listing:
    try:
        pages = _list_bucket(source, on_keys) if isinstance(source, Bucket) else _list_folder(source)
        return Listing(
            source, pa.concat_tables(page.table for page in pages), sum(p.num_others for p in pages)
        )
    except StorageError as error:
        return Listing(source, error=error)
    except UnicodeEncodeError as error:  # Linux takes any bytes for a file's name
        return Listing(source, error=StorageError(f"list {source}: {error.object!r} is not UTF-8; rename it"))


def list_names(source: Source) -> tuple[str, ...]:
    """Give the names, sorted, of what lies right under a folder or prefix, of any kind but folders.

    None for a folder that does not exist, nor for a prefix without objects: S3 knows no other folders.
    Raises StorageError: it cannot be listed.
    """
    if isinstance(source, Bucket):
        pages = _request_pages(source, Prefix=source.prefix, Delimiter="/")
        keys = [key for page in pages for key in page.keys]
        return tuple(sorted(key.removeprefix(source.prefix) for key in keys if not key.endswith("/")))
    try:
        return tuple(sorted(path.name for path in source.path.iterdir() if path.is_file()))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise translate_os(error, f"list {source}") from error


@dataclass(frozen=True)
class _Page:
    table: pa.Table
    num_others: int


def _list_bucket(source: Bucket, on_keys: OnKeys) -> list[_Page]:
    """List a bucket, its folders side by side where they are few and it is large."""

    def to_page(page: ObjectPage) -> _Page:
        on_keys(source, len(page.keys))
        return _bucket_page(source, page)

    first = _request_page(source, Prefix=source.prefix)
    if not first.is_truncated:
        return [to_page(first)]
    top = _request_page(source, Prefix=source.prefix, Delimiter="/")
    folders = top.prefixes
    if top.is_truncated or not 1 < len(folders) <= MAX_FOLDERS:
        return [to_page(page) for page in _pages_from(first, source, Prefix=source.prefix)]

    def list_folder(prefix: str) -> list[_Page]:
        return [to_page(page) for page in _request_pages(source, Prefix=prefix)]

    with ThreadPoolExecutor(min(16, len(folders))) as threads:
        listed = list(threads.map(list_folder, folders))
    return [to_page(top), *(page for pages in listed for page in pages)]


def _request_pages(source: Bucket, **request: str) -> Iterator[ObjectPage]:
    return _pages_from(_request_page(source, **request), source, **request)


def _pages_from(page: ObjectPage, source: Bucket, **request: str) -> Iterator[ObjectPage]:
    """Give a page and those after it, to the one that says it is the last.

    Not by botocore's paginator: that takes an answer which says nothing of what follows for the last one,
    and a listing that broke off for a short one.
    """
    yield page
    while page.is_truncated and page.next_token:
        page = _request_page(source, **request, ContinuationToken=page.next_token)
        yield page


def _request_page(source: Bucket, **request: str) -> ObjectPage:
    """Ask for one page, again where the fault may pass; it says whether and where the listing goes on."""
    attempted, right = f"list {source}", f"s3:ListBucket on arn:aws:s3:::{source.name}"
    with translated(attempted, right=right):
        client = s3_client()  # what is wrong here stays wrong: not tried again

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
                f"{attempted}: the listing broke off: an answer came that does not say where it goes on; "
                "try again, and check that AWS_ENDPOINT_URL is that of an S3 server"
            )
        return page

    return retry(get)


def _bucket_page(source: Bucket, page: ObjectPage) -> _Page:
    return _to_page(source, page.keys, page.sizes, page.etags, page.modified)


def _list_folder(source: Folder) -> list[_Page]:
    def refuse(error: OSError) -> None:
        # os.walk passes over a folder it may not read: the listing would be short in silence.
        raise translate_os(error, f"list {error.filename}") from error

    try:
        is_file = stat.S_ISREG(source.path.stat().st_mode)
    except OSError as error:
        raise translate_os(error, f"list {source}") from error
    if is_file:
        raise StorageError(f"list {source}: not a folder")
    pages = [_to_page(source, [], [], [], [])]
    for parent, files in _walk(source.path, refuse):
        keys, sizes, etags, times = [], [], [], []
        for name in files:
            if name.startswith("."):
                continue
            path = Path(parent, name)
            try:
                status = path.stat()
            except FileNotFoundError:  # a link to nothing, or deleted since its folder was read
                continue
            except OSError as error:
                raise translate_os(error, f"list {path}") from error
            if stat.S_ISREG(status.st_mode):
                keys.append(path.relative_to(source.path).as_posix())
                sizes.append(status.st_size)
                etags.append(file_etag(status))
                times.append(datetime.fromtimestamp(status.st_mtime, UTC))
        pages.append(_to_page(source, keys, sizes, etags, times))
    return pages


def _walk(top: Path, refuse: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Give each folder that is not hidden, once, with its files; links to folders are followed.

    Real folders come before links: a photo keeps the path that it has without them, which may name its
    pose.
    """
    visited: set[Path] = set()
    starts = deque([str(top)])
    while starts:
        for parent, folders, files in os.walk(starts.popleft(), onerror=refuse):
            real = Path(parent).resolve()
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            kept = sorted(name for name in folders if not name.startswith("."))
            is_link = {name: Path(parent, name).is_symlink() for name in kept}
            starts.extend(f"{parent}/{name}" for name in kept if is_link[name])
            folders[:] = [name for name in kept if not is_link[name]]
            yield parent, files


def _to_page(
    source: Source,
    keys: Sequence[str],
    sizes: Sequence[int],
    etags: Sequence[str],
    modified: Sequence[datetime],
) -> _Page:
    """Keep a page's photos as a table of LISTING_SCHEMA; sizes in bytes, etags "" where there is none."""
    is_kept = [is_photo(key) for key in keys]
    base = f"s3://{source.name}/" if isinstance(source, Bucket) else f"{source.path.as_posix()}/"
    key_column = pa.array(keys, pa.string())
    table = pa.table(
        [
            pc.binary_join_element_wise(base, key_column, ""),
            pa.repeat(pa.scalar(source.name), len(keys)),
            key_column,
            pa.array(sizes, pa.int64()),
            pa.array(etags, pa.string()),
            pa.array(modified, pa.timestamp("ms", tz="UTC")),
        ],
        schema=LISTING_SCHEMA,
    )
    num_photos = sum(is_kept)
    if num_photos < len(keys):
        table = table.filter(pa.array(is_kept))
    # A key that ends in "/" is what a console shows as a folder: no object that somebody put there.
    num_folders = sum(key.endswith("/") for key in keys) if num_photos < len(keys) else 0
    return _Page(table, len(keys) - num_photos - num_folders)


def _with_content_hashes(listings: tuple[Listing, ...]) -> tuple[Listing, ...]:
    """Give files in folders the ETag S3 would: the MD5 of their content.

    Only files that share their size with another photo are read; no other can be a copy. Those keep the ETag
    of their time of change.
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
            with ThreadPoolExecutor(max_workers=8) as threads:
                read = iter(list(threads.map(_file_md5, uris.filter(shared).to_pylist())))
        except StorageError as error:
            return Listing(listing.source, error=error)
        listed = zip(listing.table["etag"].to_pylist(), shared.to_pylist(), strict=True)
        etags = [next(read) if is_shared else etag for etag, is_shared in listed]
        position = listing.table.schema.get_field_index("etag")
        table = listing.table.set_column(position, "etag", pa.array(etags, pa.string()))
        return Listing(listing.source, table, listing.num_others)

    return tuple(fill(listing) for listing in listings)


def _file_md5(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise translate_os(error, f"read {path}") from error
