"""Walk through a bucket page by page, and know whether the walk saw all of it.

The folders of a large bucket are listed at the same time, which hides the wait for each page. Arrow is not
imported, because that takes longer than the listing of a small bucket: `listing` makes tables of the pages.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from physiq_ray.errors import StorageError, UnreachableError
from physiq_ray.storage.address import Bucket, Source
from physiq_ray.storage.folders import list_file_names
from physiq_ray.storage.kinds import is_photo
from physiq_ray.storage.pages import PAGE, ObjectPage
from physiq_ray.storage.retry import retry
from physiq_ray.storage.s3 import s3_client, translated

# A bucket with more top-level folders is listed in one sequence, as each folder costs at least one request.
# Ranges of keys would need no folders, but S3 servers disagree on the order of "a b/" and "a/".
MAX_FOLDERS = 256
PAGE_KEYS = 1000  # the most that S3 returns in one page
LISTING_THREADS = 16  # sources, or folders of one bucket, that are listed at the same time

Part = TypeVar("Part")
OnKeys = Callable[[Source, int], None]  # called from several threads, with the number of keys in a new page


class StoredPhoto(NamedTuple):
    """One photo of a listing; size in bytes, time of the last change in whole seconds since 1970."""

    key: str
    size: int
    etag: str
    modified_s: int


@dataclass(frozen=True)
class PhotoList:
    """One bucket's photos as plain values, or the error that prevented their listing."""

    source: Bucket
    photos: Sequence[StoredPhoto] = ()
    error: StorageError | None = None

    @property
    def num_photos(self) -> int:
        """The number of photos; 0 if they could not be listed."""
        return len(self.photos)


def list_stored(sources: Sequence[Bucket], on_keys: OnKeys) -> tuple[PhotoList, ...]:
    """List buckets at the same time, as `listing.list_sources` does, without its tables.

    A photo takes four times the memory of a table's row.
    """

    def list_one(source: Bucket) -> PhotoList:
        def keep(page: ObjectPage) -> list[StoredPhoto]:
            on_keys(source, len(page.keys))
            rows = zip(page.keys, page.sizes, page.etags, page.modified, strict=True)
            return [
                StoredPhoto(key, size, etag, int(modified.timestamp()))
                for key, size, etag, modified in rows
                if is_photo(key)
            ]

        try:
            return PhotoList(source, [photo for photos in walk_bucket(source, keep) for photo in photos])
        except StorageError as error:
            return PhotoList(source, error=error)

    with ThreadPoolExecutor(min(LISTING_THREADS, len(sources))) as threads:
        return tuple(threads.map(list_one, sources))


def walk_bucket(source: Bucket, keep: Callable[[ObjectPage], Part]) -> list[Part]:
    """Give what `keep` makes of each page of a bucket; it is called from several threads.

    If the bucket is large and has few folders, these are listed at the same time.
    Raises StorageError: it cannot be listed, or a listing stops part-way.
    """
    first = _request_page(source, Prefix=source.prefix)
    if not first.is_truncated:
        return [keep(first)]
    top = _request_page(source, Prefix=source.prefix, Delimiter="/")
    folders = top.prefixes
    if top.is_truncated or not 1 < len(folders) <= MAX_FOLDERS:
        return [keep(page) for page in _pages_from(first, source, Prefix=source.prefix)]

    def list_folder(prefix: str) -> list[Part]:
        return [keep(page) for page in _request_pages(source, Prefix=prefix)]

    with ThreadPoolExecutor(min(LISTING_THREADS, len(folders))) as threads:
        listed = list(threads.map(list_folder, folders))
    return [keep(top), *(part for parts in listed for part in parts)]


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
